#!/bin/sh
# Makes the multipath devices of the current target, of all disks that say to be the same as their paths did, and the
# partitions on them. While paths are missing it waits for them for a while, then makes do with those that are there.
# Settings: KDUMP_DMSETUP (path), KDUMP_MULTIPATH (four words for each device: name, dm UUID, id of its paths, number of
# paths), KDUMP_MULTIPATH_PARTITIONS (four words for each: name, dm UUID, dm UUID of the device, number of the
# partition), KDUMP_DEGRADED_AFTER_S.
set -eu
. /lib/kdump/lib.sh
. /lib/kdump/devices.sh
[ -n "${KDUMP_MULTIPATH:-}" ] || exit 77

# There is no udev that could make device nodes, or that a program could wait for (libdevmapper).
export DM_DISABLE_UDEV=1

is_late() {
    [ "$KDUMP_WAITED_S" -ge "$KDUMP_DEGRADED_AFTER_S" ]
}

# is_path NAME ID: is that a whole disk with this id that device-mapper can open? One that is not ends a whole table.
is_path() {
    [ ! -e "/sys/class/block/$1/partition" ] && [ "$(disk_id "$1")" = "$2" ] &&
        [ "$(cat "/sys/class/block/$1/size")" != 0 ] && { true <"$(device_node "$1")"; } 2>/dev/null
}

# paths ID: prints the disks with this id; first those that the array prefers, as far as it tells (SCSI ALUA).
paths() {
    _preferred=
    _others=
    for _name in $(block_devices); do
        is_path "$_name" "$1" || continue
        case $(cat "/sys/class/block/$_name/device/access_state" 2>/dev/null) in
            active/optimized) _preferred="$_preferred $_name" ;;
            *) _others="$_others $_name" ;;
        esac
    done
    echo "$_preferred$_others"
}

# table PATH...: prints the table of a multipath device (multipath_ctr(), drivers/md/dm-mpath.c). Each path is a priority
# group of its own: the next is taken when one fails, and the last one's error is the device's. The kernel keeps the
# handler that it has attached to the disks, and asks an array that is busy changing controllers again, every 2 s.
table() {
    printf '0 %s multipath 3 retain_attached_hw_handler pg_init_retries 10 0 %s 1' \
        "$(cat "/sys/class/block/$1/size")" $#
    for _name in "$@"; do
        printf ' round-robin 0 1 0 %s' "$(cat "/sys/class/block/$_name/dev")"
    done
}

# make_device NAME DM-UUID ID COUNT
make_device() {
    dm_exists "$2" && return
    _new=$1
    _uuid=$2
    _count=$4
    # shellcheck disable=SC2046  # words
    set -- $(paths "$3")
    [ $# -ge "$_count" ] || is_late || return 1
    log "$_uuid: $# of $_count paths are there: $*"
    [ $# -gt 0 ] && "$KDUMP_DMSETUP" create "$_new" --uuid "$_uuid" --table "$(table "$@")"
}

# make_partition NAME DM-UUID DEVICE-DM-UUID NUMBER: where it lies is what the kernel has found on any of the paths.
make_partition() {
    dm_exists "$2" && return
    _device=$(grep -lxF "$3" /sys/block/dm-*/dm/uuid 2>/dev/null)
    _device=${_device%/dm/uuid}
    for _file in "$_device"/slaves/*/*/partition; do
        [ "$(cat "$_file" 2>/dev/null)" = "$4" ] || continue
        _place=${_file%/partition}
        "$KDUMP_DMSETUP" create "$1" --uuid "$2" \
            --table "0 $(cat "$_place/size") linear $(cat "$_device/dev") $(cat "$_place/start")"
        return
    done
    return 1
}

there=0
missing=0
# shellcheck disable=SC2086  # words
set -- $KDUMP_MULTIPATH
while [ $# -ge 4 ]; do
    if make_device "$1" "$2" "$3" "$4"; then
        there=$((there + 1))
    else
        missing=1
    fi
    shift 4
done
# One that is lost may be a member of an array that can do without: where another is there, the layers above decide.
if [ "$missing" = 1 ] && ! { is_late && [ "$there" -gt 0 ]; }; then
    exit "$HOLD"
fi

missing=0
# shellcheck disable=SC2086  # words
set -- $KDUMP_MULTIPATH_PARTITIONS
while [ $# -ge 4 ]; do
    ! dm_exists "$3" || make_partition "$1" "$2" "$3" "$4" || missing=1
    shift 4
done
[ "$missing" = 0 ] || exit "$HOLD"
