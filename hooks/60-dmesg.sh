#!/bin/sh
# Saves the crashed kernel's log as vmcore-dmesg.txt: the small file that explains most crashes, before the large one.
# Settings: KDUMP_MAKEDUMPFILE, KDUMP_VMCORE_DMESG (paths, either may be empty).
set -eu
. /lib/kdump/lib.sh

dmesg=/run/kdump/vmcore-dmesg.txt

read_dmesg() {
    rm -f "$dmesg"
    if [ -n "$KDUMP_MAKEDUMPFILE" ]; then
        "$KDUMP_MAKEDUMPFILE" --dump-dmesg /proc/vmcore "$dmesg" && return
    fi
    [ -n "$KDUMP_VMCORE_DMESG" ] && "$KDUMP_VMCORE_DMESG" /proc/vmcore >"$dmesg"
}

read_dmesg || die "the crashed kernel's log cannot be read"
[ -s "$dmesg" ] || die "the crashed kernel's log is empty"
save_file vmcore-dmesg.txt "$dmesg"
