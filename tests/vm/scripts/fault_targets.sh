#!/bin/sh
# Makes the targets of fault_targets.py that take a running kernel to make, and leaves their facts in $REPORT.
set -eux

disks=/dev/disk/by-id/virtio-

# target NAME TYPE DEVICE [OPTIONS]: makes a file system, mounts it, and makes it a target.
target() {
    case $2 in
        ext4) mkfs.ext4 -q -J size=4 "$3" ;;
        xfs) mkfs.xfs -q -f "$3" ;;
    esac
    mkdir -p "/srv/$1"
    mount -o "${4:-defaults}" "$3" "/srv/$1"
    printf '[[target]]\nkind = "path"\npath = "/srv/%s"\n' "$1" >> /etc/kdump-initramfs/config.toml
}

# mirror NAME DEVICE...: makes the RAID1 /dev/md/NAME.
mirror() {
    array=$1
    shift
    mdadm --create "/dev/md/$array" --run --assume-clean --level 1 --raid-devices $# "$@"
    udevadm settle
}

# encrypt DEVICE NAME
encrypt() {
    cryptsetup luksFormat --batch-mode --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 "$1" "$REPORT/key"
    cryptsetup open --key-file "$REPORT/key" "$1" "$2"
    echo "$2 UUID=$(cryptsetup luksUUID "$1") $REPORT/key luks" >> /etc/crypttab
}

mkdir -p /etc/kdump-initramfs
(umask 077 && head -c 64 /dev/urandom > "$REPORT/key")

mkfs.btrfs -q -m raid1 -d raid1 "${disks}btrfs-1" "${disks}btrfs-2"
mount "${disks}btrfs-1" /mnt
btrfs subvolume create /mnt/@crash
umount /mnt
target btrfs btrfs "${disks}btrfs-1" subvol=@crash

vgcreate the-group "${disks}lvm-1"
lvcreate --size 300M --name the-volume the-group
target lvm ext4 /dev/the-group/the-volume

vgcreate thin "${disks}thin-1"
lvcreate --type thin-pool --size 300M --name pool thin
lvcreate --thin --virtualsize 280M --name volume thin/pool
target thin ext4 /dev/thin/volume

encrypt "${disks}luks-1" secret
target luks ext4 /dev/mapper/secret

mirror mirror "${disks}md-1" "${disks}md-2"
target md ext4 /dev/md/mirror

mirror lowest "${disks}stack-1" "${disks}stack-2"
encrypt /dev/md/lowest middle
vgcreate upper /dev/mapper/middle
lvcreate --size 320M --name crash upper
target stack xfs /dev/upper/crash

udevadm settle
kdump-initramfs probe --json > "$REPORT/facts.json"
umount /srv/*
vgchange --activate n the-group thin upper
cryptsetup close secret
cryptsetup close middle
mdadm --stop --scan
sync
