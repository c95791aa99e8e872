#!/bin/sh
# Loads the planned modules in the planned order, then gives their files' memory back (rootfs is memory). No settings.
set -eu
. /lib/kdump/lib.sh

failed=0
while read -r module; do
    insmod "$module" || {
        log "cannot load $module"
        failed=1
    }
done </etc/kdump/modules
rm -rf /lib/modules
exit "$failed"
