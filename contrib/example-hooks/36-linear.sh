#!/bin/sh
# Makes the linear devices of the current target, as their partitions appear.
# Settings: KDUMP_DMSETUP (path), KDUMP_LINEAR (two words for each: uuid, and UUID of the partition below).
set -eu
. /lib/kdump/lib.sh
. /lib/kdump/devices.sh
[ -n "${KDUMP_LINEAR:-}" ] || exit 77

# There is no udev that dmsetup could wait for.
export DM_DISABLE_UDEV=1

# make_linear UUID PARTUUID
make_linear() {
    dm_exists "$1" && return
    for _device in $(block_devices); do
        [ "$(part_uuid "$_device")" = "$2" ] || continue
        _sectors=$(cat "/sys/class/block/$_device/size")
        # The name is ours: it is the uuid that is looked for.
        "$KDUMP_DMSETUP" create "kdump-$1" --uuid "$1" --table "0 $_sectors linear $(device_node "$_device") 0"
        dm_exists "$1"
        return
    done
    return 1
}

missing=0
# shellcheck disable=SC2086  # words
set -- $KDUMP_LINEAR
while [ $# -ge 2 ]; do
    make_linear "$1" "$2" || missing=1
    shift 2
done
[ "$missing" = 0 ] || exit "$NOT_YET"
