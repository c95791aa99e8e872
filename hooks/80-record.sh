#!/bin/sh
# Saves kexec-dmesg.log, the log of the capture environment and its kernel, and dump.json, the record of the dump.
# Settings: KDUMP_HOST KDUMP_TARGET_NAME KDUMP_TARGET_KIND KDUMP_TARGET_FS_UUID
# KDUMP_MAKEDUMPFILE_ARGUMENTS KDUMP_LEAST_ARGUMENTS KDUMP_COPY_COMPRESSION.
set -eu
. /lib/kdump/lib.sh

# One that is missing ends this script here, and not a substitution within the record.
: "$KDUMP_HOST" "$KDUMP_TARGET_NAME" "$KDUMP_TARGET_KIND" "$KDUMP_TARGET_FS_UUID"
: "$KDUMP_MAKEDUMPFILE_ARGUMENTS" "$KDUMP_LEAST_ARGUMENTS" "$KDUMP_COPY_COMPRESSION"

# Prints its argument as a JSON string, reduced to printable ASCII.
string() {
    printf '"%s"' "$(printf '%s' "$1" | tr -cd '\040-\176' | sed 's/[\\"]/\\&/g')"
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
        printf '%s\n    %s: {"bytes": %s, "sha256": "%s"}' \
            "$_comma" "$(string "$_name")" "${_digest% *}" "${_digest#* }"
        _comma=,
    done </run/kdump/saved
}

# Centiseconds as seconds.
seconds() {
    printf '%d.%02d' $(($1 / 100)) $(($1 % 100))
}

steps() {
    _comma=
    while read -r _status _began _took _name; do
        printf '%s\n    {"name": %s, "status": %s, "started_s": %s, "seconds": %s}' \
            "$_comma" "$(string "$_name")" "$_status" "$(seconds "$_began")" "$(seconds "$_took")"
        _comma=,
    done </run/kdump/steps
}

warnings() {
    if grep -q 'The kernel version is not supported' "$KDUMP_LOG"; then
        string "makedumpfile does not know this kernel version"
    fi
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
    cat <<END
{
  "schema": 1,
  "complete": $complete,
  "host": $(string "$KDUMP_HOST"),
  "kernel": {"release": $(string "$(vmcoreinfo OSRELEASE)"), "build_id": $(string "$(vmcoreinfo BUILD-ID)")},
  "crash_time": $(string "$(crash_time +%Y-%m-%dT%H:%M:%SZ)"),
  "panic": $(string "$(panic_line)"),
  "target": {"name": $(string "$KDUMP_TARGET_NAME"), "kind": $(string "$KDUMP_TARGET_KIND"), "filesystem_uuid": $(string "$KDUMP_TARGET_FS_UUID")},
  "collector": {"name": $(string "$(name_of "$collector")"), "arguments": $(string "$(arguments "$collector")")},
  "files": {$listed
  },
  "steps": [$(steps)
  ],
  "warnings": [$(warnings)],
  "memory_low_kib": $(memory_low_kib),
  "manifest_digest": "${digest%% *}"
}
END
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
