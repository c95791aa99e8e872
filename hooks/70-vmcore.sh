#!/bin/sh
# Saves the vmcore, down a ladder of collectors, and leaves the name of the one that won in /run/kdump/collector.
# Settings: KDUMP_COLLECTORS, KDUMP_MAKEDUMPFILE, KDUMP_MAKEDUMPFILE_ARGUMENTS, KDUMP_COPY_COMPRESSION, KDUMP_ZSTD.
set -eu
. /lib/kdump/lib.sh

directory=$(recall dump-directory)

# begins_with FILE TEXT
begins_with() {
    [ "$(head -c "${#2}" "$1" | tr -d '\000')" = "$2" ]
}

# makedumpfile filters and compresses; it may warn that it does not know the kernel and still be right.
collect_makedumpfile() {
    # The arguments are words of our own making.
    # shellcheck disable=SC2086
    "$KDUMP_MAKEDUMPFILE" $KDUMP_MAKEDUMPFILE_ARGUMENTS /proc/vmcore "$directory/vmcore-incomplete" || return 1
    begins_with "$directory/vmcore-incomplete" 'KDUMP   ' || return 1
    target commit vmcore
}

# The log alone was asked for: it is there.
collect_dmesg() {
    [ -e "$directory/vmcore-dmesg.txt" ]
}

collect_copy() {
    "copy_$KDUMP_COPY_COMPRESSION"
}

copy_none() {
    dd if=/proc/vmcore of="$directory/vmcore-incomplete" bs=1M || return 1
    [ "$(stat -c %s "$directory/vmcore-incomplete")" = "$(stat -c %s /proc/vmcore)" ] || return 1
    target commit vmcore
}

# With a stream size given, zstd fails when it read another number of bytes.
copy_zstd() {
    _size=$(stat -c %s /proc/vmcore)
    "$KDUMP_ZSTD" -q -1 --stream-size="$_size" -c </proc/vmcore \
        >"$directory/vmcore.zst-incomplete" || return 1
    target commit vmcore.zst
}

# A gzip file ends in the number of bytes that it holds, modulo 2^32, the lowest byte first (RFC 1952).
copy_gzip() {
    gzip -1 -c </proc/vmcore >"$directory/vmcore.gz-incomplete" || return 1
    # shellcheck disable=SC2046  # four words
    set -- $(tail -c 4 "$directory/vmcore.gz-incomplete" | od -An -tu1)
    [ $(($1 + $2 * 256 + $3 * 65536 + $4 * 16777216)) = $(($(stat -c %s /proc/vmcore) & 4294967295)) ] || return 1
    target commit vmcore.gz
}

# What a collector left unfinished takes the space that the next one needs, and makedumpfile overwrites nothing.
remove_unfinished() {
    rm -f "$directory/vmcore-incomplete" "$directory"/vmcore.*-incomplete
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
