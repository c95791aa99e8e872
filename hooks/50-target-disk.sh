#!/bin/sh
# Driver of targets that are a directory on a file system of block devices: open, put NAME (from stdin), commit NAME,
# drop NAME, digest NAME, close.
# Settings: KDUMP_DEVICE (its description in /etc/kdump/devices), KDUMP_DIRECTORY, KDUMP_HOST, KDUMP_DEVICE_TIMEOUT_S.
# open leaves the path of the new dump directory in /run/kdump/dump-directory: a collector may write there itself.
set -eu
. /lib/kdump/lib.sh
. /lib/kdump/devices.sh
. /lib/kdump/directory.sh

open_target() {
    describe "$KDUMP_DEVICE"
    choose_devices "$KDUMP_DEVICE_TIMEOUT_S"
    mount_devices /target
    open_directory "$KDUMP_DIRECTORY"
}

case $1 in
    open) open_target ;;
    *) directory_verb "$@" ;;
esac
