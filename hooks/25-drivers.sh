#!/bin/sh
# Loads the drivers of the devices that are there, in generic images: as udev does, by the MODALIAS that each device has
# in sysfs. Then it goes on looking for devices that appear later, until 55-free has taken the drivers away. No settings.
set -eu
# A star in the name of a device is no pattern of files.
set -f
. /lib/kdump/lib.sh
. /lib/kdump/modules.sh
. /etc/kdump/drivers/aliases

# The drivers that have been asked for, each between spaces.
asked=' '

# Prints MODALIAS=NAME for every device.
modaliases() {
    find /sys/devices -name uevent -exec grep -hs '^MODALIAS=' {} +
}

# Prints the drivers that all devices ask for, one a line.
wanted_drivers() {
    for _modalias in $(modaliases); do
        drivers_of "${_modalias#MODALIAS=}"
    done
}

# load_driver NAME: loads it behind what it needs, and gives the memory of the files back.
load_driver() {
    _files=$(sed -n "s/^$1: //p" /etc/kdump/drivers/order)
    for _file in $_files; do
        _module=${_file##*/}
        [ -e "/sys/module/${_module%.ko}" ] || load_module "$_file" || log "cannot load $_file"
        rm -f "$_file"
    done
}

# Loads the drivers that have not been asked for before; fails when there are none.
load_new() {
    _new=
    for _driver in $(wanted_drivers); do
        case $asked in
            *" $_driver "*) continue ;;
        esac
        asked="$asked$_driver "
        is_blacklisted "$_driver" && continue
        _new="$_new $_driver"
        load_driver "$_driver"
    done
    [ -n "$_new" ] || return 1
    log "drivers:$_new"
}

# Disks behind USB and SCSI hosts appear when these have looked around, which takes seconds.
watch_devices() {
    while sleep 1 && [ -d /lib/modules ]; do
        load_new || :
    done
}

while load_new; do :; done
# Its output is its own: whoever has started this script waits for the end of what it says. A redirection of the function
# alone would keep the old output open, to come back to it.
(
    exec >/dev/null 2>&1
    watch_devices
) &
