#!/bin/sh
# Driver of targets that are a directory on a file system: open, put NAME (from stdin), commit NAME, close.
# Settings: KDUMP_FS_TYPE KDUMP_FS_OPTIONS KDUMP_FS_MAGIC KDUMP_FS_UUID KDUMP_FS_DM_UUID KDUMP_DIRECTORY KDUMP_HOST
# KDUMP_DEVICE_TIMEOUT_S.
# open leaves the path of the new dump directory in /run/kdump/dump-directory: a collector may write there itself.
set -eu
. /lib/kdump/lib.sh

mount_point=/target

# bytes_are DEVICE OFFSET LENGTH HEX: does the device hold these bytes there?
bytes_are() {
    [ "$(dd if="$1" bs=1 skip="$2" count="$3" 2>/dev/null | od -An -v -tx1 | tr -d ' \n')" = "$4" ]
}

# is_wanted NAME: is this the device that was meant, by its content and, for device-mapper, by its UUID?
is_wanted() {
    _device="/dev/$(echo "$1" | tr '!' /)"
    [ -b "$_device" ] || return 1
    if [ -n "$KDUMP_FS_DM_UUID" ]; then
        grep -qxF "$KDUMP_FS_DM_UUID" "/sys/class/block/$1/dm/uuid" 2>/dev/null || return 1
    else
        # A leg of a mirror or of a multipath device carries the same content.
        for _holder in "/sys/class/block/$1/holders"/*; do
            [ ! -e "$_holder" ] || return 1
        done
    fi
    # Both settings are three words.
    # shellcheck disable=SC2086
    bytes_are "$_device" $KDUMP_FS_MAGIC && bytes_are "$_device" $KDUMP_FS_UUID
}

# Sets `names` to the kernel names of all devices that are the one that was meant.
find_device() {
    names=
    for _entry in /sys/class/block/*; do
        if is_wanted "${_entry##*/}"; then
            names="$names ${_entry##*/}"
        fi
    done
    [ -n "$names" ]
}

# Prints the line of what is mounted there, the topmost if there are several; nothing if there is nothing.
mounted_line() {
    grep " $mount_point " /proc/self/mountinfo | tail -n 1
}

# The device that was meant is what is mounted, read-write: a disk that is read-only mounts with status 0, and what is
# written to a directory without a mount lands in the memory of the initramfs.
check_mount() {
    _number=$(cat "/sys/class/block/$1/dev")
    mounted_line | grep -q "^[0-9]* [0-9]* $_number " || die "what is mounted is not $1 ($_number): $(mounted_line)"
    case ",$(mounted_line | cut -d ' ' -f 6)," in
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
    wait_for "$KDUMP_DEVICE_TIMEOUT_S" find_device ||
        die "no device with file system UUID ${KDUMP_FS_UUID##* } after $KDUMP_DEVICE_TIMEOUT_S s; there are:" \
            "$(echo /sys/class/block/*)"
    # The list of names, without the leading space.
    name=${names# }
    case $name in
        *' '*) die "file system UUID ${KDUMP_FS_UUID##* } is on several devices: $name" ;;
    esac
    mount -t "$KDUMP_FS_TYPE" -o "$KDUMP_FS_OPTIONS" "/dev/$(echo "$name" | tr '!' /)" "$mount_point" ||
        die "cannot mount $name ($KDUMP_FS_TYPE)"
    check_mount "$name"
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
