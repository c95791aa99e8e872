#!/bin/sh
# Activates the logical volumes of the current target, and nothing else. With physical volumes missing it waits for them
# for a while, then activates what can do without.
# Settings: KDUMP_LVM (path), KDUMP_LVM_SELECT (lvm --select), KDUMP_LVM_DM_UUIDS (what must be there then),
# KDUMP_LVM_POOLS (group/pool of thin pools, which are extended while they fill up, until the target is closed),
# KDUMP_LVM_DEGRADED, KDUMP_DEGRADED_AFTER_S, KDUMP_HOOK_TIMEOUT_S.
# With `watch` it is what goes on in the background then.
set -eu
. /lib/kdump/lib.sh
. /lib/kdump/process.sh
[ -n "${KDUMP_LVM_SELECT:-}" ] || exit 77
# Not only where a physical volume is missing, or in a thin pool.
: "$KDUMP_LVM_DEGRADED" "$KDUMP_DEGRADED_AFTER_S" "$KDUMP_HOOK_TIMEOUT_S"

all_there() {
    for uuid in $KDUMP_LVM_DM_UUIDS; do
        dm_exists "$uuid" || return 1
    done
}

# What dmeventd does on a running system: a pool that is nearly full takes free extents of its group. What LVM says is
# said once, and a pool that cannot be extended is one step of the record.
extend_pools() {
    for _pool in $KDUMP_LVM_POOLS; do
        read_clock
        # shellcheck disable=SC2154  # read_clock sets it
        _began=$clock_cs
        _failed=0
        _said=$("$KDUMP_LVM" lvextend --quiet --use-policies --noudevsync "$_pool" 2>&1) || _failed=$?
        case "$_heard" in
            *"<$_pool $_failed $_said>"*) continue ;;
        esac
        _heard="$_heard<$_pool $_failed $_said>"
        [ -z "$_said" ] || log "$_said"
        [ "$_failed" = 0 ] || record_step "$_failed" "$_began" "35-lvm lvextend $_pool"
    done
}

# A last look, when the target is closed: what was written back at the unmount may have filled the pool.
watch_pools() {
    _heard=
    until is_closed; do
        extend_pools
        _turns=5
        until is_closed || [ "$_turns" = 0 ]; do
            _turns=$((_turns - 1))
            pause 0.2
        done
    done
    extend_pools
}

# How long dm-thin lets a write wait for a full pool to be extended (0: for ever), before it fails. The close of the target
# has its own time, and must not be waiting when that is over.
NO_SPACE_TIMEOUT=/sys/module/dm_thin_pool/parameters/no_space_timeout

limit_waiting() {
    _most=$((KDUMP_HOOK_TIMEOUT_S / 2))
    _now=$(cat "$NO_SPACE_TIMEOUT" 2>/dev/null) || return 0
    if [ "$_now" -eq 0 ] || [ "$_now" -gt "$_most" ]; then
        echo "$_most" >"$NO_SPACE_TIMEOUT" || :
    fi
}

# keep_pools: another target may have begun to, whose session has ended since.
keep_pools() {
    [ -n "$KDUMP_LVM_POOLS" ] || return 0
    limit_waiting
    keep 35-lvm sh "$0" watch
}

[ "${1:-}" != watch ] || {
    watch_pools
    exit
}

# activate complete|degraded: --activationmode of lvchange(8). A thin snapshot is skipped without being asked for by name:
# lvcreate(8) sets that for each (--setactivationskip).
activate() {
    "$KDUMP_LVM" lvchange --activate y --ignoreactivationskip --activationmode "$1" --sysinit --noudevsync \
        --select "$KDUMP_LVM_SELECT" || :
}

if all_there; then
    keep_pools
    exit
fi
activate complete
if ! all_there && [ -n "$KDUMP_LVM_DEGRADED" ] && [ "$KDUMP_WAITED_S" -ge "$KDUMP_DEGRADED_AFTER_S" ]; then
    log "activating logical volumes degraded, with the physical volumes that are there"
    activate degraded
fi
all_there || {
    [ "$KDUMP_WAITED_S" -lt "$KDUMP_DEVICE_TIMEOUT_S" ] || "$KDUMP_LVM" pvs -o pv_name,pv_uuid,vg_name,vg_uuid || :
    exit "$NOT_YET"
}
keep_pools
