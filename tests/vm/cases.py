"""The storage that tests/vm/test_storage.py crashes a guest on: what scripts/storage.sh makes of each, as shell."""

from collections.abc import Mapping

from msgspec import Struct, field

from kdump_initramfs.rehearsal.qemu import Bus


class Case(Struct, frozen=True, kw_only=True):
    # Shell functions for scripts/storage.sh.
    script: str
    # Serial number -> bus.
    disks: Mapping[str, Bus] = field(default_factory=lambda: {"data": "virtio-blk"})
    cpus: int = 1
    # Drivers that the guest's kernel must have, besides those of the disks.
    needs: tuple[str, ...] = ()
    # Whether what is missing is waited for, until it is started without.
    waits: bool = False


CASES = {
    "btrfs-subvolume-on-raid1": Case(
        disks={"one": "virtio-blk", "two": "nvme"},
        needs=("btrfs",),
        script="""
            make_storage() {
                mkfs.btrfs -q -m raid1 -d raid1 "$DISKS/one" "$DISKS/two"
                mount "$DISKS/one" /mnt
                btrfs subvolume create /mnt/@crash
                umount /mnt
                mount_new btrfs "$DISKS/one" subvol=@crash
            }
            check_storage() {
                btrfs scrub start -B /var/crash
                btrfs device stats --check /var/crash
                btrfs filesystem df /var/crash > df
                fails grep '^Data, single' df
            }
        """,
    ),
    "vfat-partition-on-sata": Case(
        disks={"data": "ahci"},
        needs=("vfat",),
        script="""
            make_storage() {
                partition=$(one_partition data)
                mkfs.vfat -F 32 "$partition"
                mount_new vfat "$partition" umask=077
            }
        """,
    ),
    "lvm-thin": Case(
        needs=("dm_thin_pool",),
        # The pool is smaller than the dump, and must grow while it is saved.
        script="""
            make_storage() {
                vgcreate "thin+vg" "$DISKS/data"
                lvcreate --type thin-pool --size 32M --name the-pool "thin+vg"
                lvcreate --thin --virtualsize 512M --name the-volume "thin+vg/the-pool"
                mkfs.ext4 -q -J size=4 /dev/thin+vg/the-volume
                mount_new ext4 /dev/thin+vg/the-volume
            }
            check_storage() {
                [ "$(lvs --noheadings --nosuffix --units m -o lv_size thin+vg/the-pool | cut -d . -f 1)" -gt 32 ]
            }
        """,
    ),
    "lvm-raid1-under-hostile-settings": Case(
        disks={"one": "virtio-blk", "two": "virtio-scsi"},
        needs=("dm_raid", "xfs"),
        # As after a change of hardware, and as lvmdevices(8) leaves it when it was interrupted.
        script="""
            make_storage() {
                vgcreate mirrored "$DISKS/one" "$DISKS/two"
                lvcreate --type raid1 --mirrors 1 --nosync --size 400M --name crash mirrored
                mkfs.xfs -q /dev/mirrored/crash
                mount_new xfs /dev/mirrored/crash
                cp -r /etc/lvm /etc/lvm.good
                mkdir -p /etc/lvm/devices
                : > /etc/lvm/devices/system.devices
                printf 'devices {\\n use_devicesfile = 1\\n global_filter = [ "r|.*|" ]\\n}\\n' > /etc/lvm/lvm.conf
                fails lvs mirrored/crash
            }
            open_storage() {
                rm -r /etc/lvm
                mv /etc/lvm.good /etc/lvm
                vgchange --activate y mirrored
                mount /var/crash
            }
            check_storage() {
                [ "$(lvs --noheadings -o lv_health_status mirrored/crash | tr -d ' ')" = "" ]
            }
        """,
    ),
    "md-raid1-degraded": Case(
        disks={"one": "virtio-blk", "two": "virtio-blk"},
        needs=("raid1",),
        # The image was built while the array was whole; the disk that fails then is not there any more.
        script="""
            make_storage() {
                mirror "$DISKS/one" "$DISKS/two"
                mkfs.ext4 -q /dev/md/mirror
                mount_new ext4 /dev/md/mirror
            }
            before_crash() {
                mdadm /dev/md/mirror --fail "$(cat one.node)"
                mdadm /dev/md/mirror --remove "$(cat one.node)"
                wipefs -a "$(cat one.node)"
            }
            check_storage() {
                mdadm --detail "$(findmnt -n -o SOURCE /var/crash)" | grep 'State : .*degraded'
            }
        """,
    ),
    "md-raid1-stale-leg": Case(
        disks={"stale": "virtio-blk", "fresh": "virtio-blk"},
        needs=("raid1",),
        script="""
            make_storage() {
                mirror "$DISKS/stale" "$DISKS/fresh"
                mkfs.ext4 -q /dev/md/mirror
                mount_new ext4 /dev/md/mirror
            }
            before_crash() {
                mdadm /dev/md/mirror --fail "$(cat stale.node)"
                mdadm /dev/md/mirror --remove "$(cat stale.node)"
                echo fresh > /var/crash/newer
            }
            check_storage() {
                grep fresh /var/crash/newer
                ls -d /var/crash/crashguest-*
            }
        """,
    ),
    "luks-key-file": Case(
        needs=("dm_crypt",),
        script="""
            make_storage() {
                key_file /etc/cryptsetup-keys.d/crash.key
                cryptsetup luksFormat --batch-mode --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 \\
                    "$DISKS/data" /etc/cryptsetup-keys.d/crash.key
                cryptsetup open --key-file /etc/cryptsetup-keys.d/crash.key "$DISKS/data" crash
                echo "crash UUID=$(cryptsetup luksUUID "$DISKS/data") /etc/cryptsetup-keys.d/crash.key luks" \\
                    >> /etc/crypttab
                mkfs.ext4 -q /dev/mapper/crash
                mount_new ext4 /dev/mapper/crash
            }
            open_storage() {
                cryptsetup open --key-file /etc/cryptsetup-keys.d/crash.key "$DISKS/data" crash
                mount /var/crash
            }
        """,
    ),
    "md-luks-lvm-xfs": Case(
        disks={"one": "virtio-blk", "two": "virtio-blk"},
        needs=("raid1", "dm_crypt", "xfs"),
        # The key is behind Argon2, with several threads (cryptsetup makes no more than there are CPUs).
        cpus=2,
        script="""
            make_storage() {
                mirror "$DISKS/one" "$DISKS/two"
                key_file /etc/keys/disk
                cryptsetup luksFormat --batch-mode --type luks2 --pbkdf argon2id --pbkdf-memory 32768 \\
                    --pbkdf-force-iterations 4 --pbkdf-parallel 2 /dev/md/mirror /etc/keys/disk
                cryptsetup luksDump /dev/md/mirror | grep 'Threads: *2'
                cryptsetup open --key-file /etc/keys/disk /dev/md/mirror middle-layer
                echo 'middle-layer /dev/md/mirror /etc/keys/disk luks' >> /etc/crypttab
                vgcreate upper /dev/mapper/middle-layer
                lvcreate --size 400M --name crash upper
                mkfs.xfs -q /dev/upper/crash
                mount_new xfs /dev/upper/crash
            }
            open_storage() {
                cryptsetup open --key-file /etc/keys/disk /dev/md/mirror middle-layer
                vgchange --activate y upper
                mount /var/crash
            }
        """,
    ),
    "md-raid1-of-nvme-partitions-bind-mounted-behind-a-link": Case(
        disks={"one": "nvme", "two": "nvme"},
        needs=("raid1", "xfs"),
        script="""
            make_storage() {
                mirror "$(one_partition one)" "$(one_partition two)"
                mkfs.xfs -q /dev/md/mirror
                mkdir -p /srv/disk /srv/bound
                mount /dev/md/mirror /srv/disk
                mkdir -p /srv/disk/deep/dumps
                mount --bind /srv/disk/deep/dumps /srv/bound
                ln -s ../srv/bound /var/crash
            }
            open_storage() {
                array="/dev/$(ls /sys/block | grep '^md')"
                mount "$array" /srv/disk
                mount --bind /srv/disk/deep/dumps /srv/bound
            }
            check_storage() {
                mdadm --detail "$array" | grep 'Working Devices : 2'
            }
        """,
    ),
    "f2fs": Case(
        needs=("f2fs",),
        script="""
            make_storage() {
                mkfs.f2fs -q "$DISKS/data"
                mount_new f2fs "$DISKS/data"
            }
        """,
    ),
    "exfat-partition-on-usb": Case(
        disks={"data": "usb-storage"},
        needs=("exfat",),
        script="""
            make_storage() {
                partition=$(partitions data dos type=7)
                mkfs.exfat "$partition"
                mount_new exfat "$partition" umask=077
            }
        """,
    ),
    "lvm-striped-with-dashes-behind-links-to-a-deep-directory": Case(
        disks={"one": "virtio-blk", "two": "ahci"},
        needs=("xfs",),
        script="""
            make_storage() {
                vgcreate vg-with-dashes "$DISKS/one" "$DISKS/two"
                lvcreate --stripes 2 --size 400M --name lv--with-dashes vg-with-dashes
                mkfs.xfs -q /dev/vg-with-dashes/lv--with-dashes
                mkdir -p /srv/volume
                mount /dev/vg-with-dashes/lv--with-dashes /srv/volume
                deep="/srv/volume/$(printf 'level-%s/' $(seq 30))with space"
                mkdir -p "$deep"
                ln -s "$deep" /srv/absolute
                ln -s ../srv/absolute /var/crash
            }
            open_storage() {
                vgchange --activate y vg-with-dashes
                mount /dev/vg-with-dashes/lv--with-dashes /srv/volume
            }
        """,
    ),
    "lvm-thin-named-in-fstab-of-another-root": Case(
        needs=("dm_thin_pool",),
        # What an installer leaves: a root that does not run, and a name in its fstab that tells nothing of a device.
        script="""
            root=/mnt/root
            make_storage() {
                vgcreate the-installed "$DISKS/data"
                lvcreate --type thin-pool --size 480M --name pool the-installed
                lvcreate --thin --virtualsize 470M --name var--crash the-installed/pool
                mkfs.ext4 -q /dev/the-installed/var--crash
                mkdir -p /var/crash "$root"
                echo '/dev/mapper/the--installed-var----crash /var/crash ext4 noauto,defaults 0 0' >> /etc/fstab
                vgchange --activate n the-installed
                mount --bind / "$root"
                fails ls "$root/proc/self"
            }
            arm() {
                kdump-initramfs build --root "$root" --set image.mode=generic \\
                    --set "image.compression=$(cat compression)" "$(uname -r)"
                kdump-initramfs load
            }
            before_crash() {
                umount "$root"
                vgchange --activate y the-installed
                mount /var/crash
            }
        """,
    ),
    "md-raid0-of-raid5-one-degraded-and-dirty": Case(
        disks={"one": "virtio-blk", "two": "nvme"},
        needs=("raid0", "raid456"),
        # As in a crash with writes on their way. An array is clean again a while after the last write, here later.
        script="""
            make_storage() {
                array lower-one 5 $(partitions one gpt size=150M size=150M size=150M)
                array lower-two 5 $(partitions two gpt size=150M size=150M size=150M)
                array upper 0 /dev/md/lower-one /dev/md/lower-two
                mkfs.ext4 -q /dev/md/upper
                mount_new ext4 /dev/md/upper
            }
            before_crash() {
                lost=$(lsblk -nrpo NAME,TYPE "$(cat one.node)" | sed -n 's/ part$//p' | head -n 1)
                mdadm /dev/md/lower-one --fail "$lost"
                mdadm /dev/md/lower-one --remove "$lost"
                wipefs -a "$lost"
                lower=/sys/block/$(basename "$(realpath /dev/md/lower-one)")/md
                echo 3600 > "$lower/safe_mode_delay"
                echo dirty > /var/crash/dirty
                sync
                grep active "$lower/array_state"
            }
            open_storage() {
                modprobe md_mod
                echo 1 > /sys/module/md_mod/parameters/start_dirty_degraded
                # Whatever the distribution has begun with; then the lower ones, then the upper one.
                mdadm --stop --scan || true
                mdadm --assemble --scan --run || true
                udevadm settle
                mdadm --assemble --scan --run || true
                udevadm settle
                cat /proc/mdstat
                mount /var/crash
            }
        """,
        waits=True,
    ),
    "luks1-on-lvm-on-md-raid6-on-mbr-partitions": Case(
        disks={"data": "virtio-scsi"},
        needs=("raid456", "dm_crypt"),
        # The last member of the array is a logical partition, in the fourth.
        script="""
            make_storage() {
                set -- $(partitions data dos size=150M size=150M size=150M type=extended size=150M)
                [ $# = 5 ]
                array six 6 "$1" "$2" "$3" "$5"
                vgcreate lower /dev/md/six
                lvcreate --extents 100%FREE --name secret lower
                key_file /etc/keys/disk
                cryptsetup luksFormat --batch-mode --type luks1 --pbkdf-force-iterations 1000 \\
                    /dev/lower/secret /etc/keys/disk
                cryptsetup open --key-file /etc/keys/disk /dev/lower/secret crash
                echo 'crash /dev/lower/secret /etc/keys/disk luks' >> /etc/crypttab
                mkfs.ext4 -q /dev/mapper/crash
                mount_new ext4 /dev/mapper/crash
            }
            open_storage() {
                udevadm settle
                vgchange --activate y lower
                cryptsetup open --key-file /etc/keys/disk /dev/lower/secret crash
                mount /var/crash
            }
            check_storage() {
                mdadm --detail "/dev/$(ls /sys/block | grep '^md')" | grep 'Working Devices : 4'
            }
        """,
    ),
    "lvm-cached-on-md-raid10-mounted-read-only-below-another-mount": Case(
        disks={"one": "virtio-blk", "two": "virtio-blk", "fast": "virtio-scsi", "outer": "virtio-blk"},
        needs=("raid10", "dm_cache", "dm_cache_smq", "xfs"),
        # What was written last is on the fast disk alone.
        script="""
            make_storage() {
                array ten 10 $(partitions one gpt size=250M size=250M) $(partitions two gpt size=250M size=250M)
                vgcreate cached /dev/md/ten "$DISKS/fast"
                lvcreate --size 400M --name crash cached /dev/md/ten
                lvcreate --type cache --cachemode writeback --size 64M cached/crash "$DISKS/fast"
                mkfs.xfs -q /dev/cached/crash
                mkfs.ext4 -q "$DISKS/outer"
                mkdir -p /srv/outer
                mount "$DISKS/outer" /srv/outer
                mkdir -p /srv/outer/between/inner
                mount -o ro /dev/cached/crash /srv/outer/between/inner
                fails touch /srv/outer/between/inner/written
                ln -s /srv/outer/between/inner /var/crash
            }
            open_storage() {
                udevadm settle
                vgchange --activate y cached
                mount "$DISKS/outer" /srv/outer
                fails ls /srv/outer/between/inner/*
                mount /dev/cached/crash /srv/outer/between/inner
            }
            check_storage() {
                lvs --noheadings -o segtype,cache_mode cached/crash | grep 'cache *writeback'
            }
        """,
    ),
}
