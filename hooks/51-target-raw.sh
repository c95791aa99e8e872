#!/bin/sh
# Driver of targets that are a device without a file system: open, put NAME (from stdin), commit NAME, drop NAME, digest
# NAME, close. What it writes is read by kdump_initramfs/formats/rawdump.py, which describes it. Settings: KDUMP_DEVICE
# (its description in /etc/kdump/devices), KDUMP_DEVICE_TIMEOUT_S.
# State, in /run/kdump: raw-device, raw-id, raw-name (of the dump), raw-next (the unit at which the next file begins).
set -eu
. /lib/kdump/lib.sh
. /lib/kdump/devices.sh

UNIT=65536
# What the logs and the record may need behind the vmcore.
RESERVE_BYTES=4194304

units_of() {
    echo $((($1 + UNIT - 1) / UNIT))
}

# check_free NAME: nothing that anybody knows by its signature is on the device, nor a dump that nobody has taken yet.
check_free() {
    _end=$(($(cat "/sys/class/block/$1/size") * 512 / 4096 * 4096))
    while read -r _offset _length _magic _type; do
        [ "$_offset" -ge 0 ] || _offset=$((_end + _offset))
        if [ "$_offset" -ge 0 ] && bytes_are "$1" "$_offset" "$_length" "$_magic"; then
            die "$KDUMP_TARGET_NAME ($1) is not empty: $_type is on it"
        fi
    done </etc/kdump/signatures
    if [ "$(device_bytes "$1" 0 12)" = 'KDUMP-RAW 1' ]; then
        _state=$(device_bytes "$1" 0 4096 | tr -d '\000' | sed -n 's/^state //p')
        [ "$_state" != complete ] || die "$KDUMP_TARGET_NAME ($1) holds a dump that has not been recovered"
    fi
}

# write_unit UNIT: writes stdin, filled up with zeros, to that unit of the device, and waits until it is there.
write_unit() {
    dd bs="$UNIT" conv=sync of=/run/kdump/raw-unit 2>/dev/null
    dd if=/run/kdump/raw-unit of="$device" bs="$UNIT" seek="$1" conv=notrunc,fsync 2>/dev/null
}

# write_head STATE
write_head() {
    printf 'KDUMP-RAW 1\nid %s\nstate %s\nname %s\nunits %s\n' \
        "$(recall raw-id)" "$1" "$(recall raw-name)" "$(recall raw-next)" | write_unit 0
}

open_target() {
    describe "$KDUMP_DEVICE"
    choose_devices "$KDUMP_DEVICE_TIMEOUT_S"
    names=${names# }
    check_free "$names"
    device=$(device_node "$names")
    remember raw-device "$device"
    remember raw-id "$(cat /proc/sys/kernel/random/uuid)"
    remember raw-name "$(dump_name)"
    remember raw-next 1
    remember free-bytes $(($(cat "/sys/class/block/$names/size") * 512 - RESERVE_BYTES))
    write_head writing || die "$names takes no write"
    drop_caches
    # Behind the first line and "id ".
    [ "$(device_bytes "$names" 15 36)" = "$(recall raw-id)" ] || die "$names does not return what was written"
}

# A file: a unit that tells of it, written when it is complete, then its data.
put_file() {
    _data=$(($(recall raw-next) + 1))
    exec 3<>"$device"
    dd if=/dev/null bs="$UNIT" seek="$_data" conv=notrunc >&3 2>/dev/null
    write_hashed "$1"
    # Tells of what could not be written until now.
    dd if=/dev/null conv=notrunc,fsync >&3 2>/dev/null || die "$1 did not reach the device"
    passed "$1" $(($(position 3) - _data * UNIT))
}

commit_file() {
    _start=$(recall raw-next)
    _passed=$(digest_of "$1") || die "$1 was not put"
    _bytes=${_passed% *}
    printf 'KDUMP-FILE 1\nid %s\nname %s\nbytes %s\n' "$(recall raw-id)" "$1" "$_bytes" | write_unit "$_start" ||
        die "$1 did not reach the device"
    remember raw-next $((_start + 1 + $(units_of "$_bytes")))
    # The record comes last. What has no core may be overwritten by the next dump.
    case $1:$([ ! -e /run/kdump/collector ] || echo saved) in
        dump.json:saved) write_head complete ;;
        dump.json:) write_head partial ;;
    esac
}

case $1 in
    open)
        open_target
        exit
        ;;
    close) [ -e /run/kdump/raw-device ] || exit 77 ;;
esac
device=$(recall raw-device)
case $1 in
    put) put_file "$2" ;;
    commit) commit_file "$2" ;;
    # What was put and not committed is overwritten by what is put next.
    drop) ;;
    digest) digest_of "$2" ;;
    close) rm /run/kdump/raw-device ;;
    *) die "not a verb of a target: $1" ;;
esac
