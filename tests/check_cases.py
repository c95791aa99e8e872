"""The machines that tests/test_check.py looks at: one without fault, and what changes of it, with what is found."""

from kdump_initramfs.check import options, settings
from kdump_initramfs.check.finding import State

RELEASE = "6.1.0-35-amd64"
IMAGE = f"/var/lib/kdump-initramfs/initrd-{RELEASE}.img"
SYSCTLS = "".join(f"file /proc/sys/kernel/{setting.name} {setting.advised}\n" for setting in settings.SETTINGS)
CONFIG = "".join(f"| CONFIG_{name}=y\n" for option in options.OPTIONS for name in option.names)

# A machine on which nothing is left to be done.
TREE = f"""
file /boot/config-{RELEASE}
{CONFIG}| CONFIG_RD_GZIP=y
| CONFIG_RD_ZSTD=y
| CONFIG_PHYSICAL_START=0x1000000
| CONFIG_RANDOMIZE_BASE=y
| CONFIG_KEXEC_SIG=y
{SYSCTLS}file /proc/sys/kernel/nmi_watchdog 1
file /proc/sys/kernel/kexec_load_disabled 0
file /sys/module/kernel/parameters/crash_kexec_post_notifiers N
file /sys/kernel/kexec_crash_loaded 1
file /proc/meminfo
| MemTotal:        4096000 kB
| MemFree:         3900000 kB
| Cached:            50000 kB
| AnonPages:         50000 kB
file /etc/default/grub GRUB_CMDLINE_LINUX="quiet"
file /usr/sbin/update-grub
file /etc/local.d/kdump.start #!/bin/sh
file /etc/os-release ID=debian
file /usr/lib/debug/boot/vmlinux-{RELEASE}
"""

# A change, then a finding, its state, and what is said: of what was seen, and as remedy.
CHANGES: dict[str, tuple[str, str, State, str, str]] = {
    "an option that is needed": (
        "file /boot/config-{release} CONFIG_KEXEC=y",
        "CONFIG_CRASH_DUMP",
        State.BROKEN,
        "not set in /boot/config",
        "CONFIG_CRASH_DUMP=y",
    ),
    "an option that is of use": (
        "file /boot/config-{release} CONFIG_KEXEC=y",
        "CONFIG_MAGIC_SYSRQ",
        State.WEAK,
        "not set",
        "CONFIG_MAGIC_SYSRQ=y",
    ),
    "KEXEC_FILE is enough": (
        "file /boot/config-{release} CONFIG_KEXEC_FILE=y",
        "CONFIG_KEXEC",
        State.OK,
        "CONFIG_KEXEC_FILE=y",
        "",
    ),
    "a kernel that cannot unpack the image": (
        "file /boot/config-{release} CONFIG_KEXEC=y",
        "CONFIG_RD_ZSTD",
        State.BROKEN,
        "not set",
        "CONFIG_RD_ZSTD=y",
    ),
    "no configuration": (
        "remove /boot/config-{release}",
        "kernel configuration",
        State.UNKNOWN,
        "none",
        "copy it to /boot/config-",
    ),
    "a configuration beside the modules": (
        "remove /boot/config-{release}\nfile /lib/modules/{release}/build/.config CONFIG_KEXEC=y",
        "CONFIG_SYSFS",
        State.BROKEN,
        "/build/.config",
        "CONFIG_SYSFS=y",
    ),
    "a kernel that starts low": (
        "file /boot/config-{release} CONFIG_PHYSICAL_START=0x200000",
        "CONFIG_PHYSICAL_START",
        State.WEAK,
        "0x200000",
        "0x1000000",
    ),
    "no crashkernel=": (
        "file /proc/cmdline quiet\nfile /sys/kernel/kexec_crash_size 0",
        "crashkernel= on the command line",
        State.BROKEN,
        "not there",
        'make the line: GRUB_CMDLINE_LINUX="quiet crashkernel=',
    ),
    "crashkernel= that waits for a reboot": (
        (
            "file /proc/cmdline quiet\nfile /sys/kernel/kexec_crash_size 0\n"
            'file /etc/default/grub GRUB_CMDLINE_LINUX="quiet crashkernel=1G"'
        ),
        "crashkernel= on the command line",
        State.BROKEN,
        "in /etc/default/grub for the next boot",
        "run: update-grub; then reboot",
    ),
    "crashkernel= that waits for a reboot in an entry": (
        (
            "file /proc/cmdline quiet\nfile /sys/kernel/kexec_crash_size 0\nfile /usr/sbin/grubby\n"
            "file /boot/loader/entries/a.conf options quiet crashkernel=1G"
        ),
        "crashkernel= on the command line",
        State.BROKEN,
        "not there, but in GRUB for the next boot",
        "run: grubby --update-kernel=ALL",
    ),
    "crashkernel= where nothing gives the command line": (
        "file /proc/cmdline quiet nosmt\nfile /sys/kernel/kexec_crash_size 0",
        "crashkernel= on the command line",
        State.BROKEN,
        "not there",
        "/etc/default/grub does not give nosmt",
    ),
    "a platform that reserves unasked": (
        "file /proc/cmdline quiet",
        "crashkernel= on the command line",
        State.OK,
        "not there",
        "",
    ),
    "a reservation that failed": (
        "file /sys/kernel/kexec_crash_size 0",
        "reserved memory",
        State.BROKEN,
        "crashkernel=256M asks for it",
        "a size alone",
    ),
    "nothing reserved": (
        "file /proc/cmdline quiet\nfile /sys/kernel/kexec_crash_size 0",
        "reserved memory",
        State.BROKEN,
        "0 MiB",
        "reboot",
    ),
    "the new place in sysfs": (
        "remove /sys/kernel/kexec_crash_size\nfile /sys/kernel/kexec/crash_size 268435456",
        "reserved memory",
        State.OK,
        "256 MiB",
        "",
    ),
    "a reservation that is a little small": (
        "file /sys/kernel/kexec_crash_size 104857600",
        "size of the reservation",
        State.WEAK,
        "100 MiB",
        "crashkernel=",
    ),
    "a reservation that is too small": (
        "file /sys/kernel/kexec_crash_size 67108864",
        "size of the reservation",
        State.BROKEN,
        "64 MiB",
        "crashkernel=",
    ),
    "no kexec": ("remove /usr/sbin/kexec", "kexec", State.BROKEN, "no such program", "kexec-tools"),
    "not loaded": ("file /sys/kernel/kexec_crash_loaded 0", "armed", State.BROKEN, "no", "kdump-initramfs load"),
    "not built": (
        "file /sys/kernel/kexec_crash_loaded 0\nremove /var/lib/kdump-initramfs",
        "armed",
        State.BROKEN,
        "no",
        "kdump-initramfs build && kdump-initramfs load",
    ),
    "no image": ("remove /var/lib/kdump-initramfs", "image", State.BROKEN, "no such file", "kdump-initramfs build"),
    "loaded by another tool": ("remove /run", "what is loaded", State.WEAK, "not loaded by", "kdump-initramfs build"),
    "what is loaded is old": (
        "elf /usr/sbin/lvm soname=new",
        "what is loaded",
        State.WEAK,
        "/usr/sbin/lvm: has changed",
        "kdump-initramfs build && kdump-initramfs load",
    ),
    "not armed at boot": (
        "remove /etc/local.d",
        "armed at boot",
        State.WEAK,
        "nothing loads it then",
        "kdump-initramfs enable",
    ),
    "no kernel": (
        "remove /boot/vmlinuz-{release}",
        "kernel",
        State.BROKEN,
        "no bootable image",
        "mount /boot",
    ),
    "never rehearsed": (
        f"remove {IMAGE}.proof.json",
        "rehearsal",
        State.UNKNOWN,
        "none",
        "kdump-initramfs rehearse",
    ),
    "/boot that is not mounted at boot": (
        "file /etc/fstab LABEL=boot /boot ext4 noauto 0 2",
        "place of the kernel",
        State.WEAK,
        "noauto",
        "/etc/fstab",
    ),
    "/boot that is mounted when it is looked at": (
        "file /etc/fstab LABEL=boot /boot ext4 noauto,x-systemd.automount 0 2",
        "place of the kernel",
        State.OK,
        "/boot/vmlinuz",
        "",
    ),
    "lockdown": (
        "file /sys/kernel/security/lockdown none [integrity] confidentiality",
        "Secure Boot and lockdown",
        State.OK,
        "[integrity]",
        "",
    ),
    "lockdown for confidentiality": (
        "file /sys/kernel/security/lockdown none integrity [confidentiality]",
        "Secure Boot and lockdown",
        State.WEAK,
        "[confidentiality]",
        "lockdown=integrity",
    ),
    "lockdown without signatures": (
        (
            "file /sys/kernel/security/lockdown none [integrity] confidentiality\n"
            "file /boot/config-{release} CONFIG_KEXEC_FILE=y"
        ),
        "Secure Boot and lockdown",
        State.BROKEN,
        "without CONFIG_KEXEC_SIG",
        "CONFIG_KEXEC_SIG=y",
    ),
    "no makedumpfile": (
        "remove /usr/bin/makedumpfile",
        "makedumpfile",
        State.WEAK,
        "no such program",
        "install makedumpfile",
    ),
    "no directory": ("remove /var/crash", "target", State.BROKEN, "no such directory", "mkdir -m 0700 -p /var/crash"),
    "a driver that this kernel lacks": (
        "modules /usr/lib/modules/{release}\n| kernel/fs/ext4/ext4.ko:",
        "drivers of /var/crash",
        State.BROKEN,
        "no virtio_blk",
        "modules",
    ),
    "a mount that is read-only": (
        (
            "file /proc/self/mountinfo\n| 28 1 254:1 / / rw - ext4 /dev/vda1 rw\n"
            "| 96 28 253:1 / /var/crash ro,relatime - ext4 /dev/mapper/x rw\n"
        ),
        "mount of /var/crash",
        State.WEAK,
        "read-only",
        "read-write",
    ),
    "a dump that is larger than its target": (
        "file /proc/meminfo MemTotal: 999000000000 kB",
        "room on /var/crash",
        State.WEAK,
        "MiB may be used",
        "larger target",
    ),
    "dumps that will fill the target": (
        "file /proc/meminfo MemTotal: 999000000000 kB",
        "retention",
        State.WEAK,
        "less than three dumps",
        "retention.keep",
    ),
    "no debug info of the distribution": (
        "remove /usr/lib/debug",
        "debug info",
        State.OK,
        "the distribution has it",
        "apt install linux-image-{release}-dbg",
    ),
    "no debug info of a kernel of one's own": (
        "remove /usr/lib/debug\nfile /etc/os-release ID=gentoo",
        "debug info",
        State.WEAK,
        "no vmlinux",
        "cp /usr/src/linux/vmlinux",
    ),
    "notifiers first": (
        "file /sys/module/kernel/parameters/crash_kexec_post_notifiers Y",
        "crash_kexec_post_notifiers",
        State.WEAK,
        "Y",
        "command line",
    ),
    "loading disabled too early": (
        "file /proc/sys/kernel/kexec_load_disabled 1\nfile /sys/kernel/kexec_crash_loaded 0",
        "kernel.kexec_load_disabled",
        State.BROKEN,
        "1",
        "/etc/sysctl.d",
    ),
    "loading disabled afterwards": (
        "file /proc/sys/kernel/kexec_load_disabled 1",
        "kernel.kexec_load_disabled",
        State.OK,
        "after a capture kernel was loaded",
        "",
    ),
    "loads used up": (
        "file /proc/sys/kernel/kexec_load_limit_panic 0\nfile /sys/kernel/kexec_crash_loaded 0",
        "kernel.kexec_load_limit_panic",
        State.BROKEN,
        "0",
        "/etc/sysctl.d",
    ),
    "loads without limit": (
        "file /proc/sys/kernel/kexec_load_limit_panic -1",
        "kernel.kexec_load_limit_panic",
        State.OK,
        "-1",
        "",
    ),
    "no NMI watchdog": (
        "file /proc/sys/kernel/nmi_watchdog 0",
        "kernel.nmi_watchdog",
        State.WEAK,
        "0",
        "kernel.nmi_watchdog = 1",
    ),
    "no NMI watchdog in a virtual machine": (
        "file /proc/sys/kernel/nmi_watchdog 0\nfile /proc/cpuinfo flags\t\t: fpu hypervisor",
        "kernel.nmi_watchdog",
        State.UNKNOWN,
        "virtual machine",
        "virsh inject-nmi",
    ),
    "not running": ("remove /proc/sys/kernel", "sysctls", State.UNKNOWN, "none", ""),
}
