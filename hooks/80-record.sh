#!/bin/sh
# Saves kexec-dmesg.log, the log of the capture environment and its kernel, and dump.json, the record of the dump.
# Settings: KDUMP_HOST KDUMP_TARGET_NAME KDUMP_TARGET_KIND KDUMP_TARGET_FS_UUID
# KDUMP_MAKEDUMPFILE_ARGUMENTS KDUMP_LEAST_ARGUMENTS KDUMP_COPY_COMPRESSION KDUMP_LEVEL_NOTE.
set -eu
. /lib/kdump/lib.sh

# One that is missing ends this script here, and not a substitution within the record.
: "$KDUMP_HOST" "$KDUMP_TARGET_NAME" "$KDUMP_TARGET_KIND" "$KDUMP_TARGET_FS_UUID"
: "$KDUMP_MAKEDUMPFILE_ARGUMENTS" "$KDUMP_LEAST_ARGUMENTS" "$KDUMP_COPY_COMPRESSION" "$KDUMP_LEVEL_NOTE"

# Prints its argument as a JSON string, reduced to printable ASCII.
string() {
    case $1 in
        # Most need no program, of which each takes time and memory.
        *[!A-Za-z0-9\ _.,:=/+-]*) printf '"%s"' "$(printf '%s' "$1" | tr -cd '\040-\176' | sed 's/[\\"]/\\&/g')" ;;
        *) printf '"%s"' "$1" ;;
    esac
}

# member NAME VALUE: prints a member of an object.
member() {
    printf '"%s": ' "$1"
    string "$2"
}

# Prints the line of the log that says best why. An oops that ends the system starts us before it says that it panics.
panic_line() {
    [ -e /run/kdump/vmcore-dmesg.txt ] || return 0
    for _why in 'Kernel panic - not syncing' 'BUG: |Unable to handle kernel |general protection fault' \
        'Oops: |Internal error: '; do
        _line=$(grep -a -E "$_why" /run/kdump/vmcore-dmesg.txt | tail -n 1)
        [ -z "$_line" ] || break
    done
    echo "$_line" | sed 's/^\[ *[0-9.]*\] *//'
}

# Prints the program that a collector is.
name_of() {
    case $1 in
        least) echo makedumpfile ;;
        *) echo "$1" ;;
    esac
}

arguments() {
    case $1 in
        makedumpfile) echo "$KDUMP_MAKEDUMPFILE_ARGUMENTS" ;;
        least) echo "$KDUMP_LEAST_ARGUMENTS" ;;
        copy) echo "$KDUMP_COPY_COMPRESSION" ;;
    esac
}

# Prints "NAME": {"bytes": N, "sha256": "…"} for every file that was saved. A log that is lost is no reason to say nothing
# of the core.
files() {
    [ -e /run/kdump/saved ] || return 0
    _comma=
    while read -r _name; do
        _digest=$(target digest "$_name") || case $_name in
            vmcore | vmcore.*) return 1 ;;
            *) continue ;;
        esac
        printf '%s\n    "%s": {"bytes": %s, "sha256": "%s"}' "$_comma" "$_name" "${_digest% *}" "${_digest#* }"
        _comma=,
    done </run/kdump/saved
}

# Times are in centiseconds.
steps() {
    _comma=
    while read -r _status _began _took _name; do
        printf '%s\n    {' "$_comma"
        member name "$_name"
        printf ', "status": %s, "started_s": %d.%02d, "seconds": %d.%02d}' \
            "$_status" $((_began / 100)) $((_began % 100)) $((_took / 100)) $((_took % 100))
        _comma=,
    done </run/kdump/steps
}

# Of the dump level only where makedumpfile has made the dump.
warnings() {
    _comma=
    if grep -q 'The kernel version is not supported' "$KDUMP_LOG"; then
        string "makedumpfile does not know this kernel version"
        _comma=', '
    fi
    case $(name_of "$collector"):$KDUMP_LEVEL_NOTE in
        makedumpfile:?*) printf '%s' "$_comma" && string "$KDUMP_LEVEL_NOTE" ;;
    esac
}

# Prints what the kernel asked for that is not in the image, as JSON strings.
kernel_requests() {
    _comma=
    [ ! -e /run/kdump/requests ] || while IFS= read -r _name; do
        printf '%s' "$_comma"
        string "$_name"
        _comma=', '
    done </run/kdump/requests
}

# The least memory that was available; the guard may not have measured anything.
memory_low_kib() {
    if [ -e /run/kdump/memory-low-kib ]; then
        recall memory-low-kib
    else
        echo 0
    fi
}

record() {
    collector=
    [ ! -e /run/kdump/collector ] || collector=$(recall collector)
    complete=false
    [ -z "$collector" ] || complete=true
    digest=$(sha256sum /etc/kdump/manifest.json)
    listed=$(files) || return 1
    printf '{\n  "schema": 1,\n  "complete": %s,\n  ' "$complete"
    member host "$KDUMP_HOST"
    printf ',\n  "kernel": {'
    member release "$(vmcoreinfo OSRELEASE)"
    printf ', '
    member build_id "$(vmcoreinfo BUILD-ID)"
    printf '},\n  '
    member crash_time "$(crash_time +%Y-%m-%dT%H:%M:%SZ)"
    printf ',\n  '
    member panic "$(panic_line)"
    printf ',\n  "target": {'
    member name "$KDUMP_TARGET_NAME"
    printf ', '
    member kind "$KDUMP_TARGET_KIND"
    printf ', '
    member filesystem_uuid "$KDUMP_TARGET_FS_UUID"
    printf '},\n  "collector": {'
    member name "$(name_of "$collector")"
    printf ', '
    member arguments "$(arguments "$collector")"
    printf '},\n  "files": {%s\n  },\n  "steps": [' "$listed"
    steps
    printf '\n  ],\n  "warnings": ['
    warnings
    printf '],\n  "kernel_requests": ['
    kernel_requests
    printf '],\n  "memory_low_kib": %s,\n  "manifest_digest": "%s"\n}\n' "$(memory_low_kib)" "${digest%% *}"
}

save_log() {
    {
        cat "$KDUMP_LOG"
        dmesg
    } | target put kexec-dmesg.log && commit kexec-dmesg.log
}

# The record matters more than the log that it would list.
save_log || log "cannot save kexec-dmesg.log"
record >/run/kdump/dump.json || die "the saved files cannot be read back"
save_file dump.json /run/kdump/dump.json
