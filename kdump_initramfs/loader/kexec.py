"""Arms the machine: the `kexec -p` command that matches an image, and running it (kexec(8), kexec_load(2))."""

import logging
import os
import shlex
from collections.abc import Sequence

from msgspec import Struct

from kdump_initramfs import run
from kdump_initramfs.config import Config
from kdump_initramfs.errors import ConfigError, HostError, LoadError
from kdump_initramfs.formats import bzimage
from kdump_initramfs.host import probe, tools
from kdump_initramfs.host.root import Root
from kdump_initramfs.image import record
from kdump_initramfs.loader import cmdline, state, volume_keys
from kdump_initramfs.model import ImageRecord

logger = logging.getLogger(__name__)

_LOCKDOWN = "/sys/kernel/security/lockdown"
_EFI_SECURE_BOOT = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
_HEADER_BYTES = 0x10000


class Command(Struct, frozen=True, kw_only=True):
    """The kexec command for one image."""

    words: tuple[str, ...]
    image: str
    record: ImageRecord

    def __str__(self) -> str:
        return shlex.join(self.words)


def command(root: Root, config: Config, image: str, *, running: Sequence[str] | None = None) -> Command:
    """Return the command that loads `image` with the kernel that it was built for.

    `running` is the running kernel's command line where that is not the one at `root`. Raises ImageError or LoadError
    where image, manifest and kernel do not belong together.
    """
    described = record.read(image)
    kernel = described.manifest.kernel
    _check_kernel(root, described)
    machine = tools.machine(root)
    line = cmdline.capture(
        probe.split_cmdline(root.read_text("/proc/cmdline") or "") if running is None else running,
        machine=machine,
        cpus=config.capture.cpus,
        boot_apicid=probe.boot_apicid(root),
        remove=config.kernel.remove,
        append=config.kernel.append,
    )
    words = (
        *(tools.find(root, "kexec") or "kexec", "-p", kernel.image),
        *syscall_option(root, config, hands_over_keys=bool(described.manifest.volume_keys)),
        f"--initrd={image}",
        f"--append={line}",
        *config.kexec.extra_args,
    )
    return Command(words=words, image=image, record=described)


def _check_kernel(root: Root, described: ImageRecord) -> None:
    kernel = described.manifest.kernel
    content = root.read_bytes(kernel.image)
    if content is None:
        raise LoadError(f"{kernel.image}: no such kernel image", hint="mount /boot, or build for an installed kernel")
    found = bzimage.release(content[:_HEADER_BYTES])
    if found is not None and found != kernel.release:
        raise LoadError(f"{kernel.image}: is kernel {found}, the image was built for {kernel.release}", hint=_REBUILD)
    if record.sha256_of(root.host(kernel.image)) != described.manifest.kernel_sha256:
        raise LoadError(f"{kernel.image}: has changed since the image was built for it", hint=_REBUILD)


_REBUILD = "run: kdump-initramfs build"


def syscall_option(root: Root, config: Config, *, hands_over_keys: bool = False) -> tuple[str, ...]:
    """Return the option of kexec(8) for the system call.

    Under lockdown and Secure Boot only kexec_file_load(2) is allowed, which checks the kernel's signature; volume keys
    are handed over by it alone. Elsewhere `-a` tries it and falls back where the kernel does not have it.
    """
    if hands_over_keys and config.kexec.syscall == "load":
        raise ConfigError(
            "kexec.syscall: kexec_load does not hand over the volume key that a dump target is opened by",
            hint='set it to "auto" or "file"',
        )
    if hands_over_keys:
        return ("-s",)
    if config.kexec.syscall != "auto":
        return ("-s",) if config.kexec.syscall == "file" else ("-c",)
    return ("-s",) if is_locked_down(root) else ("-a",)


def is_locked_down(root: Root) -> bool:
    lockdown = root.read_word(_LOCKDOWN)
    if "[integrity]" in lockdown or "[confidentiality]" in lockdown:
        return True
    # Four bytes of attributes, one of value (Documentation/filesystems/efivarfs.rst).
    return (root.read_bytes(_EFI_SECURE_BOOT) or b"")[4:5] == b"\1"


def load(root: Root, wanted: Command) -> None:
    """Run the command and remember what is loaded; LoadError says why the machine is not armed."""
    if not tools.find(root, "kexec"):
        raise HostError("kexec: no such program", hint="install kexec-tools")
    if probe.reserved_bytes(root) == 0:
        raise LoadError(
            "no memory is reserved for a capture kernel (/sys/kernel/kexec_crash_size is 0)",
            hint="add crashkernel=256M to the kernel's command line in the boot loader, and reboot",
        )
    _check_may_load(root)
    keys = wanted.record.manifest.volume_keys
    volume_keys.check(keys)
    with volume_keys.registered(root, keys):
        _run(wanted.words)
    state.write(root, image=wanted.image, described=wanted.record, words=wanted.words)


def unload(root: Root, config: Config) -> None:
    """Take the loaded capture kernel out of memory."""
    kexec = tools.find(root, "kexec")
    if not kexec:
        raise HostError("kexec: no such program", hint="install kexec-tools")
    _check_may_load(root)
    _run((kexec, "-p", "-u", *syscall_option(root, config)))
    state.forget(root)


def _check_may_load(root: Root) -> None:
    if root.directory != "/":
        raise LoadError(
            f"{root.directory}: only the running system can be armed or disarmed",
            hint="leave --root out, or add --print to `load` to see the command",
        )
    if os.geteuid() != 0:
        raise LoadError("kexec: only root may load a kernel", hint="run it as root")


def _run(words: Sequence[str]) -> None:
    result = run.run(words)
    said = (result.stderr.strip() or result.stdout.strip()).splitlines()
    for line in said:
        logger.debug("kexec: %s", line)
    if result.returncode != 0:
        raise LoadError(f"kexec: {said[-1] if said else f'exit status {result.returncode}'}", hint=_explain(said))


# What the last words of kexec mean, by the errno that the kernel gave (kernel/kexec.c, kernel/kexec_file.c).
_EXPLANATIONS = {
    "Operation not permitted": "kexec is locked: kernel.kexec_load_disabled=1, or lockdown without a signed kernel",
    "Key was rejected by service": "the kernel image is not signed by a key that this kernel trusts",
    "Required key not available": "the kernel image is not signed by a key that this kernel trusts",
    "Cannot assign requested address": "kernel and image do not fit into the reserved memory: enlarge crashkernel=",
    "Cannot allocate memory": "kernel and image do not fit into the reserved memory: enlarge crashkernel=",
    "Could not find a free area of memory": "kernel and image do not fit: enlarge crashkernel=",
    "Device or resource busy": "another load is going on: try again",
    "Function not implemented": "the running kernel was built without CONFIG_KEXEC and CONFIG_CRASH_DUMP",
    "Cannot determine the file type": "this kexec does not know the format of the kernel image: update kexec-tools",
}


def _explain(said: Sequence[str]) -> str:
    text = "\n".join(said)
    known = (remedy for words, remedy in _EXPLANATIONS.items() if words in text)
    return next(known, "`kdump-initramfs load --print` shows the command; run it with -d added to see more")
