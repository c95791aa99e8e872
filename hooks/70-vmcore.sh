#!/bin/sh
# Saves the vmcore, down a ladder of collectors, and leaves the name of the one that won in /run/kdump/collector. In a
# directory makedumpfile writes its file itself; what other targets get, and what is encrypted on the way, is a stream,
# which it calls flattened.
# Called with the name of a collector it runs that one alone: each runs in a session of its own, to be ended when it makes
# no progress.
# Settings: KDUMP_COLLECTORS, KDUMP_MAKEDUMPFILE, KDUMP_MAKEDUMPFILE_ARGUMENTS, KDUMP_LEAST_ARGUMENTS,
# KDUMP_COPY_COMPRESSION, KDUMP_ZSTD, KDUMP_AGE, KDUMP_STALL_S.
set -eu
. /lib/kdump/lib.sh
. /lib/kdump/process.sh

# Names under which a collector may leave something unfinished.
NAMES='vmcore vmcore.flat vmcore.zst vmcore.gz vmcore.age vmcore.flat.age vmcore.zst.age vmcore.gz.age'

# What an encrypted file ends in.
SUFFIX=${KDUMP_AGE:+.age}

# put_sealed NAME: puts stdin as a file of that name, encrypted where that was asked for. age tells of an end that came too
# early: each part of the file is authenticated, and so is that it is the last (https://age-encryption.org/v1).
put_sealed() {
    if [ -n "$KDUMP_AGE" ]; then
        stage "$KDUMP_AGE" --encrypt -R /etc/kdump/recipients | target put "$1.age"
    else
        target put "$1"
    fi
}

is_directory() {
    [ -e /run/kdump/dump-directory ]
}

# begins_with FILE TEXT
begins_with() {
    [ "$(head -c "${#2}" "$1" | tr -d '\000')" = "$2" ]
}

# makedumpfile filters and compresses; it may warn that it does not know the kernel and still be right. The arguments are
# words of our own making.
collect_makedumpfile() {
    arguments=$KDUMP_MAKEDUMPFILE_ARGUMENTS
    dump
}

collect_least() {
    arguments=$KDUMP_LEAST_ARGUMENTS
    dump
}

dump() {
    if is_directory && [ -z "$KDUMP_AGE" ]; then
        write_dump "$(recall dump-directory)/vmcore-incomplete" && commit vmcore
    else
        put_stream makedumpfile flattened_dump && commit "vmcore.flat$SUFFIX"
    fi
}

# shellcheck disable=SC2086
write_dump() {
    limit_size
    "$KDUMP_MAKEDUMPFILE" $arguments /proc/vmcore "$1" && begins_with "$1" 'KDUMP   '
}

# shellcheck disable=SC2086
flattened_dump() {
    "$KDUMP_MAKEDUMPFILE" -F $arguments /proc/vmcore
}

# put_stream BEGINNING COMMAND: puts what the command says as vmcore.flat, and looks at how it begins on the way.
put_stream() {
    stage "$2" | {
        dd of=/run/kdump/beginning bs=1 count="${#1}" 2>/dev/null
        cat /run/kdump/beginning -
    } | put_sealed vmcore.flat || return 1
    stages_succeeded && begins_with /run/kdump/beginning "$1"
}

# The log alone was asked for: it is there.
collect_dmesg() {
    is_saved vmcore-dmesg.txt
}

collect_copy() {
    "copy_$KDUMP_COPY_COMPRESSION"
}

# Reads the core, and notes how much of it.
read_core() {
    rm -f /run/kdump/read
    exec 3</proc/vmcore
    dd bs=65536 <&3 && position 3 >/run/kdump/read
}

# all_was_read: a source that ends early looks complete to whoever reads it.
all_was_read() {
    stages_succeeded && [ "$(recall read)" = "$(stat -c %s /proc/vmcore)" ]
}

copy_none() {
    stage read_core | put_sealed vmcore && all_was_read && commit "vmcore$SUFFIX"
}

copy_zstd() {
    stage read_core | stage "$KDUMP_ZSTD" -q -1 -c | put_sealed vmcore.zst && all_was_read && commit "vmcore.zst$SUFFIX"
}

copy_gzip() {
    stage read_core | stage gzip -1 -c | put_sealed vmcore.gz && all_was_read && commit "vmcore.gz$SUFFIX"
}

# What a collector left unfinished takes the space that the next one needs, and makedumpfile overwrites nothing.
remove_unfinished() {
    rm -f /run/kdump/failed-stages
    for name in $NAMES; do
        target drop "$name" || :
    done
}

# progress PID...: prints how far a collector has come: the size of its file, or what its processes have written (proc(5),
# /proc/PID/io).
progress() {
    if is_directory; then
        stat -c %s "$(recall dump-directory)"/*-incomplete 2>/dev/null || :
    else
        for pid in "$@"; do
            sed -n 's/^wchar: //p' "/proc/$pid/io" 2>/dev/null || :
        done
    fi
}

# ran_out_of_room: was that why the last collector failed? Takes the number of lines that the log had before.
ran_out_of_room() {
    tail -n "+$1" "$KDUMP_LOG" | grep -q -e 'No space left' -e 'File too large' -e 'File size limit' -e 'no room for'
}

# next_collector: sets `collector` to the next to try, or to nothing. What did not fit is tried once more with all left out
# that can be; what failed in another way is tried in another way.
next_collector() {
    if [ "$failure" = room ]; then
        case $tried in
            *' least '*) collector= ;;
            *) collector=${KDUMP_LEAST_ARGUMENTS:+least} ;;
        esac
        return
    fi
    for collector in $KDUMP_COLLECTORS ${KDUMP_LEAST_ARGUMENTS:+least}; do
        case $tried in
            *" $collector "*) ;;
            *) return ;;
        esac
    done
    collector=
}

# try COLLECTOR: sets `failure` to why it failed: room, stall, stuck (it cannot even be ended) or error.
try() {
    remove_unfinished
    tried="$tried$1 "
    lines=$(wc -l <"$KDUMP_LOG")
    failure=
    status=0
    watched "$KDUMP_STALL_S" progress sh /lib/kdump/limited.sh /lib/kdump/hooks/70-vmcore.sh "$1" || status=$?
    [ "$status" != 0 ] || return 0
    case $status in
        124) failure=stall ;;
        125) failure=stuck ;;
        *) if ran_out_of_room "$((lines + 1))"; then failure=room; else failure=error; fi ;;
    esac
    log "collector $1 failed: $failure (status $status)"
    return 1
}

if [ $# -gt 0 ]; then
    "collect_$1"
    exit
fi
if [ "$KDUMP_COLLECTORS" != dmesg ] && [ -e /run/kdump/limit-bytes ] && [ "$(recall limit-bytes)" -le 0 ]; then
    die "no room for a vmcore: $(recall limit-bytes) bytes beyond what must stay free"
fi
tried=' '
failure=
next_collector
while [ -n "$collector" ]; do
    if try "$collector"; then
        remember collector "$collector"
        exit 0
    fi
    [ "$failure" != stuck ] || die "the target hangs"
    next_collector
done
remove_unfinished
die "no collector could save the vmcore: $failure"
