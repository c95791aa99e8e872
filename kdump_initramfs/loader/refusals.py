"""What a failed load means: the words of kexec(8) and the errno of the system call, each with a remedy.

Errnos: kexec_load(2), and where the kernel gives them: kernel/kexec.c, kernel/kexec_file.c, crypto/asymmetric_keys/
verify_pefile.c, kernel/module_signature.c. Words: kexec/kexec.c and kexec/arch of kexec-tools.
"""

import errno
import os
import re
from collections.abc import Sequence

from msgspec import Struct


class Refusal(Struct, frozen=True, kw_only=True):
    # One sentence without a stop at its end.
    meaning: str
    remedy: str
    # The other system call may do. Never true where a signature, or a policy, was the reason.
    tries_other: bool = False


_SMALLER = "enlarge crashkernel= in the boot loader and reboot, or build a smaller image"
_SIGN = (
    "load a kernel that is signed by a key that this kernel trusts: the distribution's own, or one whose key is in MOK"
)
_AGAIN = "run: kdump-initramfs build, then load again"

# By the name of the errno.
ERRNOS = {
    "EPERM": Refusal(
        meaning="the kernel lets nothing be loaded: kernel.kexec_load_disabled is 1, kernel.kexec_load_limit_panic is "
        "used up, or it is locked down and the file is not signed",
        remedy="look at both with sysctl, and at /sys/kernel/security/lockdown; a limit is lifted by a reboot alone",
    ),
    "EACCES": Refusal(
        meaning="a security module (SELinux, IMA) does not let this kernel or image be loaded",
        remedy="look for a denial in the kernel's log, and allow it or relabel the files",
    ),
    "ENOMEM": Refusal(meaning="kernel and image do not fit into the reserved memory", remedy=_SMALLER),
    "EADDRNOTAVAIL": Refusal(
        meaning="kernel and image do not fit into the reserved memory, or it has no part where they could lie",
        remedy=_SMALLER,
        tries_other=True,
    ),
    "ENOSPC": Refusal(meaning="the device tree of the capture kernel has no room for more", remedy=_SMALLER),
    "EBUSY": Refusal(meaning="another load is going on, or the system is about to crash", remedy="try again"),
    "EINVAL": Refusal(
        meaning="the kernel did not accept what it was given: flags that it does not know, an empty file, or a command "
        "line that is too long for it",
        remedy="update kexec-tools to the age of the kernel, and see the kernel's log",
        tries_other=True,
    ),
    "ENOEXEC": Refusal(
        meaning="the running kernel does not know the format of this kernel image",
        remedy="name an image of another format in kernel.image: bzImage, Image or vmlinux",
        tries_other=True,
    ),
    "ENOTSUP": Refusal(
        meaning="the running kernel does not know this format, or this kind of signature",
        remedy="name another image in kernel.image",
        tries_other=True,
    ),
    "ENOSYS": Refusal(
        meaning="the running kernel does not have this system call",
        remedy='set kexec.syscall = "auto"; a kernel without CONFIG_KEXEC and CONFIG_KEXEC_FILE cannot do kdump',
        tries_other=True,
    ),
    "E2BIG": Refusal(meaning="the kernel or the image is larger than the kernel reads", remedy="build a smaller image"),
    "EFBIG": Refusal(meaning="the kernel or the image is larger than the kernel reads", remedy="build a smaller image"),
    "EMFILE": Refusal(meaning="too many files are open", remedy="try again"),
    "EIO": Refusal(meaning="the kernel or the image could not be read", remedy="check the disk; see the kernel's log"),
    "ETXTBSY": Refusal(meaning="somebody is writing to the kernel or the image", remedy="wait for it, then try again"),
    "EBADF": Refusal(meaning="kexec could not open the kernel or the image", remedy=_AGAIN),
    "EFAULT": Refusal(meaning="kexec gave the kernel a wrong address", remedy="update kexec-tools"),
    "EOVERFLOW": Refusal(meaning="the image is too large for this kernel", remedy=_SMALLER),
    "EKEYREJECTED": Refusal(meaning="the signature of the kernel image is not accepted", remedy=_SIGN),
    "ENOKEY": Refusal(meaning="the kernel image is signed by a key that this kernel does not have", remedy=_SIGN),
    "EKEYEXPIRED": Refusal(meaning="the key that signed the kernel image has expired", remedy=_SIGN),
    "EKEYREVOKED": Refusal(meaning="the key that signed the kernel image was revoked", remedy=_SIGN),
    "ENODATA": Refusal(meaning="the kernel image is not signed", remedy=_SIGN),
    "ENOPKG": Refusal(
        meaning="the kernel image is signed with a digest or a cipher that this kernel does not have", remedy=_SIGN
    ),
    "EBADMSG": Refusal(meaning="the signature of the kernel image is damaged", remedy=f"reinstall it, or {_SIGN}"),
    "ELIBBAD": Refusal(
        meaning="the kernel image is not a PE file that could carry a signature, or a damaged one", remedy=_SIGN
    ),
    "EMSGSIZE": Refusal(meaning="the signature of the kernel image has a wrong size", remedy=_SIGN),
}

# In place of EPERM, where the kernel says that it is locked down: it gives no other errno then for a signature that is
# missing, or made with a key that it does not have (kimage_validate_signature(), kernel/kexec_file.c).
LOCKED_DOWN = Refusal(
    meaning="the kernel is locked down, and does not accept the signature of the kernel image, or finds none",
    remedy=_SIGN,
)

# What kexec says before it has called the kernel at all; what is loaded still is.
WORDS = {
    "Cannot determine the file type": Refusal(
        meaning="this kexec does not know the format of the kernel image",
        remedy="update kexec-tools, or name an image of another format in kernel.image",
    ),
    "BzImage is not relocatable": Refusal(
        meaning="the kernel image runs at a fixed address, and not in reserved memory",
        remedy="use a kernel with CONFIG_RELOCATABLE=y as the capture kernel",
    ),
    "Could not find a free area of memory": Refusal(
        meaning="kernel and image do not fit into the reserved memory", remedy=_SMALLER
    ),
    "locate_hole failed": Refusal(meaning="kernel and image do not fit into the reserved memory", remedy=_SMALLER),
    "Invalid memory segment": Refusal(
        meaning="the kernel wants to lie outside of the reserved memory",
        remedy="use a kernel with CONFIG_RELOCATABLE=y, or reserve the memory where CONFIG_PHYSICAL_START wants it",
    ),
    "Memory for crashkernel is not reserved": Refusal(
        meaning="no memory is reserved for a capture kernel",
        remedy="add crashkernel=256M to the kernel's command line in the boot loader, and reboot",
    ),
    "No crash kernel segment found": Refusal(
        meaning="no memory is reserved for a capture kernel",
        remedy="add crashkernel=256M to the kernel's command line in the boot loader, and reboot",
    ),
    "syscall kexec_file_load not available": Refusal(
        meaning="the running kernel does not have kexec_file_load", remedy='set kexec.syscall = "load"'
    ),
    "Command line overflow": Refusal(
        meaning="the command line is longer than the capture kernel takes",
        remedy="remove parameters that it does not need with kernel.remove",
    ),
    "unrecognized option": Refusal(
        meaning="this kexec does not know one of the options",
        remedy="update kexec-tools, or mend kexec.extra_args",
    ),
    "ELF core (kcore) parse failed": Refusal(
        meaning="kexec_load needs /proc/kcore, which cannot be read",
        remedy='use a kernel with CONFIG_PROC_KCORE=y, or set kexec.syscall = "file"',
    ),
    "Could not get memory layout": Refusal(
        meaning="/proc/iomem does not tell the layout of the memory", remedy="run as root, and not in a container"
    ),
    "No device tree available": Refusal(
        meaning="neither /sys/firmware/fdt nor /proc/device-tree is there",
        remedy="mount /sys, or name a device tree with kexec.extra_args = ['--dtb=FILE']",
    ),
    "Cannot open": Refusal(meaning="a file that kexec needs could not be opened", remedy=_AGAIN),
}
UNKNOWN = Refusal(
    meaning="kexec failed for a reason that is not known here",
    remedy="`kdump-initramfs load --print` shows the command; run it with -d added to see more",
)

_FAILED = re.compile(r"^(?:kexec_load|kexec_file_load|kexec_file_load\(unload\)|kexec unload) failed:? *:? *(.+)$")


def explain(said: Sequence[str], *, is_locked_down: bool = False) -> Refusal:
    """Return what the lines that kexec wrote mean."""
    name = errno_of(said)
    if name == "EPERM" and is_locked_down:
        return LOCKED_DOWN
    if name:
        return ERRNOS.get(name, UNKNOWN)
    text = "\n".join(said)
    return next((refusal for words, refusal in WORDS.items() if words in text), UNKNOWN)


def errno_of(said: Sequence[str]) -> str:
    """Return the name of the errno that the last system call ended with; "" where kexec names none."""
    names = {os.strerror(number): name for number, name in errno.errorcode.items()}
    # kexec_file_unload() has the reason on a line of its own.
    lines = "\n".join(said).replace(" failed\n:", " failed:").splitlines()
    matches = (_FAILED.match(line.strip()) for line in reversed(lines))
    return next((names.get(match[1], "") for match in matches if match), "")


def may_try_other(said: Sequence[str]) -> bool:
    """Tell whether the other system call may do what this one did not; after a refused signature, never."""
    return ERRNOS.get(errno_of(said), UNKNOWN).tries_other
