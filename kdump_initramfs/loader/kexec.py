"""Arms the machine: the `kexec -p` command that matches an image, and running it (kexec(8), kexec_load(2))."""

import logging
import os
import shlex
from collections.abc import Sequence

from msgspec import Struct

from kdump_initramfs import run
from kdump_initramfs.config import Config
from kdump_initramfs.errors import HostError, LoadError
from kdump_initramfs.formats import kernel_image
from kdump_initramfs.formats.kernel_image import KernelImage
from kdump_initramfs.host import crash, probe, tools
from kdump_initramfs.host.root import Root
from kdump_initramfs.image import record
from kdump_initramfs.loader import cmdline, refusals, state, syscall, volume_keys
from kdump_initramfs.model import ImageRecord, Kernel

logger = logging.getLogger(__name__)


class Command(Struct, frozen=True, kw_only=True):
    """The kexec command for one image."""

    words: tuple[str, ...]
    image: str
    record: ImageRecord
    # Where the kernel that it loads is on the machine that runs us.
    kernel: str

    @property
    def kernel_path(self) -> str:
        """Where the command itself looks for the kernel."""
        return self.words[2]

    def __str__(self) -> str:
        return shlex.join(self.words)


def command(root: Root, config: Config, image: str, *, running: Sequence[str] | None = None) -> Command:
    """Return the command that loads `image` with the kernel that it was built for.

    `running` is the running kernel's command line where that is not the one at `root`. Raises ImageError or LoadError
    where image, manifest and kernel do not belong together.
    """
    described = record.read(image)
    kernel = described.manifest.kernel
    copy = _checked_kernel(root, image, described)
    machine = tools.machine(root)
    line = cmdline.capture(
        probe.split_cmdline(root.read_text("/proc/cmdline") or "") if running is None else running,
        machine=machine,
        cpus=config.capture.cpus,
        boot_apicid=probe.boot_apicid(root),
        remove=config.kernel.remove,
        append=config.kernel.append,
    )
    choice = syscall.choose(
        root,
        config,
        machine=machine,
        image_format=_format(copy, kernel),
        with_keys=bool(described.manifest.volume_keys),
    )
    logger.debug("kexec %s: %s", choice.option, choice.reason)
    words = (
        *(tools.find(root, "kexec") or "kexec", "-p", copy or kernel.image, choice.option),
        f"--initrd={image}",
        f"--append={line}",
        *syscall.extra_options(config, machine),
        *config.kexec.extra_args,
    )
    return Command(words=words, image=image, record=described, kernel=copy or root.host(kernel.image))


def _checked_kernel(root: Root, image: str, described: ImageRecord) -> str:
    """Return the path of the kernel's copy beside the image, or "" where kexec gets the kernel image itself.

    LoadError where what kexec would get is not what the image was built for.
    """
    kernel = described.manifest.kernel
    if not described.kernel_copy:
        _check_original(root, kernel.image, described)
        return ""
    if root.is_file(kernel.image):
        _check_original(root, kernel.image, described)
    copy = os.path.join(os.path.dirname(image), described.kernel_copy)
    if not os.path.isfile(copy):
        raise LoadError(f"{copy}: no such file, but kexec loads it in place of {kernel.image}", hint=_REBUILD)
    if record.sha256_of(copy) != described.kernel_copy_sha256:
        raise LoadError(f"{copy}: is not the kernel that the image was built for", hint=_REBUILD)
    enforced = syscall.signatures_enforced(root)
    if enforced and kernel.copied_because == "packed" and not _headers(copy).is_signed:
        raise LoadError(
            f"{copy}: was unpacked from {kernel.image} and has no signature of its own, but {enforced}",
            hint="name a plain signed image of this kernel (bzImage or Image) in kernel.image, and build again",
        )
    return copy


def _check_original(root: Root, path: str, described: ImageRecord) -> None:
    kernel = described.manifest.kernel
    if not root.is_file(path):
        raise LoadError(f"{path}: no such kernel image", hint="mount /boot, or build for an installed kernel")
    if record.sha256_of(root.host(path)) == described.manifest.kernel_sha256:
        return
    try:
        found = _headers(root.host(path)).release
    except HostError:  # no kernel at all is a change, too
        found = ""
    if found and found != kernel.release:
        raise LoadError(f"{path}: is kernel {found}, the image was built for {kernel.release}", hint=_REBUILD)
    raise LoadError(f"{path}: has changed since the image was built for it", hint=_REBUILD)


_REBUILD = "run: kdump-initramfs build"


def _headers(path: str) -> KernelImage:
    with open(path, "rb") as stream:
        return kernel_image.read(stream, path)


def _format(copy: str, kernel: Kernel) -> str:
    """Return the format of what kexec gets."""
    return _headers(copy).format if kernel.copied_because == "packed" else kernel.image_format


def load(root: Root, wanted: Command) -> None:
    """Run the command and remember what is loaded; LoadError says why the machine is not armed."""
    if not tools.find(root, "kexec"):
        raise HostError("kexec: no such program", hint="install kexec-tools")
    _check_room(root, wanted)
    _check_may_load(root)
    keys = wanted.record.manifest.volume_keys
    volume_keys.check(keys)
    with volume_keys.registered(root, keys):
        words = _load(root, wanted.words)
    state.write(root, image=wanted.image, described=wanted.record, words=words)


def _check_room(root: Root, wanted: Command) -> None:
    """Refuse what cannot fit, as far as the sizes of the files tell, before the kernel frees what is loaded."""
    reserved = crash.reserved_bytes(root)
    if reserved == 0:
        raise LoadError(
            "no memory is reserved for a capture kernel (/sys/kernel/kexec_crash_size is 0)",
            hint="add crashkernel=256M to the kernel's command line in the boot loader, and reboot",
        )
    needed = os.path.getsize(wanted.kernel) + wanted.record.image_bytes + crash.elfcorehdr_bytes(root)
    if needed > reserved:
        raise LoadError(
            f"{wanted.image}: {-(-needed >> 20)} MiB with its kernel, but {reserved >> 20} MiB are reserved",
            hint="enlarge crashkernel= in the boot loader and reboot; what was loaded before still is",
        )


def _load(root: Root, words: tuple[str, ...]) -> tuple[str, ...]:
    """Run kexec, if need be once more for the other system call, and return the words that loaded."""
    said = _run(words)
    if said is not None and syscall.EITHER in words and refusals.may_try_other(said):
        # `kexec -a` falls back where kexec_file_load is missing or does not know the format; there are more reasons.
        logger.info("kexec_file_load did not do (%s), trying kexec_load", refusals.errno_of(said))
        words = tuple(syscall.LOAD if word == syscall.EITHER else word for word in words)
        said = _run(words)
    if said is not None:
        raise _refused(root, said)
    return words


def _refused(root: Root, said: Sequence[str]) -> LoadError:
    """Return the error of a failed load, with what it has left: the kernel frees what is loaded before it looks."""
    refusal = refusals.explain(said, is_locked_down=bool(syscall.signatures_enforced(root)))
    last = next((line for line in said if "failed" in line), said[-1] if said else "no word of it")
    if crash.is_loaded(root):
        left = "what was loaded before still is"
    else:
        left = "nothing is loaded: this machine is not armed now"
        state.forget(root)
    return LoadError(f"kexec: {last}: {refusal.meaning}; {left}", hint=refusal.remedy)


def unload(root: Root) -> None:
    """Take the loaded capture kernel out of memory."""
    if not tools.find(root, "kexec"):
        raise HostError("kexec: no such program", hint="install kexec-tools")
    _check_may_load(root)
    said = _run(unload_words(root))
    if said is not None:
        raise _refused(root, said)
    state.forget(root)


def unload_words(root: Root) -> tuple[str, ...]:
    """Return the command; what is configured for a load is nothing to it, what the kernel enforces is."""
    return (tools.find(root, "kexec") or "kexec", "-p", "-u", syscall.choose(root, Config()).option)


def _check_may_load(root: Root) -> None:
    if root.directory != "/":
        raise LoadError(
            f"{root.directory}: only the running system can be armed or disarmed",
            hint="leave --root out, or add --print to `load` to see the command",
        )
    if os.geteuid() != 0:
        raise LoadError("kexec: only root may load a kernel", hint="run it as root")


def _run(words: Sequence[str]) -> list[str] | None:
    """Run kexec, and return the lines that it wrote if it failed."""
    result = run.run(words)
    said = (result.stderr.strip() or result.stdout.strip()).splitlines()
    for line in said:
        logger.debug("kexec: %s", line)
    return None if result.returncode == 0 else said or [f"exit status {result.returncode}"]
