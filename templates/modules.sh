# How modules get their parameters, as of modprobe: those of modprobe.d as it was when the image was built
# (/etc/kdump/parameters), then those of the command line; the kernel takes the last one. Needs lib.sh.
# shellcheck shell=sh

# In /run/kdump: lines `MODULE PARAMETERS`, as the kernel reads them, and `MODULE` for each that no device gets.
PARAMETERS=/run/kdump/parameters
BLACKLIST=/run/kdump/blacklist

# read_parameters: makes both files. Parameters on the command line are `MODULE.PARAMETER[=VALUE]`; quotes and what they
# hold stay together, an open one reaches to the end (next_arg(), lib/cmdline.c).
read_parameters() {
    : >"$BLACKLIST"
    if [ -e /etc/kdump/parameters ]; then
        cat /etc/kdump/parameters
    fi >"$PARAMETERS"
    # Not even a newline at its end is certain.
    _line=
    read -r _line </proc/cmdline || :
    _word=
    while [ -n "$_line" ]; do
        _part=${_line%%[\" ]*}
        _line=${_line#"$_part"}
        _word=$_word$_part
        case $_line in
            '"'*)
                _line=${_line#?}
                _part=${_line%%\"*}
                _word="$_word\"$_part\""
                _line=${_line#"$_part"}
                _line=${_line#?}
                ;;
            *)
                # A program for init follows.
                [ "$_word" != -- ] || return 0
                keep_parameter "$_word"
                _word=
                _line=${_line#?}
                ;;
        esac
    done
    keep_parameter "$_word"
}

# keep_parameter WORD: notes a word of the command line, if it is a parameter of a module. A quote may be before its name.
keep_parameter() {
    _quote=
    case $1 in
        '"'*) _quote='"' ;;
    esac
    _bare=${1#"$_quote"}
    _name=${_bare%%.*}
    case $_name in
        "$_bare" | '' | *[!A-Za-z0-9_-]*) return 0 ;;
        modprobe) keep_blacklist "$_bare" ;;
    esac
    underscore "$_name"
    echo "$underscored $_quote${_bare#*.}" >>"$PARAMETERS"
}

# keep_blacklist PARAMETER: notes the names of modprobe.blacklist=NAME,….
keep_blacklist() {
    case $1 in
        modprobe.blacklist=*) _left=${1#*=} ;;
        *) return 0 ;;
    esac
    while [ -n "$_left" ]; do
        _part=${_left%%[\",]*}
        _left=${_left#"$_part"}
        _left=${_left#?}
        underscore "$_part"
        [ -z "$_part" ] || echo "$underscored" >>"$BLACKLIST"
    done
}

# underscore NAME: sets `underscored` to the name as the kernel writes it.
underscore() {
    underscored=$1
    while :; do
        case $underscored in
            *-*) underscored=${underscored%%-*}_${underscored#*-} ;;
            *) return 0 ;;
        esac
    done
}

# parameters_of MODULE: sets `parameters`.
parameters_of() {
    parameters=
    [ -e "$PARAMETERS" ] || return 0
    while read -r _name _line; do
        [ "$_name" != "$1" ] || parameters="${parameters:+$parameters }$_line"
    done <"$PARAMETERS"
}

# is_blacklisted MODULE: whether the command line keeps it from devices.
is_blacklisted() {
    [ -e "$BLACKLIST" ] || return 1
    while read -r _name; do
        [ "$_name" != "$1" ] || return 0
    done <"$BLACKLIST"
    return 1
}

# load_module FILE: loads a module with its parameters. One that these keep from loading is tried without: it had another
# kernel when they were made, and its defaults may do.
load_module() {
    _module=${1##*/}
    parameters_of "${_module%%.*}"
    [ -n "$parameters" ] || {
        insmod "$1"
        return
    }
    # One word: insmod hands on what it is given as it is.
    insmod "$1" "$parameters" && return
    log "cannot load $1 with $parameters; trying it without"
    insmod "$1"
}
