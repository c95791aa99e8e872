#!/bin/sh
# Gentoo's way on Debian: OpenRC, and a /boot that is not mounted when the machine is armed at boot, or loaded again for
# memory that is plugged in.
set -eux
# shellcheck source=/dev/null
. ./plugging.sh

case $BOOT in
    1)
        # What its package manager has changed.
        tar -C / -xf /var/cache/openrc.tar
        # As for the guest with systemd, those that would load a kernel, or look after devices, or only cost time: each
        # of them 3 to 10 s. The root is writable before.
        for service in kexec kexec-load multipath-tools multipath-tools-boot mdadm mdadm-waitidle dbus bootlogs \
            kmod hwclock.sh urandom brightness mountnfs.sh mountnfs-bootclean.sh mount-configfs hostname.sh \
            mountdevsubfs.sh checkroot.sh checkroot-bootclean.sh checkfs.sh mountall.sh mountall-bootclean.sh \
            bootmisc.sh cgroups rmnologin rc.local; do
            rm -f /etc/runlevels/*/$service
        done
        sed -i 's/udevadm trigger --type=devices --action=add/\/usr\/local\/sbin\/coldplug/' /etc/init.d/udev
        grep -w coldplug /etc/init.d/udev
        mkfs.ext4 -q /dev/disk/by-id/virtio-data
        mount /dev/disk/by-id/virtio-data /mnt
        cp -a /boot/*"$(uname -r)"* /mnt/
        umount /mnt
        mv /boot /boot.away
        mkdir /boot
        echo "/dev/disk/by-id/virtio-data /boot ext4 noauto 0 2" >> /etc/fstab
        mount /boot
        mkdir -m 0700 /var/crash
        kdump-initramfs enable
        kdump-initramfs build
        umount /boot
        cp openrc-script /etc/init.d/guest-script
        chmod +x /etc/init.d/guest-script
        rc-update add guest-script default
        touch /etc/openrc-starts
        sync
        echo b > /proc/sysrq-trigger
        ;;
    2)
        [ "$(cat /proc/1/comm)" = init ]
        rc-status --all
        rc-service kdump-initramfs status
        [ -z "$(ls /boot)" ]
        kdump-initramfs status --json > "$REPORT/status.json"
        kdump-initramfs load --print > "$REPORT/command"
        plug_and_follow 1
        sync
        cat token > /dev/kmsg
        echo c > /proc/sysrq-trigger
        ;;
    3)
        kdump-initramfs status --json > "$REPORT/again.json"
        kdump-initramfs dumps list --json > "$REPORT/list.json"
        cp /var/crash/*/vmcore-dmesg.txt "$REPORT"
        head -c 4096 /var/crash/*/vmcore > "$REPORT/head"
        kdump-initramfs disable
        [ ! -e /etc/runlevels/boot/kdump-initramfs ]
        ;;
    *)
        echo "the guest crashed again"
        exit 1
        ;;
esac
