#!/bin/sh
# The part of the library that finds the devices that were meant, and mounts file systems: sourced behind lib.sh.
# A device is described by a file of /etc/kdump/devices (kdump_initramfs/devices.py), which sets:
#   device_name       how messages call it
#   device_content    six words for each layout that its file system may have: offset, length and hexadecimal bytes of the
#                     magic, and of the UUID; nothing where it has no file system
#   device_count      on how many devices the file system is
#   device_agree      how many of these must agree with what was seen when the image was built (0: nothing was seen)
#   device_dm_uuids   the beginnings of dm/uuid; one alone is as good as two others
#   device_disks      SECTORS:DISK-ID:PARTUUID of each; what was not seen is empty
#   device_further    two words for each device that the file system needs besides: the mount option that names it, and
#                     the description of the device
#   fs_type fs_options  for mount
. /lib/kdump/process.sh

# describe NAME: sets what the description of that name says.
describe() {
    device_name='' device_content='' device_count=1 device_agree=0 device_dm_uuids='' device_disks=''
    device_further='' fs_type='' fs_options=''
    # shellcheck source=/dev/null
    . "/etc/kdump/devices/$1"
}

# has_content NAME: does the device carry the magic and the UUID of the file system?
has_content() {
    [ -n "$device_content" ] || return 0
    _device=$1
    # shellcheck disable=SC2086  # words
    set -- $device_content
    while [ $# -ge 6 ]; do
        bytes_are "$_device" "$1" "$2" "$3" && bytes_are "$_device" "$4" "$5" "$6" && return
        shift 6
    done
    return 1
}

# as_word: prints stdin as one word, as id_word() of kdump_initramfs/devices.py does.
as_word() {
    tr -cs 'A-Za-z0-9.+-' _ | sed 's/^_//; s/_$//'
}

# disk_id NAME: prints WWN or serial number of the disk that the device is, or is a partition of.
disk_id() {
    _disk="/sys/class/block/$1"
    [ ! -e "$_disk/partition" ] || _disk="$_disk/.."
    for _file in wwid device/wwid serial device/serial device/cid; do
        _id=$(as_word 2>/dev/null <"$_disk/$_file") || :
        [ -z "$_id" ] || break
    done
    # The unit serial number of SCSI, behind a head of four bytes.
    [ -n "$_id" ] || _id=$(dd if="$_disk/device/vpd_pg80" bs=4 skip=1 2>/dev/null | tr -d '\000' | as_word) || :
    echo "$_id"
}

# hex_at NAME OFFSET LENGTH: prints these bytes of a device, as hexadecimal digits.
hex_at() {
    device_bytes "$1" "$2" "$3" | od -An -v -tx1 | tr -d ' \n'
}

# reversed HEX: prints the bytes from the last to the first: numbers are stored with the lowest byte first.
reversed() {
    _left=$1
    _turned=
    while [ -n "$_left" ]; do
        _rest=${_left#??}
        _turned="${_left%"$_rest"}$_turned"
        _left=$_rest
    done
    echo "$_turned"
}

# part_uuid NAME: prints the UUID that a partition has in the table on its disk; nothing for what is no partition. The
# formats are in kdump_initramfs/formats/partition.py.
part_uuid() {
    _number=$(cat "/sys/class/block/$1/partition" 2>/dev/null) || return 0
    _table=$(realpath "/sys/class/block/$1/..")
    _sector=$(cat "$_table/queue/logical_block_size")
    _table=${_table##*/}
    if bytes_are "$_table" "$_sector" 8 4546492050415254; then
        _entries=$((0x$(reversed "$(hex_at "$_table" $((_sector + 72)) 8)")))
        _size=$((0x$(reversed "$(hex_at "$_table" $((_sector + 84)) 4)")))
        _guid=$(hex_at "$_table" $((_entries * _sector + (_number - 1) * _size + 16)) 16)
        _tail=${_guid#????????????????}
        echo "$(reversed "$(echo "$_guid" | cut -c 1-8)")-$(reversed "$(echo "$_guid" | cut -c 9-12)")-$(
            reversed "$(echo "$_guid" | cut -c 13-16)"
        )-$(echo "$_tail" | cut -c 1-4)-$(echo "$_tail" | cut -c 5-16)"
    elif bytes_are "$_table" 510 2 55aa; then
        printf '%s-%02x\n' "$(reversed "$(hex_at "$_table" 440 4)")" "$_number"
    fi
}

# agreements SECTORS:DISK-ID:PARTUUID: prints how many of them are those of the device that `_size`, `_disk_id` and
# `_part_uuid` tell of.
agreements() {
    _agreed=0
    _wanted=${1#*:}
    for _pair in "${1%%:*}=$_size" "${_wanted%%:*}=$_disk_id" "${_wanted#*:}=$_part_uuid"; do
        case $_pair in
            =* | *=) ;;
            *) [ "${_pair%%=*}" != "${_pair#*=}" ] || _agreed=$((_agreed + 1)) ;;
        esac
    done
    echo "$_agreed"
}

# is_known NAME: do enough things agree with what was seen when the image was built?
is_known() {
    [ "$device_agree" -gt 0 ] || return 0
    _dm_uuid=$(cat "/sys/class/block/$1/dm/uuid" 2>/dev/null) || :
    for _word in $device_dm_uuids; do
        case $_dm_uuid in
            "$_word"*) return 0 ;;
        esac
    done
    _size=$(cat "/sys/class/block/$1/size")
    _disk_id=$(disk_id "$1")
    _part_uuid=$(part_uuid "$1")
    for _word in $device_disks; do
        # Where nothing on the device tells it, a partition with another UUID is another one, whatever else agrees.
        [ -n "$device_content" ] || is_no_other_partition "${_word##*:}" || continue
        [ "$(agreements "$_word")" -lt "$device_agree" ] || return 0
    done
    [ -z "$device_content" ] ||
        strangers="$strangers; $1 has its UUID, but neither size ($_size sectors) nor id ($_disk_id, $_part_uuid)"
    return 1
}

# is_no_other_partition UUID: may the device that `_part_uuid` tells of be the partition with this UUID?
is_no_other_partition() {
    [ -z "$1" ] || [ -z "$_part_uuid" ] || [ "$1" = "$_part_uuid" ]
}

# answers NAME: can the device be read? Once a target has not come to an end, its device may hang, and so does for ever
# whoever reads from it; /run/kdump/hung has the names of those that are known to.
answers() {
    [ -e /run/kdump/hung ] || return 0
    ! grep -qxF "$1" /run/kdump/hung || return 1
    (has_content "$1" && is_known "$1") >/dev/null 2>&1 &
    _asked=$!
    # Not by wait_for, within which this runs.
    _turns=60
    while is_running "$_asked"; do
        [ "$_turns" -gt 0 ] || {
            log "$1 does not answer"
            echo "$1" >>/run/kdump/hung
            return 1
        }
        _turns=$((_turns - 1))
        pause 0.05
    done
}

# Sets `names` to all devices that are the ones that were meant, `count` to their number, and `strangers` to what is wrong
# with those that are not quite.
find_devices() {
    names=
    count=0
    strangers=
    for _candidate in $(block_devices); do
        if [ -b "$(device_node "$_candidate")" ] && ! has_holder "$_candidate" && answers "$_candidate" &&
            has_content "$_candidate" && is_known "$_candidate"; then
            names="$names $_candidate"
            count=$((count + 1))
        fi
    done
    [ "$count" -ge "$device_count" ]
}

# await_devices: for storage hooks, which do not wait themselves: exits with NOT_YET while it is worth to wait.
await_devices() {
    if ! find_devices; then
        [ "$count" -gt 0 ] && [ "$KDUMP_WAITED_S" -ge "$KDUMP_DEGRADED_AFTER_S" ] || exit "$NOT_YET"
    fi
}

# choose_devices SECONDS: waits for the devices and sets `names`, and `options` for the mount: as many devices as the file
# system has, or of a btrfs those that are left.
choose_devices() {
    options=$fs_options
    if ! wait_for "$1" find_devices; then
        _all=$(block_devices | tr '\n' ' ')
        [ "$count" -gt 0 ] || die "no device with $device_name after $1 s$strangers; there are: ${_all:-none}"
        log "only $count of $device_count devices are there:$names"
        options="$options,degraded"
    fi
    [ "$count" -le "$device_count" ] || die "$device_name is on several devices:$names"
    # Without udev a btrfs learns of its other devices from the mount options alone.
    [ "$device_count" -eq 1 ] || for _name in $names; do
        options="$options,device=$(device_node "$_name")"
    done
    [ -z "$device_further" ] || _further=$(further_options "$1") || exit 1
    options="$options${_further:-}"
}

# further_options SECONDS: prints ,OPTION=NODE for each device that the file system needs besides. A description has these
# of its own, so this runs in a shell of its own.
further_options() (
    # shellcheck disable=SC2086  # words
    set -- "$1" $device_further
    _seconds=$1
    shift
    while [ $# -ge 2 ]; do
        describe "$2"
        choose_devices "$_seconds"
        printf ',%s=%s' "$1" "$(device_node "${names# }")"
        shift 2
    done
)

# mounted_line PLACE: prints the line of what is mounted there, the topmost if there are several; nothing if there is
# nothing.
mounted_line() {
    grep " $1 " /proc/self/mountinfo | tail -n 1
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

# check_writable PLACE: a disk that is read-only mounts with status 0, and what is written to a directory without a mount
# lands in the memory of the initramfs.
check_writable() {
    case ",$(mounted_line "$1" | cut -d ' ' -f 6)," in
        *,rw,*) ;;
        *) die "$device_name could only be mounted read-only" ;;
    esac
}

# check_carrier PLACE NAME...: is one of the devices that were meant what is mounted?
check_carrier() {
    _line=$(mounted_line "$1")
    shift
    _number=$(carrier_number "$_line")
    for _name in "$@"; do
        cat "/sys/class/block/$_name/dev"
    done | grep -qxF "$_number" || die "what is mounted is not $* but: $_line"
}

# mount_devices PLACE: mounts the file system on the devices that choose_devices has found.
mount_devices() {
    _place=$1
    # shellcheck disable=SC2086  # words: the first of the names
    set -- $names
    mount -t "$fs_type" -o "$options" "$(device_node "$1")" "$_place" || die "cannot mount $1 ($fs_type)"
    check_carrier "$_place" "$@"
    check_writable "$_place"
}
