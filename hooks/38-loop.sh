#!/bin/sh
# Sets up the loop devices of the current target: mounts the file system that holds the file below /run/kdump/loops, and
# makes a device of the file. What is mounted there stays so: a loop device passes on every flush of what is on it.
# Settings: KDUMP_LOOPS (numbers of descriptions in /etc/kdump/devices: loop-N, and loop-N.file with offset and path).
set -eu
. /lib/kdump/lib.sh
. /lib/kdump/devices.sh
[ -n "${KDUMP_LOOPS:-}" ] || exit 77

# is_set_up PATH OFFSET
is_set_up() {
    for _loop in /sys/block/loop*/loop; do
        if [ "$(cat "$_loop/backing_file" 2>/dev/null)" = "$1" ] && [ "$(cat "$_loop/offset")" = "$2" ]; then
            return
        fi
    done
    return 1
}

# set_up NUMBER: exits with NOT_YET where the devices below are not there.
set_up() {
    _place="/run/kdump/loops/$1"
    # Blanks at the ends of the path are its own.
    IFS= read -r _path <"/etc/kdump/devices/loop-$1.file"
    _start=${_path%% *}
    _path=${_path#* }
    is_set_up "$_place/$_path" "$_start" && return
    if [ -z "$(mounted_line "$_place")" ]; then
        describe "loop-$1"
        mkdir -p "$_place"
        await_devices
        choose_devices 0
        mount_devices "$_place"
    fi
    [ -f "$_place/$_path" ] || die "there is no file $_path to make a loop device of"
    losetup -P -o "$_start" -f "$_place/$_path"
}

for number in $KDUMP_LOOPS; do
    set_up "$number"
done
