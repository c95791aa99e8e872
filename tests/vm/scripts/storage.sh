#!/bin/sh
# A dump on the storage that the file `case` makes: an image, a crash, and a look at what was saved. `case` defines
# what differs from this:
set -eux

# make_storage: makes the storage and mounts it; below $DISKS are the blank disks, by serial number.
# before_crash: what happens to it after the image is loaded.
before_crash() {
    :
}
# open_storage: mounts it again after the crash.
open_storage() {
    mount /var/crash
}
# check_storage: what must hold of it after the crash.
check_storage() {
    :
}

# arm: builds the image and loads it. In one process, whose start alone takes 3 s under software emulation.
arm() {
    kdump-initramfs load --rebuild --set "image.compression=$(cat compression)"
}

# Disks that do not come back after the crash.
away=

DISKS=/dev/disk/by-serial

# find_link NAME: sets `link` to the link of a disk below /dev/disk/by-id. Each bus and driver has its own way to name it;
# the serial number is in all of them. An array or a volume of that name is no disk.
find_link() {
    for link in /dev/disk/by-id/*[-_]"$1" /dev/disk/by-id/*[-_]"$1"-0:0; do
        case $link in
            */md-* | */dm-* | */lvm-*) ;;
            *) [ ! -e "$link" ] || return 0 ;;
        esac
    done
    return 1
}

# Gives each disk its name below $DISKS, and writes its device to NAME.node. USB and SCSI disks take their time.
name_disks() {
    mkdir -p $DISKS
    udevadm settle
    while read -r name; do
        case "$BOOT $away " in
            [2-9]*" $name "*) continue ;;
        esac
        tries=0
        until find_link "$name"; do
            tries=$((tries + 1))
            [ "$tries" -lt 40 ]
            sleep 1
            udevadm settle
        done
        node=$(readlink -f "$link")
        echo "$node" > "$name.node"
        ln -sf "$node" "$DISKS/$name"
    done < disks
    udevadm settle
}

# mount_new TYPE DEVICE [OPTIONS]: mounts what was made at /var/crash, now and at the next boot, by its UUID.
mount_new() {
    udevadm settle
    mkdir -p /var/crash
    echo "UUID=$(blkid -p -s UUID -o value "$2") /var/crash $1 noauto,${3:-defaults} 0 0" >> /etc/fstab
    mount /var/crash
}

# partitions NAME gpt|dos LINE...: partitions a whole disk, each as a LINE of sfdisk(8), and prints their devices.
partitions() {
    whole=$1 label=$2
    shift 2
    printf '%s\n' "$@" | sfdisk --quiet --label "$label" "$DISKS/$whole" >&2
    udevadm settle
    lsblk -nrpo NAME,TYPE "$(readlink -f "$DISKS/$whole")" | sed -n 's/ part$//p'
}

# one_partition NAME: makes one GPT partition of a whole disk and prints its device.
one_partition() {
    partitions "$1" gpt type=linux
}

# array NAME LEVEL DEVICE...: makes /dev/md/NAME.
array() {
    array=$1 level=$2
    shift 2
    mdadm --create "/dev/md/$array" --run --assume-clean --level "$level" --raid-devices $# "$@"
    udevadm settle
}

# mirror DEVICE DEVICE: makes the RAID1 /dev/md/mirror.
mirror() {
    array mirror 1 "$@"
}

# fails COMMAND...: the command must not succeed.
fails() {
    if "$@"; then return 1; fi
}

# key_file PATH: makes a key.
key_file() {
    mkdir -p "${1%/*}"
    (umask 077 && head -c 64 /dev/urandom > "$1")
}

# shellcheck source=/dev/null
. ./case
name_disks
case $BOOT in
    1)
        make_storage
        udevadm settle
        arm
        cp "/var/lib/kdump-initramfs/initrd-$(uname -r).img.json" "$REPORT/build.json"
        before_crash
        sync
        cat token > /dev/kmsg
        echo c > /proc/sysrq-trigger
        ;;
    2)
        open_storage
        [ "$(findmnt -n -o TARGET --target /var/crash)" != / ]
        check_storage
        cd /var/crash
        for dump in "$(uname -n)"-*; do
            ln -s "$PWD/$dump" "$REPORT/$dump"
        done
        ;;
    *)
        echo "the guest crashed again"
        exit 1
        ;;
esac
