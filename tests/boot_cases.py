"""Machines as distributions set them up: their files, the command line in effect, and the edit that is right."""

import re
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from msgspec import Struct

WORD = "crashkernel=112M"
CMDLINE = "/proc/cmdline"
KERNEL = "/etc/kernel/cmdline"
RELEASE = "6.12.9"
OSRELEASE = {"/proc/sys/kernel/osrelease": f"{RELEASE}\n"}
INSTALL = "kernel-install add $(uname -r) /lib/modules/$(uname -r)/vmlinuz"
UNIFIED = {"/boot/EFI/Linux/arch.efi": ""}
PRESET = 'ALL_kver="/boot/vmlinuz-linux"\nPRESETS=("default")\ndefault_uki="/boot/EFI/Linux/arch.efi"\n'

# What a tool makes of the files below a directory, written anew here.
Tool = Callable[[Path], str]


class Case(Struct, frozen=True, kw_only=True):
    files: Mapping[str, str | bytes | Path]
    # What is in effect.
    cmdline: str
    loader: str
    file: str = ""
    line: str = ""
    command: str = ""
    advice: str = ""
    # What the tool gives; None where there is no file to edit.
    tool: Tool | None = None


def whole(path: str) -> Tool:
    """90-loaderentry.install: tr -s "$IFS" ' '."""
    return lambda base: " ".join((base / path[1:]).read_text().split())


def uncommented(pattern: str) -> Tool:
    """mkinitcpio: the lines of all files that do not begin with #."""

    def give(base: Path) -> str:
        lines = [line for path in sorted(base.glob(pattern[1:])) for line in path.read_text().splitlines()]
        return " ".join(line for line in lines if not line.startswith("#"))

    return give


def bash(script: str) -> Tool:
    return lambda base: (
        subprocess.run(["bash", "-c", script], cwd=base, capture_output=True, text=True, check=True).stdout
    )


def found(path: str, pattern: str) -> Tool:
    """The first group of the first match in a file."""

    def give(base: Path) -> str:
        match = re.search(pattern, (base / path[1:]).read_text(), re.MULTILINE)
        assert match
        return match[1]

    return give


def limine(base: Path) -> str:
    """limine-entry-tool: the drop-ins, then /etc/default/limine; = sets and += appends."""
    line = ""
    for path in (*sorted(base.glob("etc/limine-entry-tool.d/*.conf")), base / "etc/default/limine"):
        for plus, value in re.findall(r'^KERNEL_CMDLINE\[default\](\+?)="(.*)"$', path.read_text(), re.MULTILINE):
            line = line + value if plus else value
    return line


CASES = {
    "Fedora": Case(
        files={
            **OSRELEASE,
            "/usr/bin/grubby": "",
            "/boot/grub2/grub.cfg": "# grub2-mkconfig\nblscfg\n",
            "/etc/default/grub": 'GRUB_CMDLINE_LINUX="rhgb quiet"\nGRUB_ENABLE_BLSCFG=true\n',
            "/boot/loader/entries/1-6.11.conf": "version 6.11\noptions root=UUID=1 ro rhgb\n",
            f"/boot/loader/entries/1-{RELEASE}.conf": f"version {RELEASE}\noptions root=UUID=1 ro rhgb quiet\n",
            KERNEL: "root=UUID=1 ro rhgb quiet\n",
        },
        cmdline="BOOT_IMAGE=(hd0,gpt2)/vmlinuz-6.12.9 root=UUID=1 ro rhgb quiet",
        loader="GRUB",
        command=f'grubby --update-kernel=ALL --args="{WORD}"',
    ),
    "RHEL 8, whose entries name variables, with an old size": Case(
        files={
            **OSRELEASE,
            "/usr/sbin/grubby": "",
            "/boot/grub2/grubenv": "# GRUB Environment Block\nkernelopts=root=/dev/mapper/r ro crashkernel=auto \n###",
            f"/boot/loader/entries/1-{RELEASE}.conf": f"version {RELEASE}\noptions $kernelopts $tuned_params\n",
        },
        cmdline="BOOT_IMAGE=(hd0,msdos1)/vmlinuz root=/dev/mapper/r ro crashkernel=auto",
        loader="GRUB",
        command=f'grubby --update-kernel=ALL --remove-args="crashkernel" --args="{WORD}"',
    ),
    "openSUSE with grub2-bls": Case(
        files={
            "/usr/bin/sdbootutil": "",
            "/usr/bin/kernel-install": "",
            "/etc/default/grub": 'GRUB_CMDLINE_LINUX_DEFAULT="quiet security=selinux"\n',
            "/boot/efi/loader/entries/system-opensuse-1.conf": "options root=UUID=1 quiet\n",
            "/boot/efi/EFI/opensuse/grub.cfg": "blscfg\n",
            KERNEL: "root=UUID=0 rootflags=subvol=@/.snapshots/1/snapshot quiet security=selinux\n",
        },
        cmdline="BOOT_IMAGE=/x root=UUID=1 rootflags=subvol=@/.snapshots/7/snapshot quiet security=selinux "
        "systemd.machine_id=1",
        loader="sdbootutil",
        file=KERNEL,
        line=f"root=UUID=0 rootflags=subvol=@/.snapshots/1/snapshot quiet security=selinux {WORD}",
        command="sdbootutil update-all-entries",
        tool=whole(KERNEL),
    ),
    "openSUSE with systemd-boot, without a file": Case(
        files={"/usr/bin/sdbootutil": "", "/boot/efi/loader/loader.conf": ""},
        cmdline="initrd=\\x root=UUID=1 quiet",
        loader="sdbootutil",
        file=KERNEL,
        line=f"root=UUID=1 quiet {WORD}",
        command="sdbootutil update-all-entries",
        tool=whole(KERNEL),
    ),
    "openSUSE MicroOS with GRUB": Case(
        files={
            "/usr/sbin/transactional-update": "",
            "/usr/sbin/grub2-mkconfig": "",
            "/etc/fstab": "UUID=1 / btrfs ro 0 0\n",
            "/boot/grub2/grub.cfg": "",
            "/etc/default/grub": "GRUB_CMDLINE_LINUX_DEFAULT='quiet'\n",
        },
        cmdline="BOOT_IMAGE=/boot/vmlinuz root=UUID=1 quiet",
        loader="GRUB",
        file="/etc/default/grub",
        line=f"GRUB_CMDLINE_LINUX_DEFAULT='quiet {WORD}'",
        command="transactional-update grub.cfg",
        tool=bash('. etc/default/grub; echo "root=UUID=1 $GRUB_CMDLINE_LINUX_DEFAULT"'),
    ),
    "Fedora CoreOS": Case(
        files={
            "/run/ostree-booted": "",
            "/usr/bin/rpm-ostree": "",
            "/usr/bin/grubby": "",
            "/etc/default/grub": "GRUB_CMDLINE_LINUX=quiet\n",
            "/boot/grub2/grub.cfg": "",
            "/boot/loader/entries/ostree-1.conf": "options rw ostree=/ostree/boot.1/a/b/0 root=UUID=1 quiet\n",
        },
        cmdline="BOOT_IMAGE=/x rw ostree=/ostree/boot.1/a/b/0 root=UUID=1 quiet",
        loader="ostree",
        command=f"rpm-ostree kargs --append-if-missing={WORD}",
    ),
    "Silverblue with an old size": Case(
        files={
            "/usr/bin/rpm-ostree": "",
            "/boot/loader/entries/ostree-2.conf": "options ostree=/o root=UUID=1 crashkernel=1G,high\n",
        },
        cmdline="ostree=/o root=UUID=1 crashkernel=1G,high",
        loader="ostree",
        command=f"rpm-ostree kargs --delete-if-present=crashkernel=1G,high --append-if-missing={WORD}",
    ),
    "Endless, without rpm-ostree": Case(
        files={"/boot/loader/entries/ostree-2.conf": "options ostree=/o root=UUID=1\n"},
        cmdline="ostree=/o root=UUID=1",
        loader="ostree",
        command=f"ostree admin kargs edit-in-place --append-if-missing={WORD}",
    ),
    "NixOS": Case(
        files={"/etc/NIXOS": "", "/run/booted-system/kernel-params": "loglevel=4 nosmt", "/boot/grub/grub.cfg": ""},
        cmdline="init=/nix/store/a-nixos/init loglevel=4 nosmt",
        loader="NixOS",
        advice=f'add "{WORD}" to boot.kernelParams in /etc/nixos/configuration.nix; then run: nixos-rebuild boot',
    ),
    "Guix": Case(
        files={"/run/booted-system/parameters": '(kernel-arguments\n  ("quiet" "nosmt"))'},
        cmdline="BOOT_IMAGE=/gnu/x root=1 gnu.system=/gnu/y gnu.load=/gnu/z quiet nosmt",
        loader="Guix",
        advice=f'add "{WORD}" to the kernel-arguments of your operating-system; '
        "then run: guix system reconfigure, with its file",
    ),
    "kernel-install without a file": Case(
        files={
            **OSRELEASE,
            "/etc/machine-id": "0123\n",
            "/usr/bin/kernel-install": "",
            "/boot/loader/loader.conf": "",
            f"/boot/loader/entries/0123-{RELEASE}.conf": f"version {RELEASE}\noptions root=UUID=1 rw\n",
        },
        cmdline="initrd=\\0123\\initrd root=UUID=1 rw systemd.machine_id=0123",
        loader="systemd-boot",
        file=KERNEL,
        line=f"root=UUID=1 rw systemd.machine_id=0123 {WORD}",
        command=INSTALL,
        tool=whole(KERNEL),
    ),
    "kernel-install with the line of the distribution": Case(
        files={
            "/usr/bin/kernel-install": "",
            "/efi/loader/loader.conf": "",
            "/usr/lib/kernel/cmdline": "rw\nquiet\n",
            "/proc/sys/kernel/osrelease": "6.1.0-35-amd64",
            "/boot/vmlinuz-6.1.0-35-amd64": "",
        },
        cmdline="rw quiet",
        loader="systemd-boot",
        file=KERNEL,
        line=f"rw quiet {WORD}",
        command="kernel-install add $(uname -r) /boot/vmlinuz-$(uname -r)",
        tool=whole(KERNEL),
    ),
    "kernel-install with a file of several lines": Case(
        files={"/boot/loader/loader.conf": "", KERNEL: "root=UUID=1\n\ncrashkernel=1G\nquiet"},
        cmdline="root=UUID=1 crashkernel=1G quiet",
        loader="systemd-boot",
        file=KERNEL,
        line=WORD,
        command=INSTALL,
        tool=whole(KERNEL),
    ),
    "an entry that was edited, beside a file that was not": Case(
        files={
            "/usr/bin/kernel-install": "",
            "/boot/loader/loader.conf": "",
            KERNEL: "quiet\n",
            "/boot/loader/entries/arch.conf": "title A\r\noptions root=UUID=1\r\noptions rw nosmt\r\n",
        },
        cmdline="initrd=\\a root=UUID=1 rw nosmt",
        loader="systemd-boot",
        file="/boot/loader/entries/arch.conf",
        line=f"options rw nosmt {WORD}",
        tool=lambda base: " ".join(
            re.findall(r"^options\s+(.*)$", (base / "boot/loader/entries/arch.conf").read_text(), re.MULTILINE)
        ),
    ),
    "entries by hand on a machine that has kernel-install": Case(
        files={
            "/usr/bin/kernel-install": "",
            "/boot/loader/loader.conf": "",
            "/boot/loader/entries/arch.conf": "linux /vmlinuz-linux\noptions root=UUID=1 rw",
            "/boot/loader/entries/fallback.conf": "linux /vmlinuz-linux\noptions root=UUID=1 rw single",
        },
        cmdline="initrd=\\a root=UUID=1 rw",
        loader="systemd-boot",
        file="/boot/loader/entries/arch.conf",
        line=f"options root=UUID=1 rw {WORD}",
        tool=found("/boot/loader/entries/arch.conf", "^options (.*)$"),
    ),
    "unified images of mkinitcpio with cmdline.d": Case(
        files={
            **UNIFIED,
            "/usr/bin/mkinitcpio": "",
            "/usr/bin/kernel-install": "",
            "/etc/mkinitcpio.d/linux.preset": PRESET,
            "/etc/cmdline.d/10-root.conf": "# the root\nroot=UUID=1 rw\n",
            "/etc/cmdline.d/20-more.conf": "quiet # splash\n",
            "/etc/cmdline.d/30-old.bak": "loud\n",
        },
        cmdline="root=UUID=1 rw quiet # splash",
        loader="mkinitcpio",
        file="/etc/cmdline.d/20-more.conf",
        line=f"quiet # splash {WORD}",
        command="mkinitcpio -P",
        tool=uncommented("/etc/cmdline.d/*.conf"),
    ),
    "unified images of mkinitcpio with a file": Case(
        files={
            **UNIFIED,
            "/etc/mkinitcpio.d/linux.preset": PRESET,
            "/usr/bin/kernel-install": "",
            KERNEL: "# mine\nroot=UUID=1 rw\n",
        },
        cmdline="root=UUID=1 rw",
        loader="mkinitcpio",
        file=KERNEL,
        line=f"root=UUID=1 rw {WORD}",
        command="mkinitcpio -P",
        tool=uncommented(KERNEL),
    ),
    "unified images of mkinitcpio with neither": Case(
        files={**UNIFIED, "/etc/mkinitcpio.d/linux.preset": PRESET, "/usr/bin/kernel-install": ""},
        cmdline="root=UUID=1 rw",
        loader="mkinitcpio",
        file=KERNEL,
        line=f"root=UUID=1 rw {WORD}",
        command="mkinitcpio -P",
        tool=uncommented(KERNEL),
    ),
    "unified images of dracut": Case(
        files={
            **UNIFIED,
            "/usr/bin/dracut": "",
            "/usr/bin/kernel-install": "",
            "/usr/lib/dracut/dracut.conf.d/50-x.conf": 'kernel_cmdline+=" loud "\n',
            "/etc/dracut.conf.d/50-x.conf": 'uefi="yes"\nkernel_cmdline="root=UUID=1 rw" # "all"\n',
            "/etc/dracut.conf.d/60-y.conf": 'kernel_cmdline+=" quiet"\nadd_dracutmodules+=" lvm "\n',
        },
        cmdline="root=UUID=1 rw quiet",
        loader="dracut",
        file="/etc/dracut.conf.d/60-y.conf",
        line=f'kernel_cmdline+=" quiet {WORD}"',
        command="dracut --force --regenerate-all",
        tool=bash('for x in etc/dracut.conf.d/*.conf; do . "$x"; done; echo "$kernel_cmdline"'),
    ),
    "unified images of dracut, which found the line itself": Case(
        files={
            **UNIFIED,
            "/usr/bin/dracut": "",
            "/etc/dracut.conf.d/u.conf": "uefi=yes\n",
            "/usr/bin/kernel-install": "",
        },
        cmdline="root=UUID=1 rd.lvm.lv=vg/root",
        loader="dracut",
        file="/etc/dracut.conf.d/kernel-cmdline.conf",
        line=f'kernel_cmdline="root=UUID=1 rd.lvm.lv=vg/root {WORD}"',
        command="dracut --force --regenerate-all",
        tool=bash('for x in etc/dracut.conf.d/*.conf; do . "$x"; done; echo "$kernel_cmdline"'),
    ),
    "unified images of dracut with a quoted parameter": Case(
        files={**UNIFIED, "/usr/bin/dracut": "", "/etc/dracut.conf": "#kernel_cmdline=x\nuefi=yes\n"},
        cmdline='root=UUID=1 dyndbg="file a +p"',
        loader="dracut",
        file="/etc/dracut.conf.d/kernel-cmdline.conf",
        line=f'kernel_cmdline="root=UUID=1 dyndbg=\\"file a +p\\" {WORD}"',
        command="dracut --force --regenerate-all",
        tool=bash('. etc/dracut.conf; for x in etc/dracut.conf.d/*.conf; do . "$x"; done; echo "$kernel_cmdline"'),
    ),
    "unified images of dracut with cmdline.d": Case(
        files={
            **UNIFIED,
            "/usr/bin/dracut": "",
            "/usr/bin/kernel-install": "",
            "/etc/dracut.conf.d/u.conf": 'uefi=yes\ninstall_items+=" /etc/cmdline.d/root.conf "\n',
            "/etc/cmdline.d/root.conf": "root=UUID=1 rw",
        },
        cmdline="root=UUID=1 rw",
        loader="dracut",
        file="/etc/cmdline.d/root.conf",
        line=f"root=UUID=1 rw {WORD}",
        command="dracut --force --regenerate-all",
        tool=whole("/etc/cmdline.d/root.conf"),
    ),
    "unified images of mkinitcpio without a preset": Case(
        files={
            **UNIFIED,
            "/usr/bin/mkinitcpio": "",
            "/usr/bin/kernel-install": "",
            "/etc/cmdline.d/root.conf": "root=UUID=1 rw",
        },
        cmdline="root=UUID=1 rw",
        loader="mkinitcpio",
        file="/etc/cmdline.d/root.conf",
        line=f"root=UUID=1 rw {WORD}",
        command="mkinitcpio -P",
        tool=uncommented("/etc/cmdline.d/*.conf"),
    ),
    "kernel-install without a file, and entries that are known by what they load": Case(
        files={
            "/usr/bin/kernel-install": "",
            "/efi/loader/loader.conf": "",
            "/efi/loader/entries/gentoo-6.12.conf": "linux /gentoo/6.12/linux\noptions root=UUID=1 rw\n",
        },
        cmdline="initrd=\\x root=UUID=1 rw",
        loader="systemd-boot",
        file=KERNEL,
        line=f"root=UUID=1 rw {WORD}",
        command=INSTALL,
        tool=whole(KERNEL),
    ),
    "ukify": Case(
        files={**UNIFIED, "/usr/bin/kernel-install": "", "/etc/kernel/uki.conf": "[UKI]\nCmdline=root=UUID=1 rw\n"},
        cmdline="root=UUID=1 rw",
        loader="ukify",
        file="/etc/kernel/uki.conf",
        line=f"Cmdline=root=UUID=1 rw {WORD}",
        command=INSTALL,
        tool=found("/etc/kernel/uki.conf", "^Cmdline=(.*)$"),
    ),
    "Proxmox with systemd-boot": Case(
        files={
            "/usr/sbin/proxmox-boot-tool": "",
            "/etc/kernel/proxmox-boot-uuids": "AB-CD\n",
            KERNEL: "root=ZFS=rpool/ROOT/pve-1 boot=zfs",
            "/etc/default/grub": "GRUB_CMDLINE_LINUX=boot=zfs\n",
        },
        cmdline="initrd=\\EFI\\proxmox\\initrd root=ZFS=rpool/ROOT/pve-1 boot=zfs",
        loader="Proxmox",
        file=KERNEL,
        line=f"root=ZFS=rpool/ROOT/pve-1 boot=zfs {WORD}",
        command="proxmox-boot-tool refresh",
        tool=whole(KERNEL),
    ),
    "Proxmox with GRUB": Case(
        files={
            "/usr/sbin/proxmox-boot-tool": "",
            "/usr/sbin/update-grub": "",
            "/etc/kernel/proxmox-boot-uuids": "AB-CD\n",
            KERNEL: "root=ZFS=rpool/ROOT/pve-1 boot=zfs",
            "/etc/default/grub": "GRUB_CMDLINE_LINUX=boot=zfs\n",
        },
        cmdline="BOOT_IMAGE=/x root=ZFS=/ROOT/pve-1 ro boot=zfs",
        loader="GRUB",
        file="/etc/default/grub",
        line=f'GRUB_CMDLINE_LINUX="boot=zfs {WORD}"',
        command="update-grub",
        tool=bash('. etc/default/grub; echo "root=ZFS=/ROOT/pve-1 ro $GRUB_CMDLINE_LINUX"'),
    ),
    "Pop!_OS": Case(
        files={
            "/usr/bin/kernelstub": "",
            "/usr/bin/kernel-install": "",
            "/boot/efi/loader/loader.conf": "",
            "/boot/efi/loader/entries/Pop_OS-current.conf": "options root=UUID=1 ro quiet crashkernel=1G\n",
        },
        cmdline="initrd=\\a root=UUID=1 ro quiet crashkernel=1G",
        loader="kernelstub",
        command=f'kernelstub --delete-options "crashkernel=1G" && kernelstub --add-options "{WORD}"',
    ),
    "Solus": Case(
        files={"/usr/bin/clr-boot-manager": "", "/etc/kernel/cmdline.d/10.conf": "nosmt\n"},
        cmdline="initrd=\\a root=PARTUUID=1 quiet nosmt",
        loader="clr-boot-manager",
        file="/etc/kernel/cmdline.d/10.conf",
        line=f"nosmt {WORD}",
        command="clr-boot-manager update",
        tool=lambda base: "initrd=\\a root=PARTUUID=1 quiet " + uncommented("/etc/kernel/cmdline.d/*.conf")(base),
    ),
    "GRUB with a menu by hand": Case(
        files={
            "/etc/default/grub": "GRUB_CMDLINE_LINUX=\n",
            "/boot/grub/grub.cfg": (
                "menuentry one {\n\tlinux /k1 root=/dev/sda1 ro\n}\n"
                "menuentry two {\n\tlinux /k2 root=/dev/sda1 nosmt # b\n}\n"
            ),
        },
        cmdline="BOOT_IMAGE=/k2 root=/dev/sda1 nosmt",
        loader="GRUB",
        file="/boot/grub/grub.cfg",
        line=f"\tlinux /k2 root=/dev/sda1 nosmt {WORD} # b",
        tool=found("/boot/grub/grub.cfg", "linux /k2 (.*) # b"),
    ),
    "GRUB before 2.0": Case(
        files={"/boot/grub/menu.lst": "title L\nroot (hd0,0)\nkernel /boot/vmlinuz root=/dev/sda1 ro\n"},
        cmdline="root=/dev/sda1 ro",
        loader="GRUB",
        file="/boot/grub/menu.lst",
        line=f"kernel /boot/vmlinuz root=/dev/sda1 ro {WORD}",
        tool=found("/boot/grub/menu.lst", "^kernel /boot/vmlinuz (.*)$"),
    ),
    "CachyOS with Limine": Case(
        files={
            "/usr/bin/limine-update": "",
            "/usr/bin/kernel-install": "",
            "/boot/limine.conf": "/+CachyOS\n  //linux\n  protocol: linux\n  cmdline: root=UUID=1 rw quiet nosmt\n",
            "/etc/limine-entry-tool.d/a.conf": 'KERNEL_CMDLINE[default]="loud"\n',
            "/etc/default/limine": 'ESP_PATH="/boot"\nKERNEL_CMDLINE[default]="root=UUID=1 rw quiet"\n'
            'KERNEL_CMDLINE[default]+=" nosmt"\n',
        },
        cmdline="root=UUID=1 rw quiet nosmt",
        loader="Limine",
        file="/etc/default/limine",
        line=f'KERNEL_CMDLINE[default]+=" nosmt {WORD}"',
        command="limine-update",
        tool=limine,
    ),
    "Limine, whose tool is told nothing": Case(
        files={
            "/usr/bin/limine-mkinitcpio": "",
            "/etc/default/limine": 'ESP_PATH="/boot"\n',
            "/boot/limine.conf": "/+Arch\n  cmdline: root=UUID=1 rw\n",
        },
        cmdline="root=UUID=1 rw",
        loader="Limine",
        file="/etc/default/limine",
        line=f'KERNEL_CMDLINE[default]="root=UUID=1 rw {WORD}"',
        command="limine-mkinitcpio",
        tool=limine,
    ),
    "Limine, whose tool is told by the file of kernel-install": Case(
        files={"/usr/bin/limine-mkinitcpio": "", KERNEL: "root=UUID=1 rw\n"},
        cmdline="root=UUID=1 rw",
        loader="Limine",
        file=KERNEL,
        line=f"root=UUID=1 rw {WORD}",
        command="limine-mkinitcpio",
        tool=whole(KERNEL),
    ),
    "GRUB of Arch": Case(
        files={
            "/usr/bin/grub-mkconfig": "",
            "/boot/grub/grub.cfg": "",
            "/usr/bin/kernel-install": "",
            "/etc/default/grub": 'GRUB_CMDLINE_LINUX_DEFAULT="loglevel=3 quiet"\nGRUB_CMDLINE_LINUX=""\n',
        },
        cmdline="BOOT_IMAGE=/vmlinuz-linux root=UUID=1 rw rootflags=subvol=@ loglevel=3 quiet",
        loader="GRUB",
        file="/etc/default/grub",
        line=f'GRUB_CMDLINE_LINUX_DEFAULT="loglevel=3 quiet {WORD}"',
        command="grub-mkconfig -o /boot/grub/grub.cfg",
        tool=bash('. etc/default/grub; echo "root=UUID=1 rw rootflags=subvol=@ $GRUB_CMDLINE_LINUX_DEFAULT"'),
    ),
    "GRUB of Ubuntu on a cloud": Case(
        files={
            "/usr/sbin/update-grub": "",
            "/etc/default/grub": "GRUB_CMDLINE_LINUX_DEFAULT='quiet splash'\n",
            "/etc/default/grub.d/50-cloudimg-settings.cfg": 'GRUB_CMDLINE_LINUX_DEFAULT="console=tty1 console=ttyS0"\n',
            "/etc/default/grub.d/40-force-partuuid.cfg": "GRUB_FORCE_PARTUUID=1-2\n",
        },
        cmdline="BOOT_IMAGE=/boot/vmlinuz root=PARTUUID=1-2 ro console=tty1 console=ttyS0 panic=-1",
        loader="GRUB",
        file="/etc/default/grub.d/50-cloudimg-settings.cfg",
        line=f'GRUB_CMDLINE_LINUX_DEFAULT="console=tty1 console=ttyS0 {WORD}"',
        command="update-grub",
        tool=bash(
            'for x in etc/default/grub etc/default/grub.d/*.cfg; do . "$x"; done; '
            'echo "root=PARTUUID=1-2 ro $GRUB_CMDLINE_LINUX_DEFAULT panic=-1"'
        ),
    ),
    "GRUB with tuned": Case(
        files={
            "/usr/sbin/grub2-mkconfig": "",
            "/etc/default/grub": "GRUB_CMDLINE_LINUX=quiet\n"
            'GRUB_CMDLINE_LINUX_DEFAULT="${GRUB_CMDLINE_LINUX_DEFAULT:+$GRUB_CMDLINE_LINUX_DEFAULT }\\$tuned_params"\n',
            "/boot/grub2/grub.cfg": '# made by grub2-mkconfig\nset tuned_params="isolcpus=1-3 nosmt"\nlinux /x quiet\n',
        },
        cmdline="BOOT_IMAGE=/x root=UUID=1 ro quiet isolcpus=1-3 nosmt",
        loader="GRUB",
        file="/etc/default/grub",
        line='GRUB_CMDLINE_LINUX_DEFAULT="${GRUB_CMDLINE_LINUX_DEFAULT:+$GRUB_CMDLINE_LINUX_DEFAULT }'
        f'\\$tuned_params {WORD}"',
        command="grub2-mkconfig -o /boot/grub2/grub.cfg",
        tool=bash(
            ". etc/default/grub; tuned_params='isolcpus=1-3 nosmt'; "
            'eval "echo root=UUID=1 ro $GRUB_CMDLINE_LINUX $GRUB_CMDLINE_LINUX_DEFAULT"'
        ),
    ),
    "Limine by hand": Case(
        files={
            "/boot/efi/EFI/limine/limine.conf": "/Arch\n  protocol: linux\n  cmdline: root=UUID=1 rw\n/Old\n"
            "  cmdline: root=UUID=2\n"
        },
        cmdline="root=UUID=1 rw",
        loader="Limine",
        file="/boot/efi/EFI/limine/limine.conf",
        line=f"  cmdline: root=UUID=1 rw {WORD}",
        tool=found("/boot/efi/EFI/limine/limine.conf", r"^\s+cmdline: (root=UUID=1.*)$"),
    ),
    "Limine before 8": Case(
        files={"/boot/limine.cfg": ":Arch\nPROTOCOL=linux\nCMDLINE=root=UUID=1 rw\n"},
        cmdline="root=UUID=1 rw",
        loader="Limine",
        file="/boot/limine.cfg",
        line=f"CMDLINE=root=UUID=1 rw {WORD}",
        tool=found("/boot/limine.cfg", "^CMDLINE=(.*)$"),
    ),
    "U-Boot of Debian, which sets nothing": Case(
        files={
            "/usr/sbin/u-boot-update": "",
            "/etc/default/u-boot": "#U_BOOT_PARAMETERS=\n",
            "/boot/extlinux/extlinux.conf": "",
        },
        cmdline="root=/dev/mmcblk0p2 ro quiet",
        loader="U-Boot",
        file="/etc/default/u-boot",
        line=f'U_BOOT_PARAMETERS="ro quiet {WORD}"',
        command="u-boot-update",
        tool=bash('. etc/default/u-boot; echo "root=/dev/mmcblk0p2 ${U_BOOT_PARAMETERS:-ro quiet}"'),
    ),
    "U-Boot of Debian with drop-ins": Case(
        files={
            "/usr/sbin/u-boot-update": "",
            "/etc/default/u-boot": "U_BOOT_PARAMETERS='ro'\n",
            "/etc/u-boot-menu/conf.d/a.conf": 'U_BOOT_PARAMETERS="$U_BOOT_PARAMETERS nosmt"',
        },
        cmdline="root=/dev/mmcblk0p2 ro nosmt",
        loader="U-Boot",
        file="/etc/u-boot-menu/conf.d/a.conf",
        line=f'U_BOOT_PARAMETERS="$U_BOOT_PARAMETERS nosmt {WORD}"',
        command="u-boot-update",
        tool=bash(
            '. etc/default/u-boot; . etc/u-boot-menu/conf.d/a.conf; echo "root=/dev/mmcblk0p2 $U_BOOT_PARAMETERS"'
        ),
    ),
    "extlinux of Alpine": Case(
        files={
            "/sbin/update-extlinux": "",
            "/etc/update-extlinux.conf": 'modules=sd-mod,ext4\nroot=UUID=1\ndefault_kernel_opts="quiet"\n',
            "/boot/extlinux.conf": "LABEL lts\n  APPEND root=UUID=1 modules=sd-mod,ext4 quiet\n",
        },
        cmdline="BOOT_IMAGE=vmlinuz-lts root=UUID=1 modules=sd-mod,ext4 quiet initrd=initramfs-lts",
        loader="extlinux",
        file="/etc/update-extlinux.conf",
        line=f'default_kernel_opts="quiet {WORD}"',
        command="update-extlinux",
        tool=bash(". etc/update-extlinux.conf; echo root=$root modules=$modules $default_kernel_opts"),
    ),
    "syslinux, of two entries": Case(
        files={
            "/boot/syslinux/syslinux.cfg": "LABEL a\n  APPEND root=UUID=1 single\nLABEL b\n  APPEND root=UUID=1 rw\n"
        },
        cmdline="BOOT_IMAGE=../x root=UUID=1 rw initrd=../y",
        loader="U-Boot or extlinux",
        file="/boot/syslinux/syslinux.cfg",
        line=f"  APPEND root=UUID=1 rw {WORD}",
        tool=found("/boot/syslinux/syslinux.cfg", r"LABEL b\n  APPEND (.*)$"),
    ),
    "zipl, of two sections": Case(
        files={
            "/etc/zipl.conf": "[old]\nparameters=root=/dev/dasdb1\n"
            "[new]\nparameters='root=/dev/dasda1 dyndbg=\"x +p\"' # y\n"
        },
        cmdline='root=/dev/dasda1 dyndbg="x +p"',
        loader="zipl",
        file="/etc/zipl.conf",
        line=f"parameters='root=/dev/dasda1 dyndbg=\"x +p\" {WORD}' # y",
        command="zipl",
        tool=found("/etc/zipl.conf", "^parameters='(.*)' # y"),
    ),
    "rEFInd with quotes in quotes": Case(
        files={
            "/boot/refind_linux.conf": '# x\n"Boot" "root=UUID=1 dyndbg=""file a +p"""  # y\n'
            '"Single" "root=UUID=1 single"\n'
        },
        cmdline='initrd=\\x root=UUID=1 dyndbg="file a +p"',
        loader="rEFInd",
        file="/boot/refind_linux.conf",
        line=f'"Boot" "root=UUID=1 dyndbg=""file a +p"" {WORD}"  # y',
        tool=lambda base: found("/boot/refind_linux.conf", '^"Boot" "(.*)"  # y')(base).replace('""', '"'),
    ),
    "rEFInd with a stanza": Case(
        files={
            "/boot/efi/EFI/refind/refind.conf": 'menuentry Arch {\n  loader /vmlinuz\n  options "root=UUID=1 rw"\n}\n'
        },
        cmdline="root=UUID=1 rw",
        loader="rEFInd",
        file="/boot/efi/EFI/refind/refind.conf",
        line=f'  options "root=UUID=1 rw {WORD}"',
        tool=found("/boot/efi/EFI/refind/refind.conf", 'options "(.*)"'),
    ),
    "LILO of Slackware": Case(
        files={
            "/etc/lilo.conf": 'boot = sda\nappend=" vt.default_utf8=1"\nimage = /boot/vmlinuz\n  root = /dev/sda1\n'
        },
        cmdline="BOOT_IMAGE=Linux ro root=801 vt.default_utf8=1",
        loader="LILO",
        file="/etc/lilo.conf",
        line=f'append=" vt.default_utf8=1 {WORD}"',
        command="lilo",
        tool=lambda base: "ro root=801" + found("/etc/lilo.conf", 'append="(.*)"')(base),
    ),
    "Raspberry Pi, whose firmware adds to it": Case(
        files={"/boot/firmware/cmdline.txt": "console=serial0,115200 root=PARTUUID=1-02 rootwait\n# second line\n"},
        cmdline="coherent_pool=1M vc_mem.mem_base=0x3f0 console=ttyS0,115200 root=PARTUUID=1-02 rootwait",
        loader="Raspberry Pi",
        file="/boot/firmware/cmdline.txt",
        line=f"console=serial0,115200 root=PARTUUID=1-02 rootwait {WORD}",
        tool=lambda base: (
            "coherent_pool=1M vc_mem.mem_base=0x3f0 "
            + (base / "boot/firmware/cmdline.txt").read_text().split("\n")[0].replace("serial0", "ttyS0")
        ),
    ),
    "Raspberry Pi of Ubuntu, in a directory for each kernel": Case(
        files={
            "/boot/firmware/config.txt": "[all]\nos_prefix=current/\ncmdline=cmdline.txt\n",
            "/boot/firmware/current/cmdline.txt": "root=LABEL=writable rootwait",
        },
        cmdline="x=1 root=LABEL=writable rootwait",
        loader="Raspberry Pi",
        file="/boot/firmware/current/cmdline.txt",
        line=f"root=LABEL=writable rootwait {WORD}",
        tool=lambda base: "x=1 " + whole("/boot/firmware/current/cmdline.txt")(base),
    ),
    "Armbian": Case(
        files={"/boot/armbianEnv.txt": "verbosity=1\nextraargs=nosmt\nrootdev=UUID=1\n"},
        cmdline="root=UUID=1 rootwait console=ttyS2 nosmt",
        loader="Armbian",
        file="/boot/armbianEnv.txt",
        line=f"extraargs=nosmt {WORD}",
        tool=lambda base: "root=UUID=1 rootwait console=ttyS2 " + found("/boot/armbianEnv.txt", "extraargs=(.*)")(base),
    ),
    "flash-kernel of Debian": Case(
        files={"/usr/sbin/flash-kernel": "", "/etc/default/flash-kernel": 'LINUX_KERNEL_CMDLINE="quiet"\n'},
        cmdline="root=UUID=1 console=ttyS0 quiet",
        loader="flash-kernel",
        file="/etc/default/flash-kernel",
        line=f'LINUX_KERNEL_CMDLINE="quiet {WORD}"',
        command="flash-kernel",
        tool=bash('. etc/default/flash-kernel; echo "root=UUID=1 console=ttyS0 $LINUX_KERNEL_CMDLINE"'),
    ),
}
