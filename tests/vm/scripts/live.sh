#!/bin/sh
# A machine with three processors under Secure Boot crashes itself to be proven, and tells of it after the reboot.
set -eux

case $BOOT in
    1)
        grep -F '[integrity]' /sys/kernel/security/lockdown
        mkdir -m 0700 /var/crash
        mkdir -p /etc/kdump-initramfs
        printf '[capture]\ncpus = 2\n' > /etc/kdump-initramfs/config.toml
        kdump-initramfs build
        kdump-initramfs load
        kdump-initramfs load --print > "$REPORT/command"
        # Not on the first processor, which the capture kernel must leave alone then.
        last=$(($(nproc) - 1))
        [ "$last" -gt 1 ]
        if echo wrong | kdump-initramfs rehearse --live 2> "$REPORT/wrong"; then exit 1; fi
        uname -n | taskset -c "$last" kdump-initramfs rehearse --live
        ;;
    2)
        kdump-initramfs load
        kdump-initramfs status
        kdump-initramfs status --json > "$REPORT/status.json"
        kdump-initramfs dumps list --json > "$REPORT/list.json"
        cp /var/crash/*/vmcore-dmesg.txt /var/crash/*/kexec-dmesg.log "$REPORT"
        ;;
    *)
        echo "the guest crashed again"
        exit 1
        ;;
esac
