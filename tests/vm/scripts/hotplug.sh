#!/bin/sh
# Memory that is plugged in after the load: told first, then followed by the rule of udev; a crash, and its dump.
set -eux

blocks() {
    find /sys/devices/system/memory -name 'memory[0-9]*' | wc -l
}

# plug NUMBER: has the test plug in memory, and waits for it.
plug() {
    before=$(blocks)
    echo "hotplug: plug $1" > /dev/console
    tries=0
    until [ "$(blocks)" -gt "$before" ]; do
        tries=$((tries + 1))
        [ "$tries" -lt 60 ]
        sleep 1
    done
}

# load_time: prints when the capture kernel was loaded.
load_time() {
    kdump-initramfs status --json | sed -n 's/.*"loaded_at": *\([0-9]*\).*/\1/p'
}

case $BOOT in
    1)
        mkdir -m 0700 /var/crash
        kdump-initramfs load --rebuild
        plug 1
        status=0
        kdump-initramfs status > "$REPORT/stale" || status=$?
        [ $status = 3 ]

        kdump-initramfs enable
        if [ -d /run/systemd/system ]; then
            systemctl daemon-reload
            systemctl start kdump-initramfs.service
        else
            kdump-initramfs load
        fi
        kdump-initramfs status
        first=$(load_time)
        plug 2
        tries=0
        until kdump-initramfs status; do
            tries=$((tries + 1))
            [ "$tries" -lt 60 ]
            sleep 1
        done
        [ "$(load_time)" -gt "$first" ]
        sync
        cat token > /dev/kmsg
        echo c > /proc/sysrq-trigger
        ;;
    2)
        kdump-initramfs dumps list --json > "$REPORT/list.json"
        cp /var/crash/*/vmcore-dmesg.txt "$REPORT"
        head -c 4096 /var/crash/*/vmcore > "$REPORT/head"
        ;;
    *)
        echo "the guest crashed again"
        exit 1
        ;;
esac
