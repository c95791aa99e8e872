# The shell library of the capture environment: sourced by /init and by every hook.
# POSIX sh for busybox ash. Names that start with an underscore belong to one function.

KDUMP_LOG=/run/kdump/log

# read_clock: sets clock_cs to the centiseconds since the kernel started: the clock of everything here, the wall clock may
# be wrong.
read_clock() {
    read -r _up _ </proc/uptime
    clock_cs=$((${_up%.*} * 100 + 1${_up#*.} - 100))
}

# A pipe in which nobody ever says anything.
SILENCE=/run/kdump/silence

# pause SECONDS: sleeps. Who polls must not start a process each time: that costs more than all else that is done here,
# and fails where memory is short.
pause() {
    if [ -p "$SILENCE" ]; then
        # shellcheck disable=SC3045  # -t: busybox has it, make_silence has tried
        read -r -t "$1" _ <>"$SILENCE" || :
    else
        sleep "$1"
    fi
}

# make_silence: for `pause`, where this shell can wait for a part of a second. One that cannot is ended by what it is told.
make_silence() {
    mkfifo "$SILENCE.new" && {
        sh -c "read -r -t 0.001 _ <>$SILENCE.new; mv $SILENCE.new $SILENCE" >/dev/null 2>&1 || rm -f "$SILENCE.new"
    }
}

# log MESSAGE...: to the log that is saved with the dump, and to the console.
log() {
    read -r _up _ </proc/uptime
    # Neither a full log nor a console that does not work may end what wants to log.
    echo "[$_up] $*" >>"$KDUMP_LOG" || :
    echo "kdump: [$_up] $*" 2>/dev/null >/dev/console || :
}

# die MESSAGE...: what a hook says last when it has failed.
die() {
    log "$@"
    remember reason "$*"
    exit 1
}

# remember NAME VALUE, recall NAME: state that hooks hand to each other. What is recalled is never half of a value.
remember() {
    printf '%s\n' "$2" >"/run/kdump/$1.new" && mv "/run/kdump/$1.new" "/run/kdump/$1"
}

recall() {
    while IFS= read -r _recalled; do
        printf '%s\n' "$_recalled"
    done <"/run/kdump/$1"
}

# wait_for SECONDS COMMAND...: repeats the command until it succeeds; fails when the time is over.
wait_for() {
    read_clock
    _until=$((clock_cs + $1 * 100))
    shift
    until "$@"; do
        read_clock
        [ "$clock_cs" -lt "$_until" ] || return 1
        pause 0.2
    done
}

past_deadline() {
    [ -e /run/kdump/deadline-passed ]
}

# The most that one hook may add to the log, which is memory.
LOG_BYTES=262144

# limited COMMAND...: runs a command with its output in the log, of which no more than a part is kept. What it leaves
# running must have an output of its own: this waits until nobody can say anything more.
limited() {
    rm -f /run/kdump/limited-status
    {
        _said=0
        "$@" </dev/null 2>&1 || _said=$?
        echo "$_said" >/run/kdump/limited-status
    } | {
        head -c "$LOG_BYTES"
        cat >/dev/null
    } >>"$KDUMP_LOG"
    # Where it has killed whoever has started it, nobody tells.
    [ -e /run/kdump/limited-status ] || return 137
    return "$(recall limited-status)"
}

# start_hook NAME [ARGUMENT...]: runs a hook as a child, and sets _status to how it ended.
start_hook() {
    _script="/lib/kdump/hooks/$1.sh"
    shift
    _status=0
    sh "$_script" "$@" </dev/null >>"$KDUMP_LOG" 2>&1 || _status=$?
}

# start_bounded_hook NAME [ARGUMENT...]: runs a hook that must end soon and say little, and sets _status to how it ended.
start_bounded_hook() {
    _status=0
    _script="/lib/kdump/hooks/$1.sh"
    shift
    bounded "$KDUMP_HOOK_TIMEOUT_S" sh /lib/kdump/limited.sh "$_script" "$@" || _status=$?
}

# record_step STATUS BEGAN NAME: BEGAN is in centiseconds; for the record of the dump.
record_step() {
    read_clock
    echo "$1 $2 $((clock_cs - $2)) $3" >>/run/kdump/steps
}

# run_hook NAME [ARGUMENT...]: runs a hook and records status, start and duration as one step.
run_hook() {
    recorded start_hook "$@"
}

run_bounded_hook() {
    recorded start_bounded_hook "$@"
}

# said_since LINE: prints what was logged behind the last line that reads so.
said_since() {
    _at=$(grep -nxF "$1" "$KDUMP_LOG" | sed -n '$s/:.*//p')
    tail -n "+$((${_at:-0} + 1))" "$KDUMP_LOG"
}

# recorded COMMAND NAME [ARGUMENT...]
recorded() {
    _how=$1
    shift
    _name="$*"
    read_clock
    _began=$clock_cs
    log "$_name"
    _headline="[$_up] $_name"
    "$_how" "$@"
    record_step "$_status" "$_began" "$_name"
    case $_status in
        0 | 77) return 0 ;;
    esac
    said_since "$_headline" | tail -n 8 2>/dev/null >/dev/console
    log "$_name: failed with status $_status"
    return 1
}

# run_scripts pre|post [ARGUMENT...]: runs the scripts of the administrator. Whatever they do, the dump goes on.
run_scripts() {
    _when=$1
    shift
    for _script in "/etc/kdump/$_when.d"/*; do
        [ -e "$_script" ] || continue
        read_clock
        _began=$clock_cs
        _status=0
        bounded "$KDUMP_HOOK_TIMEOUT_S" sh /lib/kdump/limited.sh "$_script" "$@" || _status=$?
        record_step "$_status" "$_began" "$_when ${_script##*/}"
        [ "$_status" = 0 ] || log "${_script##*/}: ended with status $_status"
    done
}

# Exit statuses of a storage hook that must be run again: not all is there yet (EX_TEMPFAIL of sysexits.h). With HOLD the
# hooks behind it are not run meanwhile: they would take what it waits for, such as one path of a disk that has several.
NOT_YET=75
HOLD=76

# assemble NAME...: runs storage hooks in their order, again and again until none says NOT_YET: layers stand on each
# other in any order, and devices appear when they like. A hook finds in KDUMP_WAITED_S how long that has taken. Each is
# recorded as one step, with its last status.
assemble() {
    read_clock
    _first=$clock_cs
    until assemble_once "$@"; do
        pause 0.3
    done
    for _step in $_statuses; do
        record_step "${_step%%:*}" "$_first" "${_step#*:}"
    done
    [ -n "$_bad" ] || return 0
    tail -n 8 "$KDUMP_LOG" 2>/dev/null >/dev/console
    log "storage is not there after $KDUMP_WAITED_S s:$_bad"
    return 1
}

# Sets _statuses to STATUS:NAME of each hook, and _bad to those that have failed or want more time; fails where it is
# worth another try.
assemble_once() {
    read_clock
    KDUMP_WAITED_S=$(((clock_cs - _first) / 100))
    export KDUMP_WAITED_S
    _statuses=
    _bad=
    _again=1
    for _hook in "$@"; do
        start_hook "$_hook"
        _statuses="$_statuses $_status:$_hook"
        case $_status in
            0 | 77) continue ;;
            "$NOT_YET" | "$HOLD") ;;
            *) _again=0 ;;
        esac
        _bad="$_bad $_hook"
        [ "$_status" != "$HOLD" ] || break
    done
    [ -z "$_bad" ] || [ "$_again" = 0 ] || [ "$KDUMP_WAITED_S" -ge "$KDUMP_DEVICE_TIMEOUT_S" ]
}

# block_devices: prints the names of all block devices, as sysfs spells them.
block_devices() {
    for _entry in /sys/class/block/*; do
        [ ! -e "$_entry" ] || echo "${_entry##*/}"
    done
}

# device_node NAME: prints the path; sysfs writes the slash of cciss/c0d0 as an exclamation mark.
device_node() {
    echo "/dev/$(echo "$1" | tr '!' /)"
}

# device_bytes NAME OFFSET LENGTH: prints these bytes of a device.
device_bytes() {
    dd if="$(device_node "$1")" bs=1 skip="$2" count="$3" 2>/dev/null
}

# bytes_are NAME OFFSET LENGTH HEX: does the device hold these bytes there?
bytes_are() {
    [ "$(device_bytes "$1" "$2" "$3" | od -An -v -tx1 | tr -d ' \n')" = "$4" ]
}

# has_holder NAME: does another device stand on this one, or on the disk that it is a partition of? A leg of a mirror or
# of a multipath device carries the same content as the whole.
has_holder() {
    for _holder in "/sys/class/block/$1/holders"/* "/sys/class/block/$1/../holders"/*; do
        [ ! -e "$_holder" ] || return 0
    done
    return 1
}

# dm_exists UUID: is there a device-mapper device with this UUID? There is no udev that could make links.
dm_exists() {
    grep -qxF "$1" /sys/block/dm-*/dm/uuid 2>/dev/null
}

# vmcoreinfo KEY: prints what the crashed kernel says of itself, or nothing.
vmcoreinfo() {
    [ ! -e /run/kdump/vmcoreinfo ] || sed -n "s/^$1=//p" /run/kdump/vmcoreinfo | head -n 1
}

# crash_time FORMAT: prints the time of the crash as date(1) formats it; fails where the crashed kernel named no sane
# one (after 1973 and before 2286).
crash_time() {
    _time=$(vmcoreinfo CRASHTIME)
    case $_time in
        *[!0-9]* | ???????????*) return 1 ;;
        [1-9]????????*) date -u -d "@$_time" "$1" ;;
        *) return 1 ;;
    esac
}

# dump_name: prints HOST-YYYYMMDDTHHMMSSZ, the name of this dump.
dump_name() {
    echo "$KDUMP_HOST-$(crash_time +%Y%m%dT%H%M%SZ || date -u +%Y%m%dT%H%M%SZ)"
}

# target VERB [ARGUMENT...]: asks the driver of the current target: put NAME (from stdin), drop NAME, digest NAME.
target() {
    sh "/lib/kdump/hooks/$KDUMP_TARGET_HOOK.sh" "$@"
}

# commit NAME: makes what was put durable and gives it its name; only then it counts as saved.
commit() {
    target commit "$1" && echo "$1" >>/run/kdump/saved
}

# save_file NAME FILE: puts a file on the target under that name, complete or not at all.
save_file() {
    target put "$1" <"$2" && commit "$1"
}

# limit_size: no file that this process writes from now on may become larger than the room that 58-room has found.
limit_size() {
    [ ! -e /run/kdump/limit-bytes ] || ulimit -f $(($(recall limit-bytes) / 512))
}

# is_saved NAME: has the target this file, complete?
is_saved() {
    grep -qxF "$1" /run/kdump/saved 2>/dev/null
}

# position DESCRIPTOR: prints how far this file has been read or written by those who share the descriptor (proc(5),
# /proc/PID/fdinfo).
position() {
    sed -n 's/^pos:[^0-9]*//p' "/proc/self/fdinfo/$1"
}

# room_for NAME: prints how many bytes the target still takes of that file. The logs and the record may take of the reserve.
room_for() {
    case $1 in
        vmcore | vmcore.*) recall limit-bytes 2>/dev/null || echo "$UNLIMITED" ;;
        *) echo "$UNLIMITED" ;;
    esac
}
UNLIMITED=9223372036854775807

# How many bytes pass through memory at a time.
PIECE_BYTES=2097152

# pass_pieces NAME: writes stdin to descriptor 3 and passes it on to stdout, a piece at a time; fails where a write does, or
# where there is no more room. (busybox's tee passes on 1 KiB at a time, and does not tell of errors.)
pass_pieces() {
    # What hangs in the kernel may come back when another has long begun: each has a piece of its own.
    _piece="/run/kdump/piece.$$"
    _left=$(room_for "$1")
    _size=$PIECE_BYTES
    while [ "$_left" -gt 0 ]; do
        [ "$_left" -ge "$_size" ] || _size=$_left
        dd bs="$_size" count=1 iflag=fullblock of="$_piece" 2>/run/kdump/dd-said || {
            log "$(recall dd-said)"
            return 1
        }
        [ -s "$_piece" ] || return 0
        cat "$_piece" >&3 && cat "$_piece" || return 1
        _left=$((_left - _size))
    done
    log "no room for more of $1 than $(room_for "$1") bytes"
    return 1
}

# write_hashed NAME: writes stdin to descriptor 3, and sums it up on the way. Whoever knows then how many bytes it was says
# `passed`.
write_hashed() {
    mkdir -p /run/kdump/digests
    _note="/run/kdump/digests/$1"
    rm -f "$_note" "$_note.whole"
    { pass_pieces "$1" && : >"$_note.whole"; } | sha256sum >"$_note.sha256"
    rm -f "/run/kdump/piece.$$"
    [ -e "$_note.whole" ]
}

# passed NAME BYTES: notes what `digest_of` prints.
passed() {
    _note="/run/kdump/digests/$1"
    read -r _sum _ <"$_note.sha256"
    echo "$2 $_sum" >"$_note"
}

# digest_of NAME: prints bytes and sha256 of what has passed as NAME; nothing, and fails, where that did not pass here.
digest_of() {
    cat "/run/kdump/digests/$1" 2>/dev/null
}

# stage COMMAND...: runs a stage of a pipe that is not its last; how it ended is told by stages_succeeded.
stage() {
    "$@" || echo "status $?: $*" >>/run/kdump/failed-stages
}

# stages_succeeded: did every stage end well since the last time this was asked?
stages_succeeded() {
    [ -s /run/kdump/failed-stages ] || return 0
    log "$(recall failed-stages)"
    rm /run/kdump/failed-stages
    return 1
}

# missing_requests SEPARATOR: prints what the kernel asked for that is not in this image (modprobe.sh).
missing_requests() {
    _names=
    [ ! -e /run/kdump/requests ] || while IFS= read -r _name; do
        _names="$_names${_names:+$1}$_name"
    done </run/kdump/requests
    printf '%s\n' "$_names"
}

# leave_reason: says in a few words why nothing was saved, where the next system finds it: what is written to pmsg0 is kept
# by pstore over a reboot.
leave_reason() {
    _reason="kdump: nothing could be saved: $(recall reason 2>/dev/null || echo 'see the console')"
    _asked=$(missing_requests ', ')
    _reason="$_reason${_asked:+; the kernel asked for $_asked, which is not in this image}"
    [ ! -c /dev/pmsg0 ] || echo "$_reason" >/dev/pmsg0 || :
    log "$_reason"
}

# take_action reboot|poweroff|halt|shell: the last thing that happens; does not return.
take_action() {
    log "$1"
    if [ "$1" = shell ]; then
        log "hooks can be run again by hand: . /etc/kdump/targets/0; sh /lib/kdump/hooks/NN-name.sh"
        # Who works here has no deadline.
        [ ! -e /run/kdump/guard ] || kill "$(recall guard)"
        sh </dev/console >/dev/console 2>&1
        set -- reboot
    fi
    end_machine "$1"
}

# end_machine reboot|poweroff|halt: without a word, for the console may be what hangs; does not return.
end_machine() {
    # A watchdog is fed no more: where all else hangs, it bites.
    [ "$1" = halt ] || echo >/run/kdump/ending
    "$1" -f &
    sleep 10
    # The system call hangs when a driver does; the emergency keys do not ask drivers. There is none that halts.
    case $1 in
        reboot) echo b >/proc/sysrq-trigger ;;
        poweroff) echo o >/proc/sysrq-trigger ;;
    esac
    while :; do sleep 60; done
}
