#!/bin/sh
# Opens the LUKS devices of the current target with their key files.
# Settings: KDUMP_CRYPTSETUP (path), KDUMP_CRYPT (four words for each: UUID of the header, name, dm UUID, key file).
set -eu
. /lib/kdump/lib.sh
[ -n "${KDUMP_CRYPT:-}" ] || exit 77

# There is no udev that could make device nodes, or that a program could wait for (libdevmapper).
export DM_DISABLE_UDEV=1

# is_header NAME UUID: does a LUKS header with this UUID lie there? Its magic is at 0, its UUID, as text, at 168.
is_header() {
    ! has_holder "$1" && bytes_are "$1" 0 6 4c554b53babe && [ "$(device_bytes "$1" 168 36 | tr -d '\000')" = "$2" ]
}

# open_device UUID NAME DM-UUID KEY-FILE
open_device() {
    dm_exists "$3" && return
    for _device in $(block_devices); do
        if is_header "$_device" "$1"; then
            "$KDUMP_CRYPTSETUP" open --type luks --batch-mode --disable-locks --key-file "$4" \
                "$(device_node "$_device")" "$2"
            dm_exists "$3"
            return
        fi
    done
    return 1
}

missing=0
# shellcheck disable=SC2086  # words
set -- $KDUMP_CRYPT
while [ $# -ge 4 ]; do
    open_device "$1" "$2" "$3" "$4" || missing=1
    shift 4
done
[ "$missing" = 0 ] || exit "$NOT_YET"
