#!/bin/sh
# Opens the LUKS devices of the current target with their key files, or with volume keys that the kernel was handed.
# Settings: KDUMP_CRYPTSETUP (path), KDUMP_CRYPT (four words for each: UUID of the header, name, dm UUID, and the path of
# a key file or %user:DESCRIPTION of a key).
set -eu
. /lib/kdump/lib.sh
[ -n "${KDUMP_CRYPT:-}" ] || exit 77

CONFIGFS=/sys/kernel/config
RESTORE=$CONFIGFS/crash_dm_crypt_keys/restore

# There is no udev that could make device nodes, or that a program could wait for (libdevmapper).
export DM_DISABLE_UDEV=1

# is_header NAME UUID: does a LUKS header with this UUID lie there? Its magic is at 0, its UUID, as text, at 168.
is_header() {
    ! has_holder "$1" && bytes_are "$1" 0 6 4c554b53babe && [ "$(device_bytes "$1" 168 36 | tr -d '\000')" = "$2" ]
}

# restore_keys: has the kernel put what the crashed one handed over into root's keyring, as keys of type user
# (Documentation/admin-guide/kdump/kdump.rst). It says nothing of success: cryptsetup does.
restore_keys() {
    [ -e "$RESTORE" ] || mount -t configfs configfs "$CONFIGFS"
    [ "$(cat "$RESTORE")" = 1 ] || echo 1 >"$RESTORE"
}

# open_device UUID NAME DM-UUID KEY
open_device() {
    dm_exists "$3" && return
    _found=
    for _device in $(block_devices); do
        ! is_header "$_device" "$1" || _found="$_found $_device"
    done
    case $_found in
        "") return 1 ;;
        # Legs of a mirror that is not there yet, or a copy: nobody can tell which was meant.
        " "*" "*)
            refuse_copies "LUKS UUID $1 is on several devices:$_found"
            return 1
            ;;
    esac
    open_with_key "$4" "$(device_node "${_found# }")" "$2"
    dm_exists "$3"
}

# refuse_copies MESSAGE: says it once, however often this hook is run.
refuse_copies() {
    [ "$(recall reason 2>/dev/null)" = "$1" ] || log "$1"
    remember reason "$1"
}

# open_with_key KEY NODE NAME
open_with_key() {
    case $1 in
        %*)
            restore_keys || die "the volume key of $2 is not to be had: this kernel was handed none"
            set -- --volume-key-keyring "$@"
            ;;
        *) set -- --key-file "$@" ;;
    esac
    "$KDUMP_CRYPTSETUP" open --type luks --batch-mode --disable-locks "$@"
}

missing=0
# What a key is called may look like a pattern.
set -f
# shellcheck disable=SC2086  # words
set -- $KDUMP_CRYPT
set +f
while [ $# -ge 4 ]; do
    open_device "$1" "$2" "$3" "$4" || missing=1
    shift 4
done
[ "$missing" = 0 ] || exit "$NOT_YET"
