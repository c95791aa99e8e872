#!/bin/sh
# Shows that the guest itself works: what is written before an abrupt reboot is there in the next boot.
set -eux

case $BOOT in
    1)
        test -b /dev/disk/by-id/virtio-data
        cp token "$REPORT/first"
        sync
        echo b > /proc/sysrq-trigger
        sleep 60
        ;;
    2)
        uname -r > "$REPORT/release"
        exit 7
        ;;
esac
