"""Whether the capture kernel can be loaded, is loaded, and is the one that would be built now."""

from collections.abc import Iterator, Sequence

from msgspec import Struct

from kdump_initramfs.check.finding import Finding, State
from kdump_initramfs.host import fstab
from kdump_initramfs.host.kernel_config import KernelConfig
from kdump_initramfs.loader.status import Status
from kdump_initramfs.model import ImageRecord

_DAY_S = 86400
# Where kexec_file_load(2) checks the signature of the image itself; ppc64le has IMA do that.
_SIGNED = ("x86_64", "aarch64", "s390x")


class Facts(Struct, frozen=True, kw_only=True):
    machine: str
    # The kernel's image, with links resolved; "" if there is none, which is another finding.
    kernel_image: str
    # "" if there is none.
    kexec: str
    # [none] integrity confidentiality; "" where the kernel does not tell.
    lockdown: str
    is_locked_down: bool
    # kexec.syscall of the configuration.
    syscall: str
    config: KernelConfig | None
    fstab: tuple[fstab.Entry, ...]
    # What loads it at boot; "" if nothing does.
    loaded_by: str
    # The image that would be loaded; None where there is none.
    image: ImageRecord | None
    status: Status
    # Seconds since the epoch.
    now: int


def findings(facts: Facts) -> Iterator[Finding]:
    yield _kexec(facts)
    yield _signatures(facts)
    if facts.kernel_image:
        yield _boot(facts)
    yield _armed(facts)
    yield _at_boot(facts)
    if facts.status.armed:
        yield _current(facts.status)
    yield _proven(facts)


def _kexec(facts: Facts) -> Finding:
    why = "loads the capture kernel"
    if facts.kexec:
        return Finding(name="kexec", state=State.OK, seen=facts.kexec, why=why)
    return Finding(
        name="kexec", state=State.BROKEN, seen="no such program", why=why, remedy="install the package kexec-tools"
    )


def _signatures(facts: Facts) -> Finding:
    """Secure Boot and lockdown: kexec_load(2) is refused, and so is what is not signed."""
    why = (
        "under Secure Boot and lockdown only kexec_file_load loads a kernel, with a signature that this one trusts; "
        "the capture kernel is locked down too: it loads signed modules alone, and saves /proc/vmcore all the same"
    )
    name = "Secure Boot and lockdown"
    seen = facts.lockdown or ("Secure Boot" if facts.is_locked_down else "neither")
    if not facts.is_locked_down:
        return Finding(name=name, state=State.OK, seen=seen, why=why)
    if facts.syscall == "load":
        remedy = 'set kexec.syscall = "auto" in /etc/kdump-initramfs/config.toml'
        return Finding(name=name, state=State.BROKEN, seen=f'{seen}; kexec.syscall is "load"', why=why, remedy=remedy)
    wanted = ("KEXEC_FILE", "KEXEC_SIG") if facts.machine in _SIGNED else ("KEXEC_FILE",)
    missing = [option for option in wanted if facts.config and not facts.config.is_on(option)]
    if missing:
        seen += f"; the kernel is built without CONFIG_{missing[0]}"
        remedy = f"build the kernel anew with CONFIG_{missing[0]}=y, or turn Secure Boot off"
        return Finding(name=name, state=State.BROKEN, seen=seen, why=why, remedy=remedy)
    state = State.WEAK if "[confidentiality]" in facts.lockdown else State.OK
    if state is State.WEAK:
        why += "; under confidentiality nobody can read /proc/kcore, so that the running kernel cannot be looked at"
    remedy = "boot with lockdown=integrity, where that will do" if state is State.WEAK else ""
    return Finding(name=name, state=state, seen=seen, why=why, remedy=remedy)


def _boot(facts: Facts) -> Finding:
    """Whether the kernel's image can be read when the machine is armed at boot."""
    why = "the kernel's image must be readable whenever the machine is armed, at each boot"
    entry = fstab.holder(tuple(each for each in facts.fstab if each.mount_point), facts.kernel_image)
    away = entry is not None and "noauto" in entry.options and "x-systemd.automount" not in entry.options
    if entry is None or not away:
        return Finding(name="place of the kernel", state=State.OK, seen=facts.kernel_image, why=why)
    return Finding(
        name="place of the kernel",
        state=State.WEAK,
        seen=f"{facts.kernel_image}, and /etc/fstab does not mount {entry.mount_point} at boot (noauto)",
        why=why,
        remedy=f"take noauto off {entry.mount_point} in /etc/fstab, or name a copy of the kernel in kernel.image",
    )


def _armed(facts: Facts) -> Finding:
    why = "without a loaded capture kernel a panic stops or reboots the machine, and nothing is saved"
    if facts.status.armed:
        loaded = facts.status.loaded
        seen = f"yes, with {loaded.image}" if loaded else "yes, by another tool"
        return Finding(name="armed", state=State.OK, seen=seen, why=why)
    remedy = "run: kdump-initramfs load" if facts.image else "run: kdump-initramfs build && kdump-initramfs load"
    if not facts.status.reserved_bytes:
        remedy = "reserve memory (see above), reboot, and then " + remedy
    return Finding(name="armed", state=State.BROKEN, seen="no", why=why, remedy=remedy)


def _at_boot(facts: Facts) -> Finding:
    name, why = "armed at boot", "what is loaded is forgotten at every reboot, that after a crash too"
    if facts.loaded_by:
        return Finding(name=name, state=State.OK, seen=facts.loaded_by, why=why)
    remedy = "run: kdump-initramfs enable"
    return Finding(name=name, state=State.WEAK, seen="nothing loads it then", why=why, remedy=remedy)


def _current(status: Status) -> Finding:
    why = "what is loaded was made of other files than those that are there now, and may not fit them"
    if not status.stale:
        return Finding(name="what is loaded", state=State.OK, seen="is what would be built now", why=why)
    return Finding(
        name="what is loaded",
        state=State.WEAK,
        seen=_some(status.stale),
        why=why,
        remedy="run: kdump-initramfs build && kdump-initramfs load",
    )


def _some(reasons: Sequence[str]) -> str:
    more = f", and {len(reasons) - 1} more" if len(reasons) > 1 else ""
    return f"{reasons[0]}{more}"


def _proven(facts: Facts) -> Finding:
    """When the image was last rehearsed: never is no fault, since not every machine has QEMU."""
    name, why = "rehearsal", "whether this kernel and this image save a dump is known once they have"
    run = "run: kdump-initramfs rehearse"
    proof = facts.status.proof
    if proof is None:
        return Finding(name=name, state=State.UNKNOWN, seen="none of what is loaded", why=why, remedy=run)
    days = max(facts.now - proof.at, 0) // _DAY_S
    where = "on this machine" if proof.live else "in a guest"
    when = f"{where} {days} days ago, with crashkernel={proof.crashkernel}"
    if proof.passed:
        return Finding(name=name, state=State.OK, seen=f"passed {when}", why=why)
    return Finding(name=name, state=State.BROKEN, seen=f"failed {when}", why=why, remedy=f"{run} --keep DIR")
