#!/bin/sh
# Driver of targets that are a directory which the hypervisor shares: open, put NAME (from stdin), commit NAME, drop NAME,
# digest NAME, close. The tag is all that tells one share from another: it is the hypervisor that says what it means.
# Settings: KDUMP_SHARE_TYPE KDUMP_SHARE_TAG KDUMP_SHARE_OPTIONS KDUMP_DIRECTORY KDUMP_HOST KDUMP_DEVICE_TIMEOUT_S.
set -eu
. /lib/kdump/lib.sh
. /lib/kdump/devices.sh
. /lib/kdump/directory.sh

mount_share() {
    mount -t "$KDUMP_SHARE_TYPE" -o "$KDUMP_SHARE_OPTIONS" "$KDUMP_SHARE_TAG" /target
}

open_target() {
    device_name="$KDUMP_SHARE_TYPE $KDUMP_SHARE_TAG"
    wait_for "$KDUMP_DEVICE_TIMEOUT_S" mount_share || die "cannot mount $device_name"
    case $(mounted_line /target) in
        *" - $KDUMP_SHARE_TYPE $KDUMP_SHARE_TAG "*) ;;
        *) die "what is mounted is not $device_name" ;;
    esac
    check_writable /target
    open_directory "$KDUMP_DIRECTORY" shared
}

case $1 in
    open) open_target ;;
    *) directory_verb "$@" ;;
esac
