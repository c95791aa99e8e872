#!/bin/sh
# A hook of the site: saves to every target, not to the first that works. What was saved is looked at after the reboot.
set -eu
# shellcheck source=/dev/null
. /lib/kdump/lib.sh
# shellcheck disable=SC2016  # of the script that is changed
tail -n 1 /lib/kdump/target.sh | grep -qx 'exit "$failed"'
# shellcheck disable=SC2016
sed -i '$s/.*/log "status of this target: $failed"; exit 1/' /lib/kdump/target.sh
