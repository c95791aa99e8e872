#!/bin/sh
# Removes the drivers that are left in a generic image once a target is open: rootfs is memory, and what saves the dump
# needs it. Drivers of the other targets are loaded by then, as far as their devices are there. No settings.
set -eu
. /lib/kdump/lib.sh
[ -d /lib/modules ] || exit 77

rm -rf /lib/modules
