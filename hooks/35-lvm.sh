#!/bin/sh
# Activates the logical volumes of the current target, and nothing else. With physical volumes missing it waits for them
# for a while, then activates what can do without.
# Settings: KDUMP_LVM (path), KDUMP_LVM_SELECT (lvm --select), KDUMP_LVM_DM_UUIDS (what must be there then),
# KDUMP_LVM_POOLS (group/pool of thin pools, which are extended while they fill up), KDUMP_LVM_DEGRADED,
# KDUMP_DEGRADED_AFTER_S.
set -eu
. /lib/kdump/lib.sh
[ -n "${KDUMP_LVM_SELECT:-}" ] || exit 77
# Not only where a physical volume is missing.
: "$KDUMP_LVM_DEGRADED" "$KDUMP_DEGRADED_AFTER_S"

all_there() {
    for uuid in $KDUMP_LVM_DM_UUIDS; do
        dm_exists "$uuid" || return 1
    done
}

# What dmeventd does on a running system: a pool that is nearly full takes free extents of its group.
watch_pools() {
    while sleep 1; do
        for _pool in $KDUMP_LVM_POOLS; do
            "$KDUMP_LVM" lvextend --quiet --use-policies --noudevsync "$_pool" || :
        done
    done
}

# activate complete|degraded: --activationmode of lvchange(8).
activate() {
    "$KDUMP_LVM" lvchange --activate y --activationmode "$1" --sysinit --noudevsync --select "$KDUMP_LVM_SELECT" || :
}

all_there && exit 0
activate complete
if ! all_there && [ -n "$KDUMP_LVM_DEGRADED" ] && [ "$KDUMP_WAITED_S" -ge "$KDUMP_DEGRADED_AFTER_S" ]; then
    log "activating logical volumes degraded, with the physical volumes that are there"
    activate degraded
fi
all_there || {
    [ "$KDUMP_WAITED_S" -lt "$KDUMP_DEVICE_TIMEOUT_S" ] || "$KDUMP_LVM" pvs -o pv_name,pv_uuid,vg_name,vg_uuid || :
    exit "$NOT_YET"
}
[ -z "$KDUMP_LVM_POOLS" ] || watch_pools &
