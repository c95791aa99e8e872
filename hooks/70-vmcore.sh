#!/bin/sh
# Saves the vmcore, down a ladder of collectors, and leaves the name of the one that won in /run/kdump/collector. In a
# directory makedumpfile writes its file itself; what other targets get is a stream, which it calls flattened.
# Settings: KDUMP_COLLECTORS, KDUMP_MAKEDUMPFILE, KDUMP_MAKEDUMPFILE_ARGUMENTS, KDUMP_COPY_COMPRESSION, KDUMP_ZSTD.
set -eu
. /lib/kdump/lib.sh

# Names under which a collector may leave something unfinished.
NAMES='vmcore vmcore.flat vmcore.zst vmcore.gz'

is_directory() {
    [ -e /run/kdump/dump-directory ]
}

# begins_with FILE TEXT
begins_with() {
    [ "$(head -c "${#2}" "$1" | tr -d '\000')" = "$2" ]
}

# makedumpfile filters and compresses; it may warn that it does not know the kernel and still be right.
collect_makedumpfile() {
    if is_directory; then
        write_dump "$(recall dump-directory)/vmcore-incomplete" && commit vmcore
    else
        put_stream makedumpfile flattened_dump && commit vmcore.flat
    fi
}

# The arguments are words of our own making.
# shellcheck disable=SC2086
write_dump() {
    "$KDUMP_MAKEDUMPFILE" $KDUMP_MAKEDUMPFILE_ARGUMENTS /proc/vmcore "$1" && begins_with "$1" 'KDUMP   '
}

# shellcheck disable=SC2086
flattened_dump() {
    "$KDUMP_MAKEDUMPFILE" -F $KDUMP_MAKEDUMPFILE_ARGUMENTS /proc/vmcore
}

# put_stream BEGINNING COMMAND: puts what the command says as vmcore.flat, and looks at how it begins on the way.
put_stream() {
    stage "$2" | {
        dd of=/run/kdump/beginning bs=1 count="${#1}" 2>/dev/null
        cat /run/kdump/beginning -
    } | target put vmcore.flat || return 1
    stages_succeeded && begins_with /run/kdump/beginning "$1"
}

# The log alone was asked for: it is there.
collect_dmesg() {
    is_saved vmcore-dmesg.txt
}

collect_copy() {
    "copy_$KDUMP_COPY_COMPRESSION"
}

# Reads the core, and counts what it has read.
read_core() {
    rm -f /run/kdump/read /run/kdump/pipe
    mkfifo /run/kdump/pipe
    wc -c </run/kdump/pipe >/run/kdump/read &
    _status=0
    tee /run/kdump/pipe </proc/vmcore || _status=$?
    wait $!
    return "$_status"
}

# all_was_read: a source that ends early looks complete to whoever reads it.
all_was_read() {
    stages_succeeded && [ "$(recall read)" = "$(stat -c %s /proc/vmcore)" ]
}

copy_none() {
    stage read_core | target put vmcore && all_was_read && commit vmcore
}

copy_zstd() {
    stage read_core | stage "$KDUMP_ZSTD" -q -1 -c | target put vmcore.zst && all_was_read && commit vmcore.zst
}

copy_gzip() {
    stage read_core | stage gzip -1 -c | target put vmcore.gz && all_was_read && commit vmcore.gz
}

# What a collector left unfinished takes the space that the next one needs, and makedumpfile overwrites nothing.
remove_unfinished() {
    rm -f /run/kdump/failed-stages
    for name in $NAMES; do
        target drop "$name" || :
    done
}

for collector in $KDUMP_COLLECTORS; do
    remove_unfinished
    if "collect_$collector"; then
        remember collector "$collector"
        exit 0
    fi
    log "collector $collector failed"
done
remove_unfinished
die "no collector could save the vmcore"
