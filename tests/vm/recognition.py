"""Exhibits whose whole dump is looked at after a crash: each needs something that only its own layer tells."""

from tests.vm.zoo import SAVED, Exhibit
from tests.vm.zoo_disks import HARDWARE

_CRYPT_KEY = "key=/etc/keys/$ZOO"
# Disks on buses of their own; a log or journal there needs a driver that the target's disk does not.
FAR_SCSI = "$(readlink -f /dev/disk/by-id/scsi-*far-scsi | head -n 1)"
FAR_SATA = "$(readlink -f /dev/disk/by-id/ata-*far-sata | head -n 1)"
# create_strip_zones() of drivers/md/raid0.c asks for default_layout where two members or more are larger than the least
# one, and the superblock does not say in which order they are used.
_UNEVEN = r"""
    whole=/dev/disk/by-id/virtio-uneven
    printf 'size=100M\nsize=140M\nsize=140M\n' | sfdisk --quiet --label gpt "$(readlink -f $whole)"
    udevadm settle
    array $ZOO 0 $whole-part1 $whole-part2 $whole-part3 -- --layout dangerous
"""

HOST = {
    "LVM with a snapshot": Exhibit(
        how="`lvcreate --snapshot`, the origin as the target",
        make="""
            node=$(volume $ZOO $1 -- --size 160M)
            lvcreate --quiet --snapshot --size 60M --name snap $ZOO/lv > /dev/null
            udevadm settle
            echo "$node"
        """,
        parts=1,
        reopen="vgchange --quiet --activate y",
        needs=("dm_snapshot",),
        right=SAVED,
    ),
    "LVM raid1 with integrity": Exhibit(
        how="`lvcreate --type raid1 --raidintegrity y`",
        make="volume $ZOO $1 $2 -- --type raid1 --mirrors 1 --raidintegrity y --size 160M",
        parts=2,
        reopen="vgchange --quiet --activate y",
        needs=("dm_raid", "dm_integrity"),
        right=SAVED,
    ),
    "btrfs, xxhash": Exhibit(
        how="`mkfs.btrfs --csum xxhash`",
        make="mkfs.btrfs -q -f -m single --csum xxhash $1; udevadm settle; echo $1",
        parts=1,
        mkfs="",
        needs=("btrfs", "xxhash_generic"),
        right=SAVED,
    ),
    "LUKS2, adiantum": Exhibit(
        how="`cryptsetup luksFormat --cipher xchacha12,aes-adiantum-plain64`",
        make="luks $ZOO $1 --type luks2 --cipher xchacha12,aes-adiantum-plain64 --key-size 256",
        parts=1,
        reopen=f"{_CRYPT_KEY}\ncryptsetup open --key-file $key $1 $ZOO",
        needs=("dm_crypt", "adiantum"),
        right=SAVED,
    ),
    "XFS, external log": Exhibit(
        how="`mkfs.xfs -l logdev=`, on virtio-scsi",
        # Of less than 300 MB, which mkfs.xfs does not do unasked.
        make=f"""
            far={FAR_SCSI}
            mkfs.xfs --unsupported -q -f -l logdev=$far,size=64m $1 > /dev/null
            udevadm settle
            echo $1
        """,
        parts=1,
        mkfs="",
        options=f"logdev={FAR_SCSI}",
        needs=("xfs", "virtio_scsi"),
        right=SAVED,
    ),
    "ext4, external journal on another bus": Exhibit(
        how="`mkfs.ext4 -J device=`, on SATA",
        make=f"""
            far={FAR_SATA}
            mkfs.ext4 -q -F -b 4096 -O journal_dev $far 64M
            mkfs.ext4 -q -F -b 4096 -J device=$far $1
            udevadm settle
            echo $1
        """,
        parts=1,
        mkfs="",
        # Numbers of SCSI disks change from boot to boot; so the boot of a distribution mends the superblock's.
        reopen="e2fsck -p $1 || [ $? = 1 ]",
        needs=("ext4", "ahci"),
        right=SAVED,
    ),
    "NVMe with native multipath": HARDWARE["NVMe with native multipath"],
    "mounted late": Exhibit(
        how="a line of fstab whose file system is not mounted when the image is built",
        make="echo $1",
        parts=1,
        right=SAVED,
        late=True,
    ),
    "module parameter of modprobe.d": Exhibit(
        how="`options raid0 default_layout=2`, `mdadm --level 0 --layout dangerous` of members of different sizes",
        make=f"echo 'options raid0 default_layout=2' > /etc/modprobe.d/zoo.conf\nmodprobe raid0\n{_UNEVEN}",
        reopen="assemble",
        needs=("raid0",),
        right=SAVED,
    ),
}

# move NAME DIRECTORY: the only module of that name is where DKMS, or a vendor's package, leaves its own.
_MOVE = """
    modules=/lib/modules/$(uname -r)
    move() {
        mkdir -p "$modules/$2"
        mv "$(find "$modules" -name "$1.ko*")" "$modules/$2"
    }
    move nvme updates/dkms
    move ahci extra/vendor
    move virtio_scsi weak-updates
    depmod
    # Those of Debian that the disks of this guest need are loaded.
    modprobe -a nvme ahci virtio_scsi
    udevadm settle
"""
SETUP_GENERIC = _MOVE


def _whole_disk(link: str, driver: str, where: str) -> Exhibit:
    return Exhibit(
        how=f"`{driver}.ko` in {where}, a generic image for a disk that is not there",
        make=f"readlink -f /dev/disk/by-id/{link}",
        mkfs="mkfs.ext4 -q -F {node} 240M",
        # As where the image is built for another machine.
        absent=f"modprobe --remove {driver}",
        reopen=f"modprobe {driver}",
        needs=(driver,),
        right=SAVED,
    )


GENERIC = {
    "driver of DKMS": _whole_disk("nvme-*far-nvme", "nvme", "updates/dkms"),
    "driver of a vendor": _whole_disk("ata-*far-sata", "ahci", "extra/"),
    "driver of weak-updates": _whole_disk("scsi-*far-scsi", "virtio_scsi", "weak-updates"),
    "module parameter of the command line": Exhibit(
        how="`raid0.default_layout=2`, `mdadm --level 0 --layout dangerous` of members of different sizes",
        make=f"modprobe raid0\n{_UNEVEN}",
        reopen="assemble",
        needs=("raid0",),
        right=SAVED,
    ),
}
