#!/bin/sh
# Makes ext4 on a thin volume, in a pool that must grow while a dump is saved, and leaves the facts in $REPORT.
set -eux

disk=/dev/disk/by-id/virtio-data
mkdir -p /var/crash
# It is for the inspection to activate it, when it chooses.
vgcreate --setautoactivation n thin "$disk"
lvcreate --type thin-pool --size 12M --name pool thin
lvcreate --thin --virtualsize 256M --name volume thin/pool
mkfs.ext4 -q -J size=4 -U "$(cat uuid)" /dev/thin/volume
mount /dev/thin/volume /var/crash
kdump-initramfs probe --json > "$REPORT/facts.json"
umount /var/crash
vgchange --activate n thin
sync
