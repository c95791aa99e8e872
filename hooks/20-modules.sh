#!/bin/sh
# Loads the planned modules in the planned order, and gives their files' memory back (rootfs is memory). No settings.
set -eu
. /lib/kdump/lib.sh
. /lib/kdump/modules.sh

# load MODULE: a driver for hardware that is not there (ENODEV) is no failure: an alias brings all that answer to it; nor is
# one that the kernel has asked for meanwhile (modprobe.sh).
load() {
    _name=${1##*/}
    [ ! -e "/sys/module/${_name%.ko}/initstate" ] || return 0
    load_module "$1" 2>/run/kdump/insmod-said && return
    _said=$(recall insmod-said)
    case $_said in
        *"File exists") return 0 ;;
    esac
    log "cannot load $1: $_said"
    case $_said in
        *"No such device") ;;
        *) return 1 ;;
    esac
}

read_parameters
failed=0
while read -r module; do
    load "$module" || failed=1
    # Not `:`, a special built-in: when its redirection fails, the shell ends.
    printf '' >"$module" || :
done </etc/kdump/modules
exit "$failed"
