#!/bin/sh
# Beside the capture: measures the memory low-water mark, feeds the hardware watchdogs that were active before the crash,
# and ends a capture that is past its deadline. A watchdog that is fed no more resets a machine on which all else hangs.
. /lib/kdump/lib.sh

lowest=
deadline_cs=$((KDUMP_DEADLINE_S * 100))

is_time_left() {
    read_clock
    # shellcheck disable=SC2154  # read_clock sets it
    [ "$clock_cs" -lt "$deadline_cs" ]
}

measure_memory() {
    while read -r key kib _; do
        [ "$key" = MemAvailable: ] || continue
        if [ -z "$lowest" ] || [ "$kib" -lt "$lowest" ]; then
            lowest=$kib
            remember memory-low-kib "$kib"
        fi
        return
    done </proc/meminfo
}

# The names of the watchdogs that are fed, each between spaces.
fed=' '

# Opening a watchdog starts it; closing it, as by being killed, does not stop it.
find_watchdogs() {
    for _directory in /sys/class/watchdog/*; do
        _watchdog=${_directory##*/}
        case $fed in
            *" $_watchdog "*) continue ;;
        esac
        if [ -c "/dev/$_watchdog" ] && grep -qxF "$(cat "$_directory/identity")" /etc/kdump/watchdogs; then
            fed="$fed$_watchdog "
            feed "$_watchdog" &
            log "feeding $_watchdog"
        fi
    done
}

feed() {
    while is_time_left && [ ! -e /run/kdump/ending ]; do
        echo
        pause 1
    done >"/dev/$1"
}

while is_time_left; do
    measure_memory
    [ ! -e /etc/kdump/watchdogs ] || find_watchdogs
    pause 0.2
done

# Not `:`, a special built-in: when its redirection fails, the shell ends.
echo >/run/kdump/deadline-passed
# Everything but process 1, which then finds its hook dead and takes the failure action.
[ "$PPID" = 1 ] && kill -9 -1
# In the background, for the console may be what hangs.
log "the deadline of $KDUMP_DEADLINE_S s has passed" &
sleep 15
# Process 1 still waits: for a child that cannot be killed, or for the console.
[ "$KDUMP_FAILURE_ACTION" = shell ] || end_machine "$KDUMP_FAILURE_ACTION"
