#!/bin/sh
# Assembles the arrays of the current target. With members missing it waits for them for a while, then starts an array
# degraded: of the members that are there, mdadm takes those whose event count is the newest.
# Settings: KDUMP_MDADM (path), KDUMP_MD_ARRAYS (two words for each: name, UUID), KDUMP_DEGRADED_AFTER_S.
set -eu
. /lib/kdump/lib.sh
[ -n "${KDUMP_MD_ARRAYS:-}" ] || exit 77

# There is no udev that mdadm could wait for.
export MDADM_NO_UDEV=1

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
    "$KDUMP_MDADM" --assemble "$_how" --config=partitions --auto=md --uuid="$2" "/dev/$1" || :
    is_running "$1"
}

missing=0
# shellcheck disable=SC2086  # words
set -- $KDUMP_MD_ARRAYS
while [ $# -ge 2 ]; do
    assemble_array "$1" "$2" || missing=1
    shift 2
done
[ "$missing" = 0 ] || exit "$NOT_YET"
