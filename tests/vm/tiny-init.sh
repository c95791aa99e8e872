#!/bin/busybox sh
# shellcheck shell=dash
# The whole system of the guests in tests/test_qemu.py; DO comes from the kernel's command line.
PATH=/bin
echo "tiny: hello"

case $DO in
    pci)
        mkdir -p /sys
        mount -t sysfs sysfs /sys
        cd /sys/bus/pci/devices || exit
        for device in *; do
            echo "tiny: pci $(cat "$device/vendor"):$(cat "$device/device")"
        done
        ;;
    stay)
        while :; do sleep 1; done
        ;;
esac
reboot -f
