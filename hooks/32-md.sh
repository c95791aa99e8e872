#!/bin/sh
# Assembles the arrays of the current target. With members missing it waits for them for a while, then starts an array
# degraded: of the members that are there, mdadm takes those whose event count is the newest. What the crash has left
# unfinished is not repaired here: that is for the system after the reboot, and here it would only take time.
# Settings: KDUMP_MDADM (path), KDUMP_MD_ARRAYS (two words for each: name, UUID), KDUMP_DEGRADED_AFTER_S.
set -eu
. /lib/kdump/lib.sh
[ -n "${KDUMP_MD_ARRAYS:-}" ] || exit 77

# There is no udev that mdadm could wait for.
export MDADM_NO_UDEV=1

# Arrays in a configuration: mdadm(8) follows --no-degraded only for what --scan finds there.
configuration=/run/kdump/mdadm.conf

# is_running DEVICE: do the member's reads and writes reach it?
is_running() {
    case $(cat "/sys/block/$1/md/array_state" 2>/dev/null) in
        clean | active | active-idle | write-pending | readonly | read-auto) return 0 ;;
        *) return 1 ;;
    esac
}

# assemble_array DEVICE UUID
assemble_array() {
    is_running "$1" && return
    if [ "$KDUMP_WAITED_S" -ge "$KDUMP_DEGRADED_AFTER_S" ]; then
        [ "$KDUMP_WAITED_S" -eq 0 ] || log "starting array $2 with the members that are there"
        _how=--run
    else
        # As many as were in sync when it was last written to, which in an array known to be degraded are not all of it.
        _how=--no-degraded
    fi
    # What an earlier try has left half assembled is in the way.
    "$KDUMP_MDADM" --stop "/dev/$1" >/dev/null 2>&1 || :
    printf 'DEVICE partitions\nARRAY /dev/%s UUID=%s\n' "$1" "$2" >"$configuration"
    "$KDUMP_MDADM" --assemble --scan "$_how" --config="$configuration" --auto=md "/dev/$1" || :
    is_running "$1" || return
    [ ! -e "/sys/block/$1/md/sync_action" ] || echo frozen >"/sys/block/$1/md/sync_action"
}

# Documentation/admin-guide/md.rst: without the first, a RAID5 that was written to in the crash and lacks a member is not
# started; with the second, no repair begins before the first write, and until then it can be frozen.
for parameter in start_dirty_degraded start_ro; do
    echo 1 >"/sys/module/md_mod/parameters/$parameter" || :
done
missing=0
# shellcheck disable=SC2086  # words
set -- $KDUMP_MD_ARRAYS
while [ $# -ge 2 ]; do
    assemble_array "$1" "$2" || missing=1
    shift 2
done
[ "$missing" = 0 ] || exit "$NOT_YET"
