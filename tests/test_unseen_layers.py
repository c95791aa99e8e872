"""Roots that are not running: a file system that may be on a layer which nothing in fstab names is not a plain one."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from kdump_initramfs.config import DiskTarget, PathTarget
from kdump_initramfs.errors import HostError
from kdump_initramfs.host import crypttab, targets
from kdump_initramfs.host.root import Root
from kdump_initramfs.model import CryptEntry
from kdump_initramfs.storage import DirectoryTarget, UnseenDevice
from tests import command, trees
from tests.narrow import only
from tests.test_unseen_lvm import LINEAR, backup, volume

Make = Callable[[Mapping[str, str | bytes | Path]], Root]
HostRoot = Callable[[str], Root]

LUKS = "6f7d5f22-8f0c-4f0e-9d3a-3f1f0e2b7c11"
UUID = "0b5a9f5c-54b4-4a7c-8a4c-0a2f6f3d1e01"
FEDORA = f"""\
UUID={UUID} / btrfs subvol=root,compress=zstd:1,x-systemd.device-timeout=0 0 0
UUID=99887766-5544-3322-1100-ffeeddccbbaa /boot ext4 defaults 1 2
UUID=7A1C-5A52 /boot/efi vfat umask=0077,shortname=winnt 0 2
UUID={UUID} /home btrfs subvol=home,compress=zstd:1 0 0
"""
CRYPTTAB = f"luks-{LUKS} UUID={LUKS} none discard,x-initramfs.attach\n"
PLAIN = f"UUID={UUID} / ext4 defaults 0 1\n"


def read(root: Root, path: str = "/var/crash") -> DirectoryTarget:
    return only(DirectoryTarget, *targets.read(root, (PathTarget(path=path),), generic=True))


def refusal(root: Root, path: str = "/var/crash") -> HostError:
    with pytest.raises(HostError) as caught:
        read(root, path)
    assert caught.value.hint
    assert "--facts" in caught.value.hint
    return caught.value


# What tells of a layer, and how it is called.
TOLD: dict[str, tuple[dict[str, str], str]] = {
    "Fedora": ({"/etc/crypttab": CRYPTTAB}, f"luks-{LUKS}, which crypttab opens"),
    "a key file": ({"/etc/crypttab": "data /dev/sda3 /etc/keys/data luks\n"}, "data, which crypttab opens"),
    "mkinitcpio": ({"/etc/crypttab.initramfs": f"root UUID={LUKS} none\n"}, "root, which crypttab opens"),
    "plain dm-crypt": ({"/etc/crypttab": "old /dev/sda3 /etc/key plain\n"}, "old, which crypttab opens"),
    "a key alone": ({"/etc/cryptsetup-keys.d/cryptroot.key": "k"}, "cryptroot, which is opened with"),
    "dracut": ({"/etc/kernel/cmdline": f"root=UUID={UUID} rd.luks.uuid=luks-{LUKS} quiet\n"}, f"luks-{LUKS}"),
    "sd-encrypt": ({"/boot/loader/entries/arch.conf": f"options rd.luks.name={LUKS}=croot\n"}, "croot, an encrypted"),
    "encrypt": ({"/etc/default/grub": f'GRUB_CMDLINE_LINUX="cryptdevice=UUID={LUKS}:cr:allow-discards"\n'}, "cr, an"),
    "Alpine": ({"/etc/default/grub": f"GRUB_CMDLINE_LINUX_DEFAULT=cryptroot=UUID={LUKS} cryptdm=r\n"}, "r, an"),
    "genkernel": ({"/boot/grub/grub.cfg": f"linux /vmlinuz crypt_root=UUID={LUKS} dolvm\n"}, "root, an encrypted"),
    "OpenRC": ({"/etc/conf.d/dmcrypt": "# target='no'\ntarget='crypt-home'\nsource='/dev/hda5'\n"}, "crypt-home, an"),
    "a volume": ({"/etc/lvm/backup/the-vg": backup(volume("a-b", LINEAR))}, "the-vg/a-b, a logical volume"),
    "an array": ({"/etc/mdadm/mdadm.conf": "ARRAY /dev/md/0 metadata=1.2 UUID=1:2:3:4\n"}, "/dev/md/0, an array"),
    "an array without a name": ({"/etc/mdadm.conf": "ARRAY metadata=1.2 UUID=1:2:3:4\n"}, "UUID=1:2:3:4, an array"),
    "one of two": (
        {"/etc/crypttab": CRYPTTAB + "b /dev/sdb none\n", "/etc/fstab": f"{PLAIN}/dev/mapper/b /b xfs defaults 0 0\n"},
        f"luks-{LUKS}, which crypttab opens",
    ),
    "btrfs by two names": (
        {"/etc/crypttab": CRYPTTAB, "/etc/fstab": f"{FEDORA}/dev/mapper/luks-{LUKS} /srv btrfs subvol=srv 0 0\n"},
        f"luks-{LUKS}, which crypttab opens",
    ),
}


@pytest.mark.parametrize(("files", "what"), TOLD.values(), ids=TOLD.keys())
def test_file_system_that_may_be_inside_of_a_layer_is_refused(files: dict[str, str], what: str, sysroot: Make) -> None:
    error = refusal(sysroot({"/etc/fstab": FEDORA, **files}))
    assert str(error).startswith(f"/var/crash: on UUID={UUID} (")
    assert f"which may be inside {what}" in str(error)
    assert "PARTUUID=" in str(error.hint)


@pytest.mark.parametrize("spec", [f"/dev/disk/by-uuid/{UUID}", "LABEL=dumps"])
def test_other_names_of_a_file_system_tell_no_more(spec: str, sysroot: Make) -> None:
    root = sysroot({"/etc/fstab": f"{spec} / ext4 defaults 0 1\n", "/etc/crypttab": CRYPTTAB})
    assert "which may be inside" in str(refusal(root))


# What is known to hold something else, or nothing that stays.
NOT_TOLD: dict[str, dict[str, str]] = {
    "nothing": {},
    "a comment": {"/etc/crypttab": "# <name> <device> <key>\n#luks UUID=x none\n"},
    "swap": {"/etc/crypttab": "swap /dev/sda2 /dev/urandom swap,cipher=aes-xts-plain64\n"},
    "a temporary file system": {"/etc/crypttab": "tmp /dev/sda2 /dev/urandom tmp=ext4\n"},
    "one that is mounted by name": {
        "/etc/crypttab": CRYPTTAB,
        "/etc/fstab": f"{PLAIN}/dev/mapper/luks-{LUKS} /home ext4 defaults 0 2\n",
    },
    "swap that is kept": {
        "/etc/crypttab": f"cryptswap UUID={LUKS} none luks\n",
        "/etc/fstab": f"{PLAIN}/dev/mapper/cryptswap none swap sw 0 0\n",
    },
    "LVM on LUKS": {
        "/etc/crypttab": f"vda5_crypt UUID={LUKS} none luks\n",
        "/etc/lvm/backup/the-vg": backup(volume("root", LINEAR), device="/dev/mapper/vda5_crypt"),
        "/etc/fstab": f"{PLAIN}/dev/mapper/the--vg-root /srv ext4 defaults 0 1\n",
        "/etc/default/grub": f"GRUB_CMDLINE_LINUX=rd.luks.uuid={LUKS}\n",
    },
    "an array that is mounted by name": {
        "/etc/mdadm.conf": "ARRAY /dev/md/0 UUID=1:2:3:4\nARRAY <ignore> UUID=5:6:7:8\n",
        "/etc/fstab": f"{PLAIN}/dev/md0 /srv xfs defaults 0 0\n",
    },
    "a command line that was commented out": {"/etc/default/grub": f"#X=rd.luks.uuid={LUKS}\n  # cryptdevice=a:b\n"},
    "no key": {"/etc/cryptsetup-keys.d/README": "x", "/etc/cryptsetup-keys.d/dir.key/": ""},
}


@pytest.mark.parametrize("files", NOT_TOLD.values(), ids=NOT_TOLD.keys())
def test_file_system_that_is_in_no_layer_is_taken(files: dict[str, str], sysroot: Make) -> None:
    found = read(sysroot({"/etc/fstab": PLAIN, **files}))
    assert (found.filesystem.uuid, found.device.kind) == (UUID, "unseen")


def test_partition_is_the_way_out(sysroot: Make) -> None:
    root = sysroot({"/etc/fstab": "PARTUUID=5A0F8C1E-01 / ext4 defaults 0 1\n", "/etc/crypttab": CRYPTTAB})
    assert only(UnseenDevice, read(root).device).part_uuid == "5a0f8c1e-01"
    disk = DiskTarget(device="PARTUUID=5a0f8c1e-02", fs_type="xfs")
    found = only(DirectoryTarget, *targets.read(root, (disk,), generic=True))
    assert only(UnseenDevice, found.device).part_uuid == "5a0f8c1e-02"


def test_device_of_the_configuration_is_looked_at_likewise(sysroot: Make) -> None:
    root = sysroot({"/etc/fstab": "", "/etc/crypttab": CRYPTTAB})
    with pytest.raises(HostError, match="which may be inside luks-"):
        targets.read(root, (DiskTarget(device=f"UUID={UUID}", fs_type="xfs"),), generic=True)


def test_tables_of_a_machine_that_runs_are_not_those_of_another(sysroot: Make) -> None:
    mountinfo = "28 1 254:1 / / rw - ext4 /dev/vda1 rw\n"
    root = sysroot({"/etc/crypttab": CRYPTTAB, "/proc/self/mountinfo": mountinfo})
    assert targets.read(root, (DiskTarget(device=f"UUID={UUID}", fs_type="xfs"),), generic=True)


@pytest.mark.parametrize("spec", ["/dev/mapper/cryptroot", "/dev/disk/by-id/dm-name-cryptroot"])
def test_encrypted_device_that_fstab_names_is_called_one(spec: str, sysroot: Make) -> None:
    root = sysroot(
        {"/etc/fstab": f"{spec} / ext4 defaults 0 1\n", "/etc/crypttab": f"cryptroot UUID={LUKS} /key luks\n"}
    )
    error = refusal(root)
    assert str(error).startswith("/var/crash: on cryptroot, which crypttab opens: how to open it after a crash")
    assert "UUID=" not in str(error.hint)


@pytest.mark.parametrize("spec", ["/dev/mapper/unknown", "/dev/md/0", "/dev/md127", "/dev/bcache0", "/dev/dm-3"])
def test_remedy_for_a_device_that_stands_on_others_does_not_hide_them(spec: str, sysroot: Make) -> None:
    assert "UUID=" not in str(refusal(sysroot({"/etc/fstab": f"{spec} / ext4 defaults 0 1\n"})).hint)


def test_no_image_is_built_for_it(host_root: HostRoot, tmp_path: Path) -> None:
    root = host_root("root-without-proc")
    trees.make(f"file /etc/crypttab {CRYPTTAB.strip()}", Path(root.directory))
    image = tmp_path / "image"
    ended = command.run("build", "--root", root.directory, "-o", str(image))
    assert ended.returncode
    assert "which may be inside luks-" in ended.stderr
    assert not image.exists()


@pytest.mark.parametrize(
    ("unit", "at"),
    [
        ("/etc/systemd/system/local-fs.target.wants/var.mount", "/var"),
        ("/etc/systemd/system/multi-user.target.requires/var-crash.automount", "/var/crash"),
    ],
)
def test_what_a_unit_mounts_is_not_what_fstab_has_above(unit: str, at: str, sysroot: Make) -> None:
    root = sysroot({"/etc/fstab": PLAIN, unit: "[Mount]\n"})
    assert str(refusal(root)).startswith(f"/var/crash: on {at}, which the unit {unit.rpartition('/')[2]} mounts")


def test_what_a_unit_mounts_elsewhere_is_no_matter(sysroot: Make) -> None:
    wants = "/etc/systemd/system/local-fs.target.wants"
    units = {f"{wants}/{unit}.mount": "" for unit in ("srv", "var-crash-x", "-")}
    elsewhere = read(sysroot({"/etc/fstab": PLAIN, **units}))
    assert elsewhere.device.content.uuid == UUID
    both = f"{PLAIN}PARTUUID=5a0f8c1e-01 /var xfs defaults 0 0\n"
    found = read(sysroot({"/etc/fstab": both, f"{wants}/var.mount": ""}))
    assert only(UnseenDevice, found.device).part_uuid == "5a0f8c1e-01"


# --- keys that are called by the device --------------------------------------------------------------------------

KEY = "/etc/cryptsetup-keys.d/home.key"
RUN_KEY = "/run/cryptsetup-keys.d/home.key"


@pytest.mark.parametrize(
    ("line", "files", "key"),
    [
        ("home UUID=x", (KEY,), KEY),
        ("home UUID=x none luks", (KEY,), KEY),
        ("home UUID=x - luks", (KEY, RUN_KEY), KEY),
        ("home UUID=x none", (RUN_KEY,), RUN_KEY),
        ("home UUID=x /etc/keys/home", (KEY,), "/etc/keys/home"),
        ("home UUID=x none", (f"{KEY}/",), ""),
        ("home UUID=x none", ("/etc/cryptsetup-keys.d/homes.key",), ""),
    ],
)
def test_key_that_crypttab_does_not_name_is_found_by_the_name_of_the_device(
    line: str, files: tuple[str, ...], key: str, sysroot: Make
) -> None:
    found = crypttab.read(sysroot({"/etc/crypttab": f"{line}\n", **dict.fromkeys(files, "")}))
    assert {entry.key_file for entry in found if entry.name == "home"} == {key}


def test_key_of_a_device_that_the_command_line_opens_is_found(sysroot: Make) -> None:
    root = sysroot({f"/etc/cryptsetup-keys.d/luks-{LUKS}.key": "", "/etc/cryptsetup-keys.d/.key": ""})
    assert crypttab.read(root) == (
        CryptEntry(name=f"luks-{LUKS}", source="", key_file=f"/etc/cryptsetup-keys.d/luks-{LUKS}.key"),
    )


@pytest.mark.parametrize("table", ["vda2_crypt UUID=1f2e3d4c-5b6a-7988-1f2e-3d4c5b6a7988 none luks", ""])
def test_that_key_goes_into_the_image(table: str, host_root: HostRoot) -> None:
    root = host_root("luks-volume-key")
    key = "/etc/cryptsetup-keys.d/vda2_crypt.key"
    trees.make(f"file {key} secret\nfile /etc/crypttab {table}", Path(root.directory))
    ended = command.run("plan", "--root", root.directory)
    assert ended.returncode == 0, ended.stderr
    assert key in ended.stdout
