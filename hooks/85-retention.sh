#!/bin/sh
# Removes the oldest of our own complete dumps, once this one is saved: as many as are more than retention.keep, or take
# more than retention.max_bytes. This one always stays.
# Settings: KDUMP_KEEP, KDUMP_MAX_BYTES, KDUMP_HOST.
set -eu
. /lib/kdump/lib.sh
. /lib/kdump/retention.sh
[ -e /run/kdump/dump-directory ] && [ -e /run/kdump/collector ] && is_saved dump.json || exit 77

this=$(recall dump-directory)
taken=$(dump_bytes "${this##*/}")
number=1
# From the newest to the oldest: what comes behind the limit goes.
for name in $(own_dumps | sed '1!G;h;$!d'); do
    number=$((number + 1))
    taken=$((taken + $(dump_bytes "$name")))
    if [ "$KDUMP_KEEP" -gt 0 ] && [ "$number" -gt "$KDUMP_KEEP" ]; then
        remove_dump "$name" || log "cannot remove $name"
    elif [ "$KDUMP_MAX_BYTES" -gt 0 ] && [ "$taken" -gt "$KDUMP_MAX_BYTES" ]; then
        remove_dump "$name" || log "cannot remove $name"
    fi
done
