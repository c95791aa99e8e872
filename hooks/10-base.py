"""What every capture image has: busybox, the directories of a running system, the console, the global settings."""

from kdump_initramfs.config import Config
from kdump_initramfs.errors import HostError
from kdump_initramfs.model import BuildOnly, Contribution, Dir, Entry, HostFacts, Link, Node

# What /init, the library and the shipped hooks call.
_APPLETS = (
    *("cat", "cut", "date", "dd", "dmesg", "grep", "gzip", "halt", "head", "insmod", "kill", "mkdir", "mount"),
    *("mkfifo", "mv", "od", "poweroff", "realpath", "reboot", "rm", "rmdir", "sed", "setsid", "sh", "sha256sum"),
    *("sleep", "sort", "stat", "sync", "tail", "tr", "umount", "wc"),
)
# What somebody in front of an emergency shell would miss; taken along where this busybox has it.
_RESCUE_APPLETS = ("cp", "df", "find", "free", "less", "ln", "ls", "lsmod", "mknod", "more", "ps", "tar", "top", "vi")


def contribute(config: Config, host: HostFacts) -> Contribution:
    return BuildOnly(
        entries=(
            *(Dir(path=path) for path in ("/dev", "/etc", "/proc", "/sys")),
            # makedumpfile keeps its bitmaps there.
            Dir(path="/tmp", mode=0o700),  # noqa: S108 - a directory of the image
            *(Dir(path=path, mode=0o700) for path in ("/run/kdump", "/run/lock/lvm", "/target")),
            # The kernel opens it for /init before anything is mounted (init/main.c, console_on_rootfs).
            Node(path="/dev/console", kind="c", major=5, minor=1),
            *_busybox(host),
        ),
        binaries=(host.tools.busybox, *config.image.extra_binaries),
        modules=config.image.extra_modules,
        settings={
            "KDUMP_HOST": host.hostname,
            "KDUMP_DEADLINE_S": str(config.capture.deadline_s),
            "KDUMP_HOOK_TIMEOUT_S": str(config.capture.hook_timeout_s),
            "KDUMP_DEVICE_TIMEOUT_S": str(config.capture.device_timeout_s),
            "KDUMP_DEGRADED_AFTER_S": str(config.capture.degraded_after_s),
            "KDUMP_FINAL_ACTION": config.capture.final_action,
            "KDUMP_FAILURE_ACTION": config.capture.failure_action,
        },
    )


def _busybox(host: HostFacts) -> tuple[Entry, ...]:
    busybox = host.tools.busybox
    if not busybox:
        raise HostError("busybox: no such program", hint="install it: Debian busybox-static, Fedora and Gentoo busybox")
    missing = sorted(set(_APPLETS) - set(host.tools.busybox_applets))
    if missing:
        raise HostError(
            f"{busybox}: was built without {', '.join(missing)}",
            hint="install a busybox with all applets, such as Debian's busybox-static",
        )
    wanted = (*_APPLETS, *(applet for applet in _RESCUE_APPLETS if applet in host.tools.busybox_applets))
    return tuple(Link(path=f"/bin/{applet}", target=busybox, reason="busybox applet") for applet in wanted)
