"""What decides whether an oops, a lockup or a hang becomes a panic, and so a dump: sysctls, each with its reason.

Documentation/admin-guide/sysctl/kernel.rst, Documentation/admin-guide/lockup-watchdogs.rst.
"""

from collections.abc import Callable, Iterator, Mapping

from msgspec import Struct

from kdump_initramfs.check.finding import Finding, State
from kdump_initramfs.host.root import Root

_DIRECTORY = "/proc/sys/kernel"
_POST_NOTIFIERS = "/sys/module/kernel/parameters/crash_kexec_post_notifiers"
_FILE = "/etc/sysctl.d/90-kdump.conf"
# sysrq.rst: 8 lets the keyboard dump and crash.
_SYSRQ_CRASH = 8


class Setting(Struct, frozen=True):
    name: str
    # Whether a value will do, and the one that is advised.
    is_good: Callable[[int], bool]
    advised: int
    why: str


def _is_on(value: int) -> bool:
    return value != 0


def _is_off(value: int) -> bool:
    return value == 0


SETTINGS = (
    Setting("panic_on_oops", _is_on, 1, "an oops kills a process and leaves the kernel damaged; no dump tells why"),
    Setting("panic", _is_on, 10, "where no capture kernel is loaded, a panic stops the machine for ever"),
    Setting("softlockup_panic", _is_on, 1, "a CPU that does not schedule for 20 s is reported only"),
    Setting("hardlockup_panic", _is_on, 1, "a CPU that takes no interrupts is reported only"),
    Setting("watchdog", _is_on, 1, "without it neither lockup is noticed"),
    Setting("hung_task_panic", _is_on, 1, "tasks that wait for ever (mostly for storage) are reported only"),
    Setting("panic_on_rcu_stall", _is_on, 1, "a stalled RCU grace period is reported only"),
    Setting("panic_on_unrecovered_nmi", _is_on, 1, "an NMI for an uncorrected error of the hardware is reported only"),
    Setting(
        "unknown_nmi_panic", _is_on, 1, "the NMI button, IPMI (`chassis power diag`) and `virsh inject-nmi` do nothing"
    ),
    Setting("panic_on_warn", _is_off, 0, "every warning of the kernel, also a harmless one, takes the machine down"),
    Setting(
        "sysrq",
        lambda value: value == 1 or bool(value & _SYSRQ_CRASH),
        1,
        "the keyboard cannot crash a machine that hangs (alt, sysrq and c; the file /proc/sysrq-trigger always can)",
    ),
)


def read(root: Root) -> Mapping[str, str]:
    """Return the settings that there are, as they are written; those of the kernel's own parameters too."""
    names = [setting.name for setting in SETTINGS]
    names += ["nmi_watchdog", "kexec_load_disabled", "kexec_load_limit_panic"]
    found = {name: root.read_word(f"{_DIRECTORY}/{name}") for name in names}
    found["crash_kexec_post_notifiers"] = root.read_word(_POST_NOTIFIERS)
    return {name: value for name, value in found.items() if value}


def findings(values: Mapping[str, str], *, is_virtual: bool, is_armed: bool) -> Iterator[Finding]:
    if not values:
        yield Finding(
            name="sysctls",
            state=State.UNKNOWN,
            seen="none: the machine is not running",
            why="they decide whether an oops, a lockup or a hang becomes a panic, and so a dump",
        )
        return
    for setting in SETTINGS:
        yield _setting(setting, values.get(setting.name, ""))
    yield _nmi_watchdog(values.get("nmi_watchdog", ""), is_virtual=is_virtual)
    yield _load_disabled(values.get("kexec_load_disabled", "0"), is_armed=is_armed)
    yield from _load_limit(values.get("kexec_load_limit_panic", ""), is_armed=is_armed)
    yield _post_notifiers(values.get("crash_kexec_post_notifiers", "N"))


def _setting(setting: Setting, value: str) -> Finding:
    name = f"kernel.{setting.name}"
    if not value:
        return Finding(
            name=name, state=State.UNKNOWN, seen="not there: this kernel was built without it", why=setting.why
        )
    good = setting.is_good(_number(value))
    return Finding(
        name=name,
        state=State.OK if good else State.WEAK,
        seen=value,
        why=setting.why,
        remedy="" if good else _write(f"{name} = {setting.advised}"),
    )


def _number(value: str) -> int:
    try:
        return int(value.split(maxsplit=1)[0])
    except ValueError:
        return 0


def _write(line: str) -> str:
    return f"echo '{line}' >> {_FILE} && sysctl -p {_FILE}"


def _nmi_watchdog(value: str, *, is_virtual: bool) -> Finding:
    why = "finds a CPU that takes no interrupts, by a counter of the processor"
    if _number(value or "0"):
        return Finding(name="kernel.nmi_watchdog", state=State.OK, seen=value, why=why)
    if not value or is_virtual:
        return Finding(
            name="kernel.nmi_watchdog",
            state=State.UNKNOWN,
            seen=f"{value or 'not there'}{', in a virtual machine' if is_virtual else ''}",
            why=f"{why}, which a virtual machine may not have",
            remedy="have the hypervisor inject an NMI when the guest hangs (virsh inject-nmi), with "
            "kernel.unknown_nmi_panic = 1"
            if is_virtual
            else "",
        )
    return Finding(
        name="kernel.nmi_watchdog",
        state=State.WEAK,
        seen=value,
        why=why,
        remedy=_write("kernel.nmi_watchdog = 1"),
    )


def _load_disabled(value: str, *, is_armed: bool) -> Finding:
    why = "once set, no capture kernel can be loaded, changed or taken out until the next boot"
    locked = value != "0"
    broken = locked and not is_armed
    return Finding(
        name="kernel.kexec_load_disabled",
        state=State.BROKEN if broken else State.OK,
        seen=f"{value}, after a capture kernel was loaded" if locked and is_armed else value,
        why=why,
        remedy="load before it is set: take it out of /etc/sysctl.d, or set it after `kdump-initramfs load`, and reboot"
        if broken
        else "",
    )


def _load_limit(value: str, *, is_armed: bool) -> Iterator[Finding]:
    """Linux 6.3: how many more loads of a capture kernel are allowed; -1 for any number."""
    if not value:
        return
    used_up = _number(value) == 0
    yield Finding(
        name="kernel.kexec_load_limit_panic",
        state=State.OK if not used_up else State.WEAK if is_armed else State.BROKEN,
        seen=value,
        why="where it is 0, what is loaded cannot be replaced before the next boot",
        remedy="take it out of /etc/sysctl.d, and reboot" if used_up else "",
    )


def _post_notifiers(value: str) -> Finding:
    early = value in ("N", "0")
    return Finding(
        name="crash_kexec_post_notifiers",
        state=State.OK if early else State.WEAK,
        seen=value,
        why="with it the crashed kernel runs drivers' panic notifiers before it starts the capture kernel, and may "
        "hang in them; pstore and hypervisors (Hyper-V turns it on) get their message that way",
        remedy="" if early else "take crash_kexec_post_notifiers off the kernel's command line, where nothing needs it",
    )
