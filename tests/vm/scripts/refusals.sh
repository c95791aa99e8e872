#!/bin/sh
# Encrypted storage that a capture environment could not open: what `plan` says of each is left in the report.
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

# refused NAME: `plan` must fail.
refused() {
    if kdump-initramfs plan > /dev/null 2> "$REPORT/$1"; then exit 1; fi
    cat "$REPORT/$1"
}

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
