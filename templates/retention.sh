#!/bin/sh
# The part of the library that keeps space on a target that is a directory: sourced behind lib.sh.

# Left free, so that the system boots again: the larger of 64 MiB and 1 %.
RESERVE_BYTES=67108864

# parent: prints the directory that holds the dumps.
parent() {
    _dump=$(recall dump-directory)
    echo "${_dump%/*}"
}

# free_bytes, total_bytes: of the file system that holds the dumps.
free_bytes() {
    # shellcheck disable=SC2046  # two words
    set -- $(stat -f -c '%a %S' "$(parent)")
    echo $(($1 * $2))
}

total_bytes() {
    # shellcheck disable=SC2046  # two words
    set -- $(stat -f -c '%b %S' "$(parent)")
    echo $(($1 * $2))
}

# room_bytes: prints how large a vmcore may become: what is free beyond the reserve.
room_bytes() {
    _reserve=$(($(total_bytes) / 100))
    [ "$_reserve" -gt "$RESERVE_BYTES" ] || _reserve=$RESERVE_BYTES
    echo $(($(free_bytes) - _reserve))
}

_digit='[0-9]'
_two="$_digit$_digit"
# Patterns of a name behind the host: YYYYMMDDTHHMMSSZ, and -N for a second one of that time.
_stamp_pattern="$_two$_two$_two${_two}T$_two$_two${_two}Z"

# own_dumps: prints the names of the complete dumps that we have made here, this one left out, the oldest first. Anything
# with another name is not ours.
own_dumps() {
    _place=$(parent)
    _this=$(recall dump-directory)
    for _record in "$_place/$KDUMP_HOST"-*/dump.json; do
        _name=${_record%/dump.json}
        if [ -L "$_name" ] || [ "$_name" = "$_this" ] || ! grep -q '^  "complete": true,$' "$_record" 2>/dev/null; then
            continue
        fi
        _stamp=${_name#"$_place/$KDUMP_HOST-"}
        # shellcheck disable=SC2254  # patterns
        case $_stamp in
            $_stamp_pattern) echo "$_stamp 0" ;;
            $_stamp_pattern-*[!0-9]*) ;;
            $_stamp_pattern-$_digit*) echo "${_stamp%%-*} ${_stamp#*-}" ;;
        esac
    done | sort -k 1,1 -k 2,2n | while read -r _stamp _number; do
        [ "$_number" = 0 ] || _stamp="$_stamp-$_number"
        echo "$KDUMP_HOST-$_stamp"
    done
}

# dump_bytes NAME: prints how much space a dump takes.
dump_bytes() {
    _sum=0
    for _file in "$(parent)/$1"/*; do
        [ -e "$_file" ] || continue
        # shellcheck disable=SC2046  # two words
        set -- $(stat -c '%b %B' "$_file")
        _sum=$((_sum + $1 * $2))
    done
    echo "$_sum"
}

# remove_dump NAME: takes away the files that we make, and the directory if nothing else is in it.
remove_dump() {
    log "removing the old dump $1"
    for _known in vmcore vmcore.gz vmcore.zst vmcore.flat vmcore.flat.zst; do
        rm -f "$(parent)/$1/$_known" "$(parent)/$1/$_known.age"
    done
    for _known in vmcore-dmesg.txt kexec-dmesg.log dump.json; do
        rm -f "$(parent)/$1/$_known"
    done
    rmdir "$(parent)/$1"
}
