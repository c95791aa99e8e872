"""Reads the machine, and lets each of the neighbouring modules say what it finds."""

import os
from collections.abc import Iterator

from msgspec import Struct

from kdump_initramfs.check import collector, debuginfo, loading, options, processors, reservation, settings, target
from kdump_initramfs.check.finding import Finding, Report, attempt, of_error, report
from kdump_initramfs.config import Config
from kdump_initramfs.errors import HostError
from kdump_initramfs.host import fstab, kernel, kernel_config, memory, probe, targets, tools
from kdump_initramfs.host.kernel_config import KernelConfig
from kdump_initramfs.host.root import Root
from kdump_initramfs.image import kmod, recognition, record
from kdump_initramfs.loader import bootloader, enable, needs, proof, sizing, status, syscall
from kdump_initramfs.model import ImageRecord, Kernel
from kdump_initramfs.storage import DeviceTarget, TargetFacts

_LOCKDOWN = "/sys/kernel/security/lockdown"
# What is asked for where there is no image to size: more than every image of docs/STORAGE.md takes.
_DEFAULT = "crashkernel=256M"


class _Machine(Struct, frozen=True, kw_only=True):
    """What more than one of the checks looks at."""

    release: str
    machine: str
    # None where a part of it is missing, which is a finding.
    kernel: Kernel | None
    config: KernelConfig | None
    image: ImageRecord | None
    image_path: str
    status: status.Status


def read(root: Root, config: Config, image: str) -> Report:
    """Return all that is to be said of the machine at `root` and an image."""
    release = config.kernel.version or kernel.running_release(root)
    machine = tools.machine(root)
    found_kernel, problems = attempt(
        "kernel",
        "the capture kernel needs its image and its modules",
        lambda: kernel.read(root, config.kernel, machine),
    )
    known = _config(root, release, found_kernel)
    found_image, no_image = attempt("image", "the capture kernel has nothing to run", lambda: record.read(image))
    seen = _Machine(
        release=release,
        machine=machine,
        kernel=found_kernel,
        config=known,
        image=found_image,
        image_path=image,
        status=status.read(root, config),
    )
    findings = (*problems, *no_image, *_findings(root, config, seen))
    return report(probe.hostname(root), release, findings)


def _config(root: Root, release: str, found: Kernel | None) -> KernelConfig | None:
    """Return the configuration of the kernel, which may be there where the kernel's image is not."""
    directory = os.path.dirname(found.image) if found else "/boot"
    return kernel_config.read(root, release, directory, found.modules_dir if found else f"/lib/modules/{release}")


def _findings(root: Root, config: Config, seen: _Machine) -> Iterator[Finding]:
    yield from options.findings(seen.config, seen.machine, seen.release, seen.image)
    yield from reservation.findings(_reservation(root, config, seen))
    yield from loading.findings(_loading(root, config, seen))
    _, refused = attempt(
        "options of kexec", "loads the capture kernel", lambda: syscall.check_options(config, seen.machine)
    )
    yield from refused
    yield from processors.findings(root, seen.machine)
    yield from _collector(root, config, seen)
    yield from _targets(root, config, seen)
    yield from settings.findings(settings.read(root), is_virtual=_is_virtual(root), is_armed=seen.status.armed)
    vmlinux, ids = debuginfo.find(root, seen.release), debuginfo.distribution(root)
    yield from debuginfo.findings(vmlinux, ids, seen.config, seen.release)


def _collector(root: Root, config: Config, seen: _Machine) -> Iterator[Finding]:
    path, wanted = tools.find(root, "makedumpfile"), config.vmcore.collector
    yield from collector.findings(root, path, wanted, seen.release)
    if path and wanted in ("auto", "makedumpfile"):
        yield from collector.level_findings(root, path, config.vmcore.dump_level, seen.release)


def _reservation(root: Root, config: Config, seen: _Machine) -> reservation.Facts:
    estimate = _estimate(root, config, seen)
    running = probe.split_cmdline(root.read_text("/proc/cmdline") or "")
    return reservation.Facts(
        asked=tuple(word for word in running if word.startswith("crashkernel=")),
        reserved_bytes=seen.status.reserved_bytes,
        estimate=estimate,
        edit=bootloader.edit(root, estimate.plain if estimate else _DEFAULT),
    )


def _estimate(root: Root, config: Config, seen: _Machine) -> sizing.Estimate | None:
    if seen.image is None or not root.is_file(seen.image.manifest.kernel.image):
        return None
    return needs.of_image(root, config, seen.image_path, seen.image)


def _loading(root: Root, config: Config, seen: _Machine) -> loading.Facts:
    return loading.Facts(
        machine=seen.machine,
        kernel_image=root.resolve(seen.kernel.image) if seen.kernel else "",
        kexec=tools.find(root, "kexec"),
        lockdown=root.read_word(_LOCKDOWN),
        is_locked_down=bool(syscall.signatures_enforced(root) or syscall.secure_boot(root)),
        syscall=config.kexec.syscall,
        config=seen.config,
        fstab=fstab.read(root),
        loaded_by=enable.at_boot(root),
        image=seen.image,
        status=seen.status,
        now=proof.now(),
    )


def _is_virtual(root: Root) -> bool:
    """Whether the processor says that it is one of a hypervisor (X86_FEATURE_HYPERVISOR)."""
    flags = (root.read_text("/proc/cpuinfo") or "").partition("flags")[2].partition("\n")[0]
    return "hypervisor" in flags.split()


# --- targets -----------------------------------------------------------------------------------------------------


def _targets(root: Root, config: Config, seen: _Machine) -> Iterator[Finding]:
    is_generic = config.image.mode == "generic"
    found, problems = attempt(
        "target", "a dump needs a place", lambda: targets.read(root, config.targets, generic=is_generic)
    )
    yield from problems
    level = collector.dump_level(root, tools.find(root, "makedumpfile"), config.vmcore.dump_level, seen.release)
    expected = target.dump_bytes(memory.read(root), level, config.vmcore.collector)
    for each in found or ():
        yield from _target(root, config, each, expected)
        # Of a kernel without modules that does not list what it has built in nothing is known.
        if seen.kernel is not None and ((known := _modules(root, seen.kernel)) or seen.kernel.modular):
            yield from target.drivers(each, known)
    if seen.kernel is not None and found is not None:
        yield from _refusals(root, config, seen.kernel, found)


def _refusals(root: Root, config: Config, known: Kernel, found: tuple[TargetFacts, ...]) -> Iterator[Finding]:
    """Yield what a build would refuse, beside what is missing in its files."""
    name, why = "build", "an image that cannot be built saves nothing"
    host, problems = attempt(name, why, lambda: probe.read(root, config, known_kernel=known, known_targets=found))
    yield from problems
    for error in recognition.refusals(root, config, host) if host is not None else ():
        yield of_error(name, why, error)


def _target(root: Root, config: Config, facts: TargetFacts, expected: int) -> Iterator[Finding]:
    if isinstance(facts, DeviceTarget):
        yield target.raw_size(facts, expected)
        return
    if facts.kind != "path":
        yield target.not_mounted(facts.name)
        return
    try:
        room = target.room(root, facts.name)
    except (OSError, HostError) as error:
        yield target.no_room(facts.name, error)
        return
    yield from target.space(facts.name, room, expected)
    yield target.retention(config.retention, expected, room.free_bytes)


def _modules(root: Root, found: Kernel) -> frozenset[str]:
    """Return the names of all modules of a kernel, and of what it has built in."""
    modules = kmod.parse_dep(root.read_text(f"{found.modules_dir}/modules.dep") or "")
    built_in = kmod.parse_builtin(root.read_text(f"{found.modules_dir}/modules.builtin") or "")
    return frozenset(modules) | built_in
