#!/bin/sh
# Activates the logical volumes of the current target, and nothing else.
# Settings: KDUMP_LVM (path), KDUMP_LVM_SELECT (lvm --select), KDUMP_LVM_DM_UUIDS (what must be there then).
set -eu
. /lib/kdump/lib.sh
[ -n "${KDUMP_LVM_SELECT:-}" ] || exit 77

# Device-mapper names what it has in sysfs; there is no udev that could make links.
present() {
    for uuid in $KDUMP_LVM_DM_UUIDS; do
        grep -qxF "$uuid" /sys/block/dm-*/dm/uuid || return 1
    done
}

activate() {
    "$KDUMP_LVM" lvchange --activate y --sysinit --noudevsync --select "$KDUMP_LVM_SELECT" || :
    present || {
        sleep 1
        return 1
    }
}

wait_for "$KDUMP_DEVICE_TIMEOUT_S" activate || {
    "$KDUMP_LVM" pvs -o pv_name,pv_uuid,vg_name,vg_uuid || :
    die "no logical volume with $KDUMP_LVM_SELECT after $KDUMP_DEVICE_TIMEOUT_S s"
}
