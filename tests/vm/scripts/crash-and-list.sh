#!/bin/sh
# An administrator's way to a dump: storage on LVM, build, load, a crash, and a look at what was saved.
set -eux

prepare_storage() {
    pvcreate --quiet /dev/disk/by-id/virtio-data
    vgcreate --quiet crash-vg /dev/disk/by-id/virtio-data
    lvcreate --quiet --extents 100%FREE --name dump-lv crash-vg
    mkfs.ext4 -q /dev/crash-vg/dump-lv
    mkdir -p /var/crash
    echo '/dev/crash-vg/dump-lv /var/crash ext4 defaults 0 2' >> /etc/fstab
    mount /var/crash
}

case $BOOT in
    1)
        prepare_storage
        kdump-initramfs build
        kdump-initramfs load
        kdump-initramfs status
        kdump-initramfs status --json > "$REPORT/status.json"
        sync
        cat token > /dev/kmsg
        echo c > /proc/sysrq-trigger
        ;;
    2)
        [ -d /run/systemd/system ] || mount /var/crash
        mountpoint /var/crash
        kdump-initramfs dumps list --json > "$REPORT/list.json"
        # One dump: more than one name here makes `show` fail.
        cd /var/crash
        kdump-initramfs dumps show --json "$(uname -n)"-* > "$REPORT/show.json"
        cp "$(uname -n)"-*/vmcore-dmesg.txt "$REPORT"
        ;;
    *)
        echo "the guest crashed again"
        exit 1
        ;;
esac
