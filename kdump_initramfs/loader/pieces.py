"""The files of contrib/ that arm a machine at boot and follow its changes, and where each of them belongs."""

from msgspec import Struct

NAME = "kdump-initramfs"


class Piece(Struct, frozen=True, kw_only=True):
    """A file that a framework runs."""

    # Below contrib/.
    source: str
    # Where `enable` writes it.
    path: str
    mode: int = 0o755
    # Where a package puts the same file, so that there is nothing to write.
    packaged: tuple[str, ...] = ()
    # Directories by which the framework is known to be there; none: it is asked for in another way.
    frameworks: tuple[str, ...] = ()


class InitSystem(Struct, frozen=True, kw_only=True):
    """An init system: its file for us, and the link by which it runs that at boot."""

    name: str
    piece: Piece
    link: str


SYSTEMD = InitSystem(
    name="systemd",
    piece=Piece(
        source="init/kdump-initramfs.service",
        path=f"/etc/systemd/system/{NAME}.service",
        mode=0o644,
        packaged=(f"/usr/lib/systemd/system/{NAME}.service", f"/lib/systemd/system/{NAME}.service"),
    ),
    link=f"/etc/systemd/system/sysinit.target.wants/{NAME}.service",
)
OPENRC = InitSystem(
    name="OpenRC",
    piece=Piece(source="init/kdump-initramfs.openrc", path=f"/etc/init.d/{NAME}"),
    link=f"/etc/runlevels/boot/{NAME}",
)
# Where insserv(8) orders the links, it gives this one its number.
SYSV = InitSystem(
    name="sysvinit",
    piece=Piece(source="init/kdump-initramfs.sysv", path=f"/etc/init.d/{NAME}"),
    link=f"/etc/rcS.d/S99{NAME}",
)

FOLLOWERS = (
    # udev, for memory and processors that come and go.
    Piece(
        source="init/98-kdump-initramfs.rules",
        path="/etc/udev/rules.d/98-kdump-initramfs.rules",
        mode=0o644,
        packaged=("/usr/lib/udev/rules.d/98-kdump-initramfs.rules", "/lib/udev/rules.d/98-kdump-initramfs.rules"),
        frameworks=("/usr/lib/udev/rules.d", "/lib/udev/rules.d"),
    ),
    # kernel-install(8): Fedora and its relatives, Gentoo with USE=systemd, systemd-boot anywhere.
    Piece(
        source="kernel-hooks/90-kdump-initramfs.install",
        path="/etc/kernel/install.d/90-kdump-initramfs.install",
        packaged=("/usr/lib/kernel/install.d/90-kdump-initramfs.install",),
        frameworks=("/usr/lib/kernel/install.d",),
    ),
    # Debian's packages, which know the directories without having them, and Gentoo's installkernel, which runs every
    # program that is in one of two.
    Piece(
        source="kernel-hooks/zz-kdump-initramfs.postinst",
        path="/etc/kernel/postinst.d/zz-kdump-initramfs",
        packaged=("/usr/lib/kernel/postinst.d/zz-kdump-initramfs",),
        frameworks=("/var/lib/dpkg", "/etc/kernel/postinst.d", "/usr/lib/kernel/postinst.d"),
    ),
    Piece(
        source="kernel-hooks/zz-kdump-initramfs.postrm",
        path="/etc/kernel/postrm.d/zz-kdump-initramfs",
        frameworks=("/var/lib/dpkg", "/etc/kernel/postrm.d"),
    ),
    # pacman (alpm-hooks(5)).
    *(
        Piece(
            source=f"kernel-hooks/95-kdump-initramfs-{action}.hook",
            path=f"/etc/pacman.d/hooks/95-kdump-initramfs-{action}.hook",
            mode=0o644,
            packaged=(f"/usr/share/libalpm/hooks/95-kdump-initramfs-{action}.hook",),
            frameworks=("/usr/share/libalpm/hooks",),
        )
        for action in ("add", "remove")
    ),
)
