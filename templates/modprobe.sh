#!/bin/sh
# The modprobe of the capture kernel (/proc/sys/kernel/modprobe): loads what the kernel asks for by request_module(), from
# the modules of this image, and says what it asked for in vain. The kernel runs `modprobe -q -- NAME`, with nothing open,
# perhaps before /init, several at a time, and waits for each.
# Tables: /etc/kdump/requests and requests-absent (kdump_initramfs/image/requests.py).
PATH=/usr/sbin:/usr/bin:/sbin:/bin
umask 077

# Without an output a file that is opened would become one.
[ -e /proc/self/fd/2 ] || [ ! -c /dev/null ] || exec </dev/null >/dev/null 2>&1

while :; do
    case ${1-} in
        -*) shift ;;
        *) break ;;
    esac
done
name=${1-}
# The kernel asks for no longer names (MODULE_NAME_LEN); what follows goes through them in each turn again.
[ -n "$name" ] && [ "${#name}" -lt 64 ] || exit 1

# - and _ are one.
plain=$name
while :; do
    case $plain in
        *-*) plain=${plain%%-*}_${plain#*-} ;;
        *) break ;;
    esac
done

# is_loaded MODULE: one that another is just loading is waited for, but not for ever: that may be who asks, and insmod would
# wait for its end.
is_loaded() {
    turns=5
    while [ -e "/sys/module/$1/initstate" ] && read -r state <"/sys/module/$1/initstate"; do
        case $state in
            live) return 0 ;;
            coming) ;;
            *) return 1 ;;
        esac
        turns=$((turns - 1))
        [ "$turns" -gt 0 ] || return 0
        sleep 1
    done
    return 1
}

# Of what answers to a name one is enough: an algorithm may have another implementation, for a processor that is not there.
directory='' answers='' needed='' absent=''
[ ! -e /etc/kdump/requests ] || . /etc/kdump/requests
loaded=' '
[ -z "$needed" ] || {
    . /lib/kdump/lib.sh
    . /lib/kdump/modules.sh
}
for module in $needed; do
    # The last, because another may have loaded it meanwhile. Before /init nothing but insmod itself tells.
    if is_loaded "$module" || { [ -s "$directory/$module.ko" ] && load_module "$directory/$module.ko"; } || is_loaded "$module"
    then
        loaded="$loaded$module "
    fi
done
for module in $answers; do
    case $loaded in
        *" $module "*) exit 0 ;;
    esac
done

# What is asked for again and again is said once, and no more than a few hundred names.
set -- /run/kdump/asked/*
[ $# -lt 200 ] || exit 1
key=$name
while :; do
    case $key in
        */*) key=${key%%/*}!${key#*/} ;;
        *) break ;;
    esac
done
set -C
echo >"/run/kdump/asked/$key" || exit 1
set +C
[ -n "$answers" ] || [ ! -e /etc/kdump/requests-absent ] || . /etc/kdump/requests-absent
up=
[ ! -e /proc/uptime ] || read -r up _ </proc/uptime
if [ -n "$answers$absent" ]; then
    echo "$name" >>/run/kdump/requests
    said="[$up] the kernel asked for $name, which is not in this image"
    # In the background, for the console may be what hangs.
    echo "kdump: $said" >/dev/console &
else
    said="[$up] the kernel asked for $name in vain"
fi
echo "$said" >>/run/kdump/log
exit 1
