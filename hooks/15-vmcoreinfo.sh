#!/bin/sh
# Reads what the crashed kernel says of itself: lines KEY=VALUE to /run/kdump/vmcoreinfo. No settings.
# They are the VMCOREINFO note, which stands in the ELF notes at the beginning of /proc/vmcore, behind those of the
# processors, and ends with the time of the crash (Documentation/admin-guide/kdump/vmcoreinfo.rst).
set -eu
. /lib/kdump/lib.sh

# from_first BLOCKS: reads them from so much of the core.
from_first() {
    dd if=/proc/vmcore bs=64k count="$1" 2>/dev/null | tr '\000' '\n' |
        grep -a -E '^(OSRELEASE|BUILD-ID|CRASHTIME)=' >/run/kdump/vmcoreinfo
}

# The memory behind the notes is slow to read: the kernel maps each page for it. More than 180 processors have notes
# beyond the first block.
{ from_first 1 && grep -q '^CRASHTIME=' /run/kdump/vmcoreinfo; } || from_first 16 ||
    die "no VMCOREINFO note in /proc/vmcore"
log "crashed kernel: $(sed -n '1s/^OSRELEASE=//p' /run/kdump/vmcoreinfo)"
