#!/bin/sh
# Reads what the crashed kernel says of itself: lines KEY=VALUE to /run/kdump/vmcoreinfo. No settings.
# They are the VMCOREINFO note, which stands in the ELF notes at the beginning of /proc/vmcore
# (Documentation/admin-guide/kdump/vmcoreinfo.rst).
set -eu
. /lib/kdump/lib.sh

dd if=/proc/vmcore bs=64k count=16 2>/dev/null | tr '\000' '\n' |
    grep -a -E '^(OSRELEASE|BUILD-ID|CRASHTIME)=' >/run/kdump/vmcoreinfo ||
    die "no VMCOREINFO note in /proc/vmcore"
log "crashed kernel: $(sed -n '1s/^OSRELEASE=//p' /run/kdump/vmcoreinfo)"
