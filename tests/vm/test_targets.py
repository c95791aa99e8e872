"""Dumps on what is no file system on a disk: raw partitions, shares of the hypervisor, files behind loop devices."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from kdump_initramfs.dumps import store
from kdump_initramfs.rehearsal import verify
from tests.vm.debian import MEMORY_MIB, Hardware
from tests.vm.storage import crash, marks

pytestmark = marks


# --- a raw partition ---------------------------------------------------------------------------------------------

RAW = """
    partition() {
        lsblk -nrpo NAME,TYPE "$(readlink -f "$DISKS/data")" | sed -n 's/ part$//p'
    }
    make_storage() {
        mkdir -p /etc/kdump-initramfs
        uuid=$(blkid -p -s PART_ENTRY_UUID -o value "$(one_partition data)")
        printf '[[target]]\\nkind = "raw"\\ndevice = "PARTUUID=%s"\\n' "$uuid" > /etc/kdump-initramfs/config.toml
        mkfs.ext4 -q "$(partition)"
        udevadm settle
        fails kdump-initramfs plan 2> "$REPORT/refusal"
        wipefs --all "$(partition)"
        udevadm settle
    }
    open_storage() {
        mkdir -p /var/crash
        mount --bind /var/crash /var/crash
        kdump-initramfs dumps recover --to /var/crash > "$REPORT/first"
        kdump-initramfs dumps recover --to /var/crash > "$REPORT/second"
    }
    check_storage() {
        cd /var/crash/*-*Z
        [ "$(stat -c %a .)" = 700 ]
        stat -c %a ./* | grep -vx 600 && return 1
        makedumpfile -R /tmp/vmcore < vmcore.flat
        # KDUMP, in eight bytes.
        [ "$(head -c 5 /tmp/vmcore)" = KDUMP ]
        # Whoever reads the dump by its configuration finds it there too.
        printf '[[target]]\\nkind = "path"\\n' > /etc/kdump-initramfs/config.toml
    }
"""


def test_a_dump_on_a_raw_partition_is_recovered_once(tmp_path: Path) -> None:
    report = crash("raw-partition", RAW, ["data"], Hardware(), tmp_path).report
    first, second = (report.files[name].decode() for name in ("first", "second"))
    assert "/var/crash/crashguest-" in first
    assert second.strip().endswith(": recovered already")
    assert "is not empty, ext4 is on it" in report.files["refusal"].decode()


# --- shares ------------------------------------------------------------------------------------------------------

SHARE = """
    make_storage() {
        mkdir -p /var/crash
        echo 'crash-tag /var/crash TYPE noauto,OPTIONS 0 0' >> /etc/fstab
        mount /var/crash
    }
"""


def check_share(directory: Path) -> None:
    """Check what is in the directory that was shared, from outside of the guest."""
    (dump,) = store.find([str(directory)])
    assert dump.record
    assert {check.name for check in verify.check_files(dump, dump.record) if not check.passed} == set()


def test_a_dump_is_saved_to_a_9p_share(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    words = (
        *("-fsdev", f"local,id=share,path={shared},security_model=none"),
        *("-device", "virtio-9p-pci,fsdev=share,mount_tag=crash-tag"),
    )
    case = SHARE.replace("TYPE", "9p").replace("OPTIONS", "trans=virtio,version=9p2000.L,msize=65536")
    crash("share-9p", case, (), Hardware(disks={}, extra=words), tmp_path, needs=("9p",))
    check_share(shared)


@contextmanager
def virtiofsd(shared: Path, socket: Path) -> Iterator[None]:
    words = ["/usr/lib/qemu/virtiofsd", f"--socket-path={socket}", "-o", f"source={shared}", "-f"]
    socket.unlink(missing_ok=True)
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 10
            while not socket.exists():
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
            yield
        finally:
            process.kill()


def test_a_dump_is_saved_to_a_virtiofs_share(tmp_path: Path) -> None:
    shared, socket = tmp_path / "shared", tmp_path / "socket"
    shared.mkdir()
    words = (
        *("-object", f"memory-backend-memfd,id=memory,size={MEMORY_MIB}M,share=on", "-numa", "node,memdev=memory"),
        *("-chardev", f"socket,id=share,path={socket}"),
        *("-device", "vhost-user-fs-pci,chardev=share,tag=crash-tag"),
    )
    case = SHARE.replace("TYPE", "virtiofs").replace("OPTIONS", "defaults")
    with ExitStack() as servers:

        def serve() -> tuple[str, ...]:
            # It serves one QEMU: none that tries KVM first, and none of another boot.
            servers.enter_context(virtiofsd(shared, socket))
            return words

        hardware = Hardware(disks={}, plugged=serve, accel="tcg")
        crash("share-virtiofs", case, (), hardware, tmp_path, needs=("virtiofs",))
    check_share(shared)


# --- loop devices ------------------------------------------------------------------------------------------------

LOOP = """
    attach() {
        mount "$DISKS/data" /srv
        losetup --partscan --find --show /srv/images/dumps.img
        udevadm settle
    }
    make_storage() {
        mkfs.xfs -q "$DISKS/data"
        mount "$DISKS/data" /srv
        mkdir /srv/images
        truncate -s 600M /srv/images/dumps.img
        echo 'type=linux' | sfdisk --quiet --label gpt /srv/images/dumps.img
        umount /srv
        loop=$(attach)
        vgcreate behind-file "${loop}p1"
        lvcreate --extents 100%FREE --name crash behind-file
        mkfs.ext4 -q /dev/behind-file/crash
        mount_new ext4 /dev/behind-file/crash
    }
    open_storage() {
        attach
        vgchange --activate y behind-file
        mount /var/crash
    }
"""


def test_a_dump_is_saved_in_a_file_behind_a_loop_device(tmp_path: Path) -> None:
    assert "I/O error" not in crash("lvm-on-loop-on-xfs", LOOP, ["data"], Hardware(), tmp_path).log


# --- a layer that only the site knows ----------------------------------------------------------------------------

EXAMPLE = Path(__file__).parent.parent.parent / "contrib" / "example-hooks"
LINEAR = """
    make_linear() {
        dmsetup create "only+here-too" --uuid LINEAR-here --table "0 $(blockdev --getsz "$1") linear $1 0"
        udevadm settle
    }
    make_storage() {
        partition=$(one_partition data)
        make_linear "$partition"
        mkfs.ext4 -q "/dev/mapper/only+here-too"
        mkdir -p /var/crash
        mount "/dev/mapper/only+here-too" /var/crash
        fails kdump-initramfs plan 2> "$REPORT/refusal"
        mkdir -p /etc/kdump-initramfs/hooks
        cp 36-linear.* /etc/kdump-initramfs/hooks
    }
    open_storage() {
        make_linear "$(lsblk -nrpo NAME,TYPE "$(readlink -f "$DISKS/data")" | sed -n 's/ part$//p')"
        mount "/dev/mapper/only+here-too" /var/crash
    }
"""


def test_a_layer_is_added_by_one_pair_of_files(tmp_path: Path) -> None:
    pair = {path.name: path.read_text() for path in EXAMPLE.iterdir()}
    assert pair.keys() >= {"36-linear.py", "36-linear.sh"}
    crashed = crash("layer-of-the-site", LINEAR, ["data"], Hardware(), tmp_path, files=pair)
    assert "a device of device-mapper of type linear that neither LVM" in crashed.report.files["refusal"].decode()
