# The shell library of the capture environment: sourced by /init and by every hook.
# POSIX sh for busybox ash. Names that start with an underscore belong to one function.

KDUMP_LOG=/run/kdump/log

# Prints the centiseconds since the kernel started: the clock of everything here, the wall clock may be wrong.
uptime_cs() {
    read -r _up _ </proc/uptime
    echo $((${_up%.*} * 100 + 1${_up#*.} - 100))
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
    exit 1
}

# remember NAME VALUE, recall NAME: state that hooks hand to each other. What is recalled is never half of a value.
remember() {
    printf '%s\n' "$2" >"/run/kdump/$1.new" && mv "/run/kdump/$1.new" "/run/kdump/$1"
}

recall() {
    cat "/run/kdump/$1"
}

# wait_for SECONDS COMMAND...: repeats the command until it succeeds; fails when the time is over.
wait_for() {
    _until=$(($(uptime_cs) + $1 * 100))
    shift
    until "$@"; do
        [ "$(uptime_cs)" -lt "$_until" ] || return 1
        sleep 0.2
    done
}

past_deadline() {
    [ -e /run/kdump/deadline-passed ]
}

# run_hook NAME [ARGUMENT...]: runs a hook as a child and records status, start and duration as one step.
run_hook() {
    _name="$*"
    _script="/lib/kdump/hooks/$1.sh"
    shift
    _began=$(uptime_cs)
    _log_lines=$(wc -l <"$KDUMP_LOG")
    log "$_name"
    _status=0
    sh "$_script" "$@" </dev/null >>"$KDUMP_LOG" 2>&1 || _status=$?
    echo "$_status $_began $(($(uptime_cs) - _began)) $_name" >>/run/kdump/steps
    case $_status in
        0 | 77) return 0 ;;
    esac
    tail -n "+$((_log_lines + 2))" "$KDUMP_LOG" | tail -n 8 2>/dev/null >/dev/console
    log "$_name: failed with status $_status"
    return 1
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

# make_directory PARENT: makes a directory for this dump that was not there before, whatever the clock says, and
# remembers it.
make_directory() {
    _stamp=$(crash_time +%Y%m%dT%H%M%SZ || date -u +%Y%m%dT%H%M%SZ)
    _base="$1/$KDUMP_HOST-$_stamp"
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

# target VERB [ARGUMENT...]: asks the driver of the current target: put NAME (from stdin), commit NAME.
target() {
    sh "/lib/kdump/hooks/$KDUMP_TARGET_HOOK.sh" "$@"
}

# save_file NAME FILE: puts a file on the target under that name, complete or not at all.
save_file() {
    target put "$1" <"$2" && target commit "$1"
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
    "$1" -f &
    sleep 10
    # The system call hangs when a driver does; the emergency keys do not ask drivers. There is none that halts.
    case $1 in
        reboot) echo b >/proc/sysrq-trigger ;;
        poweroff) echo o >/proc/sysrq-trigger ;;
    esac
    while :; do sleep 60; done
}
