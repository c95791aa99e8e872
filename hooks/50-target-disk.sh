#!/bin/sh
# Driver of targets that are a directory on a file system: open, put NAME (from stdin), commit NAME, close.
# Settings: KDUMP_FS_TYPE KDUMP_FS_OPTIONS KDUMP_FS_UUID KDUMP_FS_CONTENT KDUMP_FS_COUNT KDUMP_FS_DM_UUIDS KDUMP_FS_DISKS
# KDUMP_DIRECTORY KDUMP_HOST KDUMP_DEVICE_TIMEOUT_S.
# open leaves the path of the new dump directory in /run/kdump/dump-directory: a collector may write there itself.
set -eu
. /lib/kdump/lib.sh

mount_point=/target

# has_content NAME: does the device carry the magic and the UUID of the file system? KDUMP_FS_CONTENT has six words for
# each layout that the file system may have: offset, length and bytes of the magic, and of the UUID.
has_content() {
    _device=$1
    # shellcheck disable=SC2086  # words
    set -- $KDUMP_FS_CONTENT
    while [ $# -ge 6 ]; do
        bytes_are "$_device" "$1" "$2" "$3" && bytes_are "$_device" "$4" "$5" "$6" && return
        shift 6
    done
    return 1
}

# is_known NAME: does a second thing agree with what was seen when the image was built? For device-mapper the beginning
# of its UUID; for others the size in sectors, or the disk's id. Nothing was seen where the hardware was not there.
is_known() {
    [ -n "$KDUMP_FS_DM_UUIDS$KDUMP_FS_DISKS" ] || return 0
    _dm_uuid=$(cat "/sys/class/block/$1/dm/uuid" 2>/dev/null) || :
    for _word in $KDUMP_FS_DM_UUIDS; do
        case $_dm_uuid in
            "$_word"*) return 0 ;;
        esac
    done
    _size=$(cat "/sys/class/block/$1/size")
    _disk_id=$(disk_id "$1")
    for _word in $KDUMP_FS_DISKS; do
        [ "${_word%%:*}" != "$_size" ] || return 0
        [ -z "$_disk_id" ] || [ "${_word#*:}" != "$_disk_id" ] || return 0
    done
    strangers="$strangers; $1 has its UUID, but neither the size ($_size sectors) nor the id ($_disk_id)"
    return 1
}

# Sets `names` to all devices that are the ones that were meant, `count` to their number, and `strangers` to what is wrong
# with those that are not quite.
find_devices() {
    names=
    count=0
    strangers=
    for _candidate in $(block_devices); do
        if [ -b "$(device_node "$_candidate")" ] && ! has_holder "$_candidate" && has_content "$_candidate" &&
            is_known "$_candidate"; then
            names="$names $_candidate"
            count=$((count + 1))
        fi
    done
    [ "$count" -ge "$KDUMP_FS_COUNT" ]
}

# Sets `names`, and `options` for the mount: as many devices as the file system has, or of a btrfs those that are left.
choose_devices() {
    options=$KDUMP_FS_OPTIONS
    if ! wait_for "$KDUMP_DEVICE_TIMEOUT_S" find_devices; then
        [ "$count" -gt 0 ] ||
            die "no device with file system UUID $KDUMP_FS_UUID after $KDUMP_DEVICE_TIMEOUT_S s$strangers; there are:" \
                "$(block_devices | tr '\n' ' ')"
        log "only $count of $KDUMP_FS_COUNT devices are there:$names"
        options="$options,degraded"
    fi
    [ "$count" -le "$KDUMP_FS_COUNT" ] || die "file system UUID $KDUMP_FS_UUID is on several devices:$names"
    # Without udev a btrfs learns of its other devices from the mount options alone.
    [ "$KDUMP_FS_COUNT" -eq 1 ] || for _name in $names; do
        options="$options,device=$(device_node "$_name")"
    done
}

# Prints the line of what is mounted there, the topmost if there are several; nothing if there is nothing.
mounted_line() {
    grep " $mount_point " /proc/self/mountinfo | tail -n 1
}

# carrier_number LINE: prints "major:minor" of the device that a line of mountinfo names. A btrfs has no number of its own
# there, but the path of any one of its devices.
carrier_number() {
    case $1 in
        *" - btrfs "*)
            _path=${1##* - btrfs }
            # shellcheck disable=SC2046  # two words, hexadecimal
            set -- $(stat -L -c '%t %T' "${_path%% *}")
            echo "$((0x$1)):$((0x$2))"
            ;;
        *) echo "$1" | cut -d ' ' -f 3 ;;
    esac
}

# check_mount NAME...: one of the devices that were meant is what is mounted, read-write: a disk that is read-only mounts
# with status 0, and what is written to a directory without a mount lands in the memory of the initramfs.
check_mount() {
    _line=$(mounted_line)
    _number=$(carrier_number "$_line")
    for _name in "$@"; do
        cat "/sys/class/block/$_name/dev"
    done | grep -qxF "$_number" || die "what is mounted is not $* but: $_line"
    case ",$(echo "$_line" | cut -d ' ' -f 6)," in
        *,rw,*) ;;
        *) die "$1 could only be mounted read-only" ;;
    esac
}

# The directory takes a write that reaches the device and can be read back. It is the new one, in which nobody can have
# put anything before the crash.
check_write() {
    _probe="$1/probe"
    echo "$KDUMP_HOST" | dd of="$_probe" conv=fsync || die "$1 takes no write"
    [ "$(cat "$_probe")" = "$KDUMP_HOST" ] || die "$1 does not return what was written"
    rm "$_probe"
}

open_target() {
    choose_devices
    # The first of the names.
    # shellcheck disable=SC2086
    set -- $names
    mount -t "$KDUMP_FS_TYPE" -o "$options" "$(device_node "$1")" "$mount_point" || die "cannot mount $1 ($KDUMP_FS_TYPE)"
    check_mount "$@"
    parent="$mount_point${KDUMP_DIRECTORY:+/$KDUMP_DIRECTORY}"
    mkdir -p "$parent"
    [ "$(realpath "$parent")" = "$parent" ] || die "$parent leads elsewhere: $(realpath "$parent")"
    make_directory "$parent"
    check_write "$(recall dump-directory)"
}

close_target() {
    [ -n "$(mounted_line)" ] || exit 77
    umount "$mount_point" || die "cannot unmount $mount_point"
}

case $1 in
    open) open_target ;;
    put)
        # Not within the redirection: where that fails, `set -e` does not see it, and the file would land in memory.
        directory=$(recall dump-directory)
        cat >"$directory/$2-incomplete"
        ;;
    commit)
        directory=$(recall dump-directory)
        # fsync of the file itself: sync(2) and syncfs(2) do not tell of an error of the device.
        dd if=/dev/null of="$directory/$2-incomplete" conv=notrunc,fsync 2>/dev/null ||
            die "$2 did not reach the device"
        mv "$directory/$2-incomplete" "$directory/$2"
        sync "$directory"
        ;;
    close) close_target ;;
    *) die "not a verb of a target: $1" ;;
esac
