#!/bin/sh
# The part of the library that runs what may hang: sourced behind lib.sh. A process that hangs in the kernel cannot be
# killed, and nobody waits for it.

# What hooks, collectors and programs of the administrator run in, all of them together.
LIMITED=/sys/fs/cgroup/limited
LIMITED_PROCESSES=128

# limit_processes: one that starts others without end would leave neither memory nor time to whoever is to end it (pids.max
# in Documentation/admin-guide/cgroup-v2.rst).
limit_processes() {
    mount -t cgroup2 none /sys/fs/cgroup && echo +pids >/sys/fs/cgroup/cgroup.subtree_control && mkdir "$LIMITED" &&
        echo "$LIMITED_PROCESSES" >"$LIMITED/pids.max"
}

# enter_limits: as one of the processes that are counted, with all that it starts.
enter_limits() {
    [ ! -e "$LIMITED/pids.max" ] || echo 0 >"$LIMITED/cgroup.procs"
}

# is_running PID: what has ended, and only waits to be asked how, does not run. The name of these processes has no space.
is_running() {
    read -r _ _ _state _ 2>/dev/null <"/proc/$1/stat" || return 1
    [ "$_state" != Z ]
}

# seconds_left: prints how long it is to the deadline.
seconds_left() {
    read_clock
    # shellcheck disable=SC2154  # read_clock sets it
    echo $(((KDUMP_DEADLINE_S * 100 - clock_cs) / 100))
}

# bounded SECONDS COMMAND...: runs a command in a session of its own, and ends all of it when the time is over. Returns its
# status, or 124.
bounded() {
    read_clock
    _limit=$((clock_cs + $1 * 100))
    shift
    setsid "$@" &
    _session=$!
    echo "$_session" >>/run/kdump/sessions
    while is_running "$_session"; do
        read_clock
        if [ "$clock_cs" -ge "$_limit" ]; then
            end_sessions "$_session"
            return 124
        fi
        pause 0.05
    done
    forget_session "$_session"
    _ended=0
    wait "$_session" || _ended=$?
    return "$_ended"
}

# drop_caches: what is read next comes from the device. Where one hangs, so does this, for it waits for every file system:
# it is done without, after a while.
drop_caches() {
    bounded 5 sh -c 'echo 1 >/proc/sys/vm/drop_caches' >/dev/null 2>&1 ||
        log "what is in memory cannot be dropped: nothing can be read back from a device"
}

forget_session() {
    sed -i "/^$1\$/d" /run/kdump/sessions
}

# end_sessions PID: ends this session, and those that were begun in it.
end_sessions() {
    _all=$(sed -n "/^$1\$/,\$p" /run/kdump/sessions)
    sed -i "/^$1\$/,\$d" /run/kdump/sessions
    for _one in $_all; do
        kill -9 -- "-$_one" 2>/dev/null || :
    done
    _tries=0
    while is_running "$1" && [ "$_tries" -lt 40 ]; do
        _tries=$((_tries + 1))
        pause 0.05
    done
}

# keep NAME COMMAND...: starts what must go on until the target is closed, unless it has been started for this target. It
# ends by itself once `is_closed`.
keep() {
    ! grep -q " $1\$" /run/kdump/keepers 2>/dev/null || return 0
    _keeper=$1
    shift
    setsid "$@" </dev/null &
    echo "$!" >>/run/kdump/sessions
    echo "$! $_keeper" >>/run/kdump/keepers
}

is_closed() {
    [ -e /run/kdump/closed ]
}

# end_keepers SECONDS: the target is closed: what was kept has that long to come to its end.
end_keepers() {
    [ -e /run/kdump/keepers ] || return 0
    : >/run/kdump/closed
    read_clock
    _limit=$((clock_cs + $1 * 100))
    while read -r _session _keeper; do
        while is_running "$_session"; do
            read_clock
            if [ "$clock_cs" -ge "$_limit" ]; then
                log "$_keeper: has not come to an end within $1 s"
                end_sessions "$_session"
                break
            fi
            pause 0.05
        done
        forget_session "$_session"
    done </run/kdump/keepers
    rm -f /run/kdump/keepers
}

# survey SESSION: sets _pids to the processes of a session, and _ticks to the CPU time that they have used (proc(5),
# /proc/PID/stat).
survey() {
    _ticks=0 _pids=
    _of=$1
    for _stat in /proc/[0-9]*/stat; do
        read -r _line 2>/dev/null <"$_stat" || continue
        # Behind the name, which may have brackets and spaces: state, parent, group, session, …, utime and stime.
        # shellcheck disable=SC2086  # words
        set -- ${_line##*) }
        [ "$4" = "$_of" ] || continue
        _ticks=$((_ticks + ${12} + ${13} + ${14} + ${15}))
        _stat=${_stat%/stat}
        _pids="$_pids ${_stat##*/}"
    done
}

# watched SECONDS SIZE COMMAND...: runs a command in a session of its own, and ends it when nothing has come of it for that
# long: SIZE is a command that prints how far it has come, given its processes, and it has hardly used the CPU. Returns its
# status, or 124 where it was ended, or 125 where it could not even be ended.
watched() {
    _stall=$1
    _size_of=$2
    shift 2
    setsid "$@" &
    _session=$!
    echo "$_session" >>/run/kdump/sessions
    read_clock
    _size='' _cpu=0 _since=$clock_cs
    while is_running "$_session"; do
        read_clock
        survey "$_session"
        # shellcheck disable=SC2086  # words
        _size_now=$("$_size_of" $_pids)
        # Five of a hundred ticks a second are more than what waits needs.
        if [ "$_size_now" != "$_size" ] || [ $((_ticks - _cpu)) -gt $(((clock_cs - _since) / 20 + 2)) ]; then
            _size=$_size_now _cpu=$_ticks _since=$clock_cs
        elif [ $((clock_cs - _since)) -ge $((_stall * 100)) ]; then
            end_sessions "$_session"
            ! is_running "$_session" || return 125
            return 124
        fi
        _turns=5
        while [ "$_turns" -gt 0 ] && is_running "$_session"; do
            pause 0.1
            _turns=$((_turns - 1))
        done
    done
    forget_session "$_session"
    _ended=0
    wait "$_session" || _ended=$?
    return "$_ended"
}
