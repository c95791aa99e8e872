#!/bin/sh
# Runs 29-multipath on a disk that the kernel emulates: several hosts lead to it, each in another ALUA state.
set -eux

# resource NAME: prints where a directory of the tool's own files is.
resource() {
    python3 -c "from kdump_initramfs import resources; print(resources.directory('$1'))"
}

# udev runs multipath(8), which fails paths that it does not like.
udevadm settle
udevadm control --exit
modprobe -a scsi_dh_alua dm-multipath dm-round-robin
# The state is that of the host's number modulo 3 (resp_report_tgtpgs(), drivers/scsi/scsi_debug.c).
modprobe scsi_debug add_host=3 vpd_use_hostno=0 dev_size_mb=16
tries=0
until [ "$(cat /sys/bus/pseudo/drivers/scsi_debug/adapter*/host*/target*/*/access_state | sort -u | wc -l)" = 3 ]; do
    tries=$((tries + 1))
    [ "$tries" -lt 30 ]
    sleep 1
done

mkdir -p /lib/kdump /run/kdump
cp "$(resource templates)"/*.sh /lib/kdump
export KDUMP_DMSETUP=/usr/sbin/dmsetup KDUMP_WAITED_S=0 KDUMP_DEGRADED_AFTER_S=15
KDUMP_MULTIPATH="paths mpath-debug $(cat /sys/bus/pseudo/drivers/scsi_debug/adapter0/host*/target*/*/wwid) 3"
export KDUMP_MULTIPATH KDUMP_MULTIPATH_PARTITIONS=
sh "$(resource hooks)/29-multipath.sh"
dmsetup table paths > "$REPORT/table"
for disk in /sys/bus/pseudo/drivers/scsi_debug/adapter*/host*/target*/*/block/*; do
    echo "$(cat "$disk/dev") $(cat "$disk/device/access_state")"
done > "$REPORT/states"

head -c 4M /dev/urandom > written
dd if=written of=/dev/mapper/paths bs=1M oflag=direct
dmsetup message paths 0 fail_path "$(sed -n 's| active/optimized||p' "$REPORT/states")"
dd if=/dev/mapper/paths of=read bs=1M count=4 iflag=direct
cmp written read
dmsetup status paths > "$REPORT/paths-status"
