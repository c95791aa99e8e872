#!/bin/sh
# The part of the library for targets that are a directory: what their drivers have in common once it is mounted at
# /target. Sourced behind lib.sh and devices.sh.

# make_directory PARENT: makes a directory for this dump that was not there before, whatever the clock says, and
# remembers it.
make_directory() {
    _base="$1/$(dump_name)"
    _new=$_base
    _count=0
    until mkdir "$_new"; do
        _count=$((_count + 1))
        if [ ! -e "$_new" ] || [ "$_count" -ge 1000 ]; then
            die "cannot make $_new"
        fi
        _new="$_base-$_count"
    done
    sync "$1"
    remember dump-directory "$_new"
}

# check_write DIRECTORY: it takes a write that reaches the device and can be read back. It is the new one, in which nobody
# can have put anything before the crash.
check_write() {
    _probe="$1/probe"
    echo "$KDUMP_HOST" | dd of="$_probe" conv=fsync || die "$1 takes no write"
    [ "$(cat "$_probe")" = "$KDUMP_HOST" ] || die "$1 does not return what was written"
    rm "$_probe"
}

# check_owner DIRECTORY: nobody but root can put something else into its place, or that of one above it. In a directory
# with the sticky bit, nobody can move what is root's.
check_owner() {
    _above=$1
    while [ "$_above" != / ]; do
        _owned=$(stat -c '%u %a' "$_above")
        case $_owned in
            "0 "[1357]??? | "0 "[246][0-7][0145][0145] | "0 "[0-7][0145][0145]) ;;
            *) die "$_above may be changed by others than root: $(stat -c '%U, mode %a' "$_above")" ;;
        esac
        [ "$_above" != /target ] || return 0
        _above=${_above%/*}
    done
}

# open_directory DIRECTORY [shared]: makes the directory of this dump below that one of what is mounted.
open_directory() {
    _parent="/target${1:+/$1}"
    mkdir -p "$_parent"
    [ "$(realpath "$_parent")" = "$_parent" ] || die "$_parent leads elsewhere: $(realpath "$_parent")"
    # Whoever shares a directory can do with it as he likes.
    [ "${2:-}" = shared ] || check_owner "$_parent"
    make_directory "$_parent"
    check_write "$(recall dump-directory)"
}

put_file() {
    exec 3>"$directory/$1-incomplete"
    write_hashed "$1" && passed "$1" "$(position 3)"
}

# directory_verb VERB [NAME]: what a driver answers to every verb but `open`.
directory_verb() {
    if [ "$1" = close ]; then
        [ -n "$(mounted_line "/target")" ] || exit 77
        umount "/target" || die "cannot unmount /target"
        return
    fi
    # Not within a redirection: where that fails, `set -e` does not see it, and the file would land in memory.
    directory=$(recall dump-directory)
    case $1 in
        put) put_file "$2" ;;
        drop) rm -f "$directory/$2-incomplete" ;;
        commit)
            # fsync of the file itself: sync(2) and syncfs(2) do not tell of an error of the device.
            dd if=/dev/null of="$directory/$2-incomplete" conv=notrunc,fsync 2>/dev/null ||
                die "$2 did not reach the device"
            _passed=$(digest_of "$2") || _passed=
            [ -z "$_passed" ] || [ "${_passed% *}" = "$(stat -c %s "$directory/$2-incomplete")" ] ||
                die "$2 is not as long as what was written"
            mv "$directory/$2-incomplete" "$directory/$2"
            sync "$directory"
            ;;
        digest)
            # What a collector has written itself has passed nowhere: it is read back from the device.
            [ -e "$directory/$2" ] || die "$2 is not there any more"
            if digest_of "$2"; then
                return
            fi
            drop_caches
            _digest=$(sha256sum "$directory/$2")
            echo "$(stat -c %s "$directory/$2") ${_digest%% *}"
            ;;
        *) die "not a verb of a target: $1" ;;
    esac
}
