#!/bin/sh
# Memory that the test plugs in when the guest asks for it (tests/vm/plugging.py).

blocks() {
    find /sys/devices/system/memory -name 'memory[0-9]*' | wc -l
}

# plug NUMBER: has the test plug in a bank of memory, and waits for it.
plug() {
    before=$(blocks)
    echo "hotplug: plug $1" > /dev/console
    tries=0
    until [ "$(blocks)" -gt "$before" ]; do
        tries=$((tries + 1))
        [ "$tries" -lt 60 ]
        sleep 1
    done
}

# load_time: prints when the capture kernel was loaded.
load_time() {
    kdump-initramfs status --json | sed -n 's/.*"loaded_at": *\([0-9]*\).*/\1/p'
}

# plug_and_follow NUMBER: plugs in a bank, for which the rule of udev has the capture kernel loaded again.
plug_and_follow() {
    first=$(load_time)
    plug "$1"
    tries=0
    until kdump-initramfs status; do
        tries=$((tries + 1))
        [ "$tries" -lt 60 ]
        sleep 1
    done
    [ "$(load_time)" -gt "$first" ]
}
