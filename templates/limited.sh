#!/bin/sh
# Runs a program with no input, and with its output in the log, as far as it is not too much: limited.sh PROGRAM...
. /lib/kdump/lib.sh
. /lib/kdump/process.sh
enter_limits || log "cannot limit the processes of $1"

# A hook is read by the shell, whatever its mode.
case $1 in
    /lib/kdump/hooks/*) set -- sh "$@" ;;
esac
limited "$@"
