#!/bin/sh
# Storage that a capture environment could not open, or not as a whole: what `build` says of each is left in the report.
set -eux

disk=/dev/disk/by-id/virtio-data
key=/etc/keys/disk

# luks PBKDF-OPTION...: makes LUKS2 on the disk, with ext4 mounted at /var/crash.
luks() {
    cryptsetup luksFormat --batch-mode --type luks2 "$@" "$disk" "$key"
    cryptsetup open --key-file "$key" "$disk" crash
    mount_crash
}

mount_crash() {
    mkfs.ext4 -q /dev/mapper/crash
    udevadm settle
    mkdir -p /var/crash
    mount /dev/mapper/crash /var/crash
}

let_go() {
    umount /var/crash
    cryptsetup close crash
}

# refused NAME: `build` must fail.
refused() {
    if kdump-initramfs build 2> "$REPORT/$1"; then exit 1; fi
    cat "$REPORT/$1"
}

# Volumes over two physical volumes, of which the second goes: one that needs both, and one that does not.
for size in 300M 100M 200M 200M; do
    echo "size=$size"
done | sfdisk --quiet --label gpt "$disk"
udevadm settle
vgcreate --quiet lin-vg "$disk-part1" "$disk-part2"
lvcreate --quiet --extents 100%FREE --name the-lv lin-vg
vgcreate --quiet mirrored "$disk-part3" "$disk-part4"
lvcreate --quiet --type raid1 --mirrors 1 --nosync --size 100M --name crash mirrored
mkfs.ext4 -q /dev/lin-vg/the-lv
mkfs.ext4 -q /dev/mirrored/crash
vgchange --quiet --activate n
udevadm settle
wipefs --quiet --all "$disk-part2" "$disk-part4"
vgchange --quiet --activate y --activationmode partial lin-vg
vgchange --quiet --activate y --activationmode degraded mirrored
udevadm settle
mkdir -p /var/crash
mount /dev/lin-vg/the-lv /var/crash
refused missing-volume
[ ! -e /var/lib/kdump-initramfs ]
umount /var/crash
mount /dev/mirrored/crash /var/crash
kdump-initramfs plan > /dev/null 2> "$REPORT/degraded"
umount /var/crash
vgchange --quiet --activate n
wipefs --quiet --all "$disk"

mkdir -p /etc/keys
(umask 077 && head -c 64 /dev/urandom > "$key")

luks --pbkdf pbkdf2 --pbkdf-force-iterations 1000
echo "crash $disk none luks" > /etc/crypttab
refused passphrase
echo "crash $disk /etc/keys/gone luks" > /etc/crypttab
refused no-key-file
let_go

luks --pbkdf argon2id --pbkdf-memory 262144 --pbkdf-force-iterations 4 --pbkdf-parallel 1
echo "crash $disk $key luks" > /etc/crypttab
refused argon2
let_go

wipefs --quiet --all "$disk"
cryptsetup open --type plain --batch-mode --cipher aes-xts-plain64 --key-size 256 --key-file "$key" "$disk" crash
mount_crash
refused plain
let_go
