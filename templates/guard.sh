#!/bin/sh
# Beside the capture: measures the memory low-water mark, and ends a capture that is past its deadline.
. /lib/kdump/lib.sh

lowest=
deadline_cs=$((KDUMP_DEADLINE_S * 100))

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

while [ "$(uptime_cs)" -lt "$deadline_cs" ]; do
    measure_memory
    sleep 0.2
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
