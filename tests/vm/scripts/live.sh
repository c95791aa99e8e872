#!/bin/sh
# A machine with two processors under lockdown crashes itself to be proven, and tells of it after the reboot.
set -eux

case $BOOT in
    1)
        grep -F '[integrity]' /sys/kernel/security/lockdown
        mkdir -m 0700 /var/crash
        kdump-initramfs build
        kdump-initramfs load
        kdump-initramfs load --print > "$REPORT/command"
        # On the last processor, which is not the one that the capture kernel would come up on by itself.
        last=$(($(nproc) - 1))
        [ "$last" -gt 0 ]
        if echo wrong | kdump-initramfs rehearse --live 2> "$REPORT/wrong"; then exit 1; fi
        uname -n | taskset -c "$last" kdump-initramfs rehearse --live
        ;;
    2)
        kdump-initramfs load
        kdump-initramfs status
        kdump-initramfs status --json > "$REPORT/status.json"
        kdump-initramfs dumps list --json > "$REPORT/list.json"
        cp /var/crash/*/vmcore-dmesg.txt "$REPORT"
        ;;
    *)
        echo "the guest crashed again"
        exit 1
        ;;
esac
