#!/bin/sh
# /init of the system that is made to crash in a rehearsal. Two boots: `crash` makes the storage, loads the capture
# kernel and panics; `read` comes after the capture and copies what was saved to the result disk.
# Settings: VICTIM_PHASE is on the kernel command line; the others are in /etc/victim/settings.
umask 077
PATH=/usr/sbin:/usr/bin:/sbin:/bin
export PATH

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
. /etc/victim/settings

say() {
    echo "rehearsal: $*"
}

fail() {
    say "failed: $*"
    poweroff -f
    sleep 60
}

# disk_of_bytes BYTES: prints the disk of that size; no two disks of a rehearsal have the same.
disk_of_bytes() {
    for entry in /sys/block/*; do
        [ -e "$entry/size" ] || continue
        if [ "$(($(cat "$entry/size") * 512))" = "$1" ]; then
            echo "/dev/${entry##*/}"
            return
        fi
    done
    return 1
}

wait_for_disks() {
    tries=0
    until VICTIM_DISK=$(disk_of_bytes "$VICTIM_DISK_BYTES") && VICTIM_RESULT=$(disk_of_bytes "$VICTIM_RESULT_BYTES"); do
        tries=$((tries + 1))
        # shellcheck disable=SC2046  # words
        [ "$tries" -lt 100 ] || fail "the disks did not appear; there are:" $(ls /sys/block)
        sleep 0.2
    done
    VICTIM_PARTITION=${VICTIM_DISK}1
    [ -b "$VICTIM_PARTITION" ] || VICTIM_PARTITION=${VICTIM_DISK}p1
    export VICTIM_DISK VICTIM_PARTITION
}

while read -r module; do
    insmod "$module" || fail "cannot load $module"
done </etc/kdump/modules
wait_for_disks

crash() {
    say "making the storage"
    sh -eu /etc/victim/make-storage || fail "cannot make the storage"
    sh -eu /etc/victim/open-storage || fail "cannot mount the storage"
    mkdir -p "/mnt/$VICTIM_DIRECTORY"
    umount /mnt
    say "loading the capture kernel"
    sh -e /etc/victim/load || fail "cannot load the capture kernel"
    cat /sys/kernel/kexec_crash_loaded /sys/kernel/kexec/crash_loaded 2>/dev/null | grep -qx 1 ||
        fail "kexec succeeded, but nothing is loaded"
    echo "$VICTIM_TOKEN" >/dev/kmsg
    say "crashing"
    echo c >/proc/sysrq-trigger
    fail "the kernel did not crash"
}

read_back() {
    say "reading the dump back"
    sh -eu /etc/victim/open-storage || fail "cannot mount the storage"
    tar -c -f "$VICTIM_RESULT" -C "/mnt/$VICTIM_DIRECTORY" . || fail "cannot copy what was saved"
    umount /mnt
    sync "$VICTIM_RESULT"
    say "read"
    poweroff -f
    sleep 60
}

case $VICTIM_PHASE in
    crash) crash ;;
    read) read_back ;;
    *) fail "no such phase: $VICTIM_PHASE" ;;
esac
