#!/bin/sh
# A machine that is armed once and for all: enable, a kernel package that is configured, a reboot, memory that is plugged
# in, a crash, and the next boot, which must be armed again.
set -eux
# shellcheck source=/dev/null
. ./plugging.sh

other=$(cat other)

# status FILE: the machine must be armed, with nothing that has changed.
status() {
    kdump-initramfs status --json > "$REPORT/$1"
    systemctl is-active kdump-initramfs.service
    systemctl show --property=Result kdump-initramfs.service
}

case $BOOT in
    1)
        mkdir -m 0700 /var/crash
        kdump-initramfs enable
        # The usual initramfs of that kernel, which nobody boots here, would take more than a minute.
        chmod -x /etc/kernel/postinst.d/initramfs-tools
        # What apt does when it installs a kernel: its postinst runs the hooks for that one, which does not run.
        dpkg-reconfigure --frontend=noninteractive "linux-image-$other" > "$REPORT/postinst" 2>&1
        cat "$REPORT/postinst"
        kdump-initramfs inspect "/var/lib/kdump-initramfs/initrd-$other.img" --manifest > "$REPORT/manifest.json"
        [ ! -e "/var/lib/kdump-initramfs/initrd-$(uname -r).img" ]
        systemctl reboot --force
        sleep 1000
        ;;
    2)
        systemctl status --no-pager kdump-initramfs.service || :
        status armed.json
        kdump-initramfs check --json > "$REPORT/check.json" || :
        # What comes while nobody follows is told of.
        rule=/etc/udev/rules.d/98-kdump-initramfs.rules
        mv "$rule" rule
        udevadm control --reload
        plug 1
        status=0
        kdump-initramfs status > "$REPORT/stale" || status=$?
        [ $status = 3 ]
        mv rule "$rule"
        udevadm control --reload
        plug_and_follow 2
        sync
        cat token > /dev/kmsg
        echo c > /proc/sysrq-trigger
        ;;
    3)
        status again.json
        kdump-initramfs dumps list --json > "$REPORT/list.json"
        cp /var/crash/*/vmcore-dmesg.txt "$REPORT"
        head -c 4096 /var/crash/*/vmcore > "$REPORT/head"
        kdump-initramfs disable
        [ ! -e /etc/systemd/system/sysinit.target.wants/kdump-initramfs.service ]
        ;;
    *)
        echo "the guest crashed again"
        exit 1
        ;;
esac
