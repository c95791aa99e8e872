#!/bin/sh
# Makes room for the dump, where retention.min_free says so, and remembers how large the vmcore may become. The newest dump
# that is there stays, whatever happens: this one is not saved yet. A target that is no directory says what it can take.
# Settings: KDUMP_MIN_FREE, KDUMP_SIZE_LIMIT (bytes), KDUMP_HOST.
set -eu
. /lib/kdump/lib.sh
. /lib/kdump/retention.sh

make_room() {
    _old=$(own_dumps)
    # shellcheck disable=SC2086  # words: a name has no space
    set -- $_old
    while [ $# -gt 1 ] && [ "$(free_bytes)" -lt "$KDUMP_MIN_FREE" ]; do
        remove_dump "$1" || log "cannot remove $1"
        shift
    done
}

if [ -e /run/kdump/dump-directory ]; then
    [ "$KDUMP_MIN_FREE" -eq 0 ] || make_room
    room=$(room_bytes)
else
    room=$(recall free-bytes)
fi
if [ "$KDUMP_SIZE_LIMIT" -gt 0 ] && [ "$KDUMP_SIZE_LIMIT" -lt "$room" ]; then
    room=$KDUMP_SIZE_LIMIT
fi
remember limit-bytes "$room"
log "room for a vmcore of $(recall limit-bytes) bytes"
