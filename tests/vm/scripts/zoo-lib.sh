#!/bin/sh
# shellcheck disable=SC2154  # $ZOO, a name that no other exhibit has
# What the exhibits of tests/vm/zoo*.py are made with; zoo_guest.py runs each script behind this, in the payload's
# directory. What a function prints is the node of a device, alone.

# size DEVICE: prints its sectors, in whole steps of 1 MiB.
size() {
    echo $(($(blockdev --getsz "$1") / 2048 * 2048))
}

# dm NAME TABLE [OPTION...]: makes a device of device-mapper.
dm() {
    name=$1 table=$2
    shift 2
    dmsetup create "$name" --table "$table" "$@" >&2
    udevadm settle
    echo "/dev/mapper/$name"
}

# volume GROUP DEVICE... -- ARGUMENT...: makes the logical volume lv in a group of these devices.
volume() {
    group=$1 devices=
    shift
    while [ "$1" != -- ]; do
        devices="$devices $1"
        shift
    done
    shift
    # shellcheck disable=SC2086  # words
    vgcreate --quiet --yes "$group" $devices >&2
    lvcreate --quiet --yes --wipesignatures n --name lv "$@" "$group" >&2
    udevadm settle
    echo "/dev/$group/lv"
}

drop_group() {
    vgremove --quiet --force --force --yes "$1" >&2
    udevadm settle
}

key_file() {
    mkdir -p "${1%/*}"
    [ -e "$1" ] || (umask 077 && head -c 64 /dev/urandom > "$1")
}

# luks NAME DEVICE ARGUMENT...: makes a LUKS device with a key file, and its line of crypttab.
luks() {
    name=$1 device=$2 key=/etc/keys/$1 header=
    shift 2
    key_file "$key"
    cryptsetup luksFormat --batch-mode --pbkdf pbkdf2 --pbkdf-force-iterations 1000 "$@" "$device" "$key" >&2
    case " $* " in
        *" --header "*) header=",header=$(echo " $*" | sed 's/.* --header \([^ ]*\).*/\1/')" ;;
    esac
    # shellcheck disable=SC2086  # two words or none
    cryptsetup open --key-file "$key" ${header:+--header ${header#*=}} "$device" "$name" >&2
    if [ "$header" ]; then
        echo "$name $device $key luks$header" >> /etc/crypttab
    else
        echo "$name UUID=$(cryptsetup luksUUID "$device") $key luks" >> /etc/crypttab
    fi
    udevadm settle
    echo "/dev/mapper/$name"
}

# array NAME LEVEL DEVICE... [-- OPTION...]: makes an array.
array() {
    name=$1 level=$2 devices=
    shift 2
    while [ $# -gt 0 ] && [ "$1" != -- ]; do
        devices="$devices $1"
        shift
    done
    [ $# = 0 ] || shift
    # shellcheck disable=SC2086  # words
    set -- --level "$level" --raid-devices "$(echo $devices | wc -w)" "$@" $devices
    yes | mdadm --create "/dev/md/$name" --run "$@" >&2
    udevadm settle
    echo "/dev/md/$name"
}

# drop_array NAME DEVICE...: ends an array and forgets it.
drop_array() {
    mdadm --stop "/dev/md/$1" >&2
    shift
    mdadm --zero-superblock "$@" >&2
    udevadm settle
}

# assemble: the arrays that are not there yet, and those on them.
assemble() {
    mdadm --assemble --scan --run >&2 || true
    udevadm settle
}

# disks: prints the whole disks that are there, but for the paths of NVMe multipath.
disks() {
    find /sys/block -mindepth 1 -printf '%f\n' | grep -v '^nvme[0-9]*c' | sort
}

# appeared COMMAND...: runs a command and prints the node of the disk that comes with it.
appeared() {
    disks > /run/before
    "$@" >&2
    tries=0
    until disk=$(disks | comm -13 /run/before - | grep -v '^loop' | head -n 1) && [ "$disk" ] &&
        [ "$(cat "/sys/block/$disk/size")" != 0 ] && [ -b "/dev/$(echo "$disk" | tr '!' /)" ]; do
        tries=$((tries + 1))
        [ $tries -lt 40 ]
        sleep 0.5
        udevadm settle
    done
    udevadm settle
    echo "/dev/$(echo "$disk" | tr '!' /)"
}

# block_where PATTERN: prints the node of the first block device whose directory in sysfs matches.
block_where() {
    for link in /sys/block/*; do
        # shellcheck disable=SC2254  # a pattern
        case $(readlink -f "$link") in
            $1) echo "/dev/${link##*/}"; return ;;
        esac
    done
    return 1
}

# backing: prints a block device of memory, which nobody finds after a crash below what stands on it.
backing() {
    truncate -s 64M "/run/$ZOO.img"
    losetup --find --show "/run/$ZOO.img"
}

drop_backing() {
    losetup --detach "$(losetup --noheadings --output NAME --associated "/run/$ZOO.img")"
    rm "/run/$ZOO.img"
}

configfs() {
    modprobe configfs
    mountpoint -q /sys/kernel/config || mount -t configfs configfs /sys/kernel/config
}

# nvme_target PART PORT TRANSPORT [ATTRIBUTE VALUE]...: exports a device by NVMe as the subsystem $ZOO.
nvme_target() {
    configfs
    modprobe nvmet
    subsystem=/sys/kernel/config/nvmet/subsystems/$ZOO port=/sys/kernel/config/nvmet/ports/$2
    mkdir -p "$subsystem/namespaces/1" "$port"
    echo 1 > "$subsystem/attr_allow_any_host"
    printf %s "$1" > "$subsystem/namespaces/1/device_path"
    echo 1 > "$subsystem/namespaces/1/enable"
    echo "$3" > "$port/addr_trtype"
    shift 3
    while [ $# -gt 1 ]; do
        echo "$2" > "$port/addr_$1"
        shift 2
    done
    ln -s "$subsystem" "$port/subsystems/$ZOO"
}

nvme_connect() {
    modprobe nvme-fabrics
    echo "$1,nqn=$ZOO" > /dev/nvme-fabrics
}

nvme_drop() {
    for controller in /sys/class/nvme-fabrics/ctl/nvme*; do
        [ "$(cat "$controller/subsysnqn")" != "$ZOO" ] || echo 1 > "$controller/delete_controller"
    done
    config=/sys/kernel/config/nvmet
    rm "$config/ports/$1/subsystems/$ZOO"
    rmdir "$config/ports/$1" "$config/subsystems/$ZOO/namespaces/1" "$config/subsystems/$ZOO"
}

# lio_backend PART: makes the LIO backend iblock_0/$ZOO.
lio_backend() {
    configfs
    modprobe -a target_core_mod target_core_iblock
    core=/sys/kernel/config/target/core/iblock_0/"$ZOO"
    mkdir -p "$core"
    echo "udev_path=$1" > "$core/control"
    echo 1 > "$core/enable"
}

# lio_lun GROUP: puts it behind a target port group.
lio_lun() {
    mkdir -p "$1/lun/lun_0"
    ln -s /sys/kernel/config/target/core/iblock_0/"$ZOO" "$1/lun/lun_0/$ZOO"
}

lio_drop() {
    rm "$1/lun/lun_0/$ZOO"
    rmdir "$1/lun/lun_0" "$1" "${1%/*}" /sys/kernel/config/target/core/iblock_0/"$ZOO"
}

# container NAME DEVICE... -- OPTION...: makes a container of external metadata.
container() {
    name=$1 devices=
    shift
    while [ "$1" != -- ]; do
        devices="$devices $1"
        shift
    done
    shift
    # shellcheck disable=SC2086  # words
    yes | mdadm --create "/dev/md/$name" --run --force --raid-devices "$(echo $devices | wc -w)" "$@" $devices >&2
    udevadm settle
}

# inside CONTAINER NAME: makes a RAID1 in a container of two.
inside() {
    yes | mdadm --create "/dev/md/$2" --run --force --assume-clean --level 1 --raid-devices 2 "/dev/md/$1" >&2
    udevadm settle
    echo "/dev/md/$2"
}

# register DEVICE...: tells bcache of its devices, which udev may have done.
register() {
    for device in "$@"; do
        echo "$device" > /sys/fs/bcache/register || true
    done
    udevadm settle
}

register_bcache() {
    make-bcache --writeback -B "$1" -C "$2"
    udevadm settle
    register "$@"
}

drop_bcache() {
    for set in /sys/fs/bcache/*-*; do
        echo 1 > "$set/stop"
    done
    for device in /sys/block/bcache*; do
        [ ! -e "$device" ] || echo 1 > "$device/bcache/stop"
    done
    udevadm settle
    sleep 1
}

# drbd_resource DEVICE: describes a mirror whose peer is never there.
drbd_resource() {
    cat > /etc/drbd.d/zoo.res << END
resource zoo {
    device /dev/drbd0;
    meta-disk internal;
    on $(uname -n) { disk $1; address 127.0.0.1:7788; }
    on elsewhere { disk $1; address 127.0.0.2:7788; }
}
END
    ip link set lo up
    sed -i 's/usage-count yes/usage-count no/' /etc/drbd.d/global_common.conf
    yes yes | drbdadm create-md --force zoo >&2
}

drbd_up() {
    drbdadm up zoo
    drbdadm primary --force zoo
}

# nbd_serve DEVICE
nbd_serve() {
    printf '[generic]\n[zoo]\nexportname = %s\n' "$1" > /run/nbd.conf
    nbd-server -C /run/nbd.conf -p /run/nbd.pid >&2
    sleep 1
    nbd-client -N zoo 127.0.0.1 /dev/nbd0 >&2
    udevadm settle
}

ISCSI=/sys/kernel/config/target/iscsi/iqn.2003-01.org.example:zoo/tpgt_1

iscsi_target() {
    modprobe iscsi_target_mod
    mkdir -p /sys/kernel/config/target/iscsi
    mkdir -p "$ISCSI/np/127.0.0.1:3260"
    lio_lun "$ISCSI"
    for attribute in "authentication 0" "generate_node_acls 1" "demo_mode_write_protect 0" "cache_dynamic_acls 1"; do
        echo "${attribute#* }" > "$ISCSI/attrib/${attribute% *}"
    done
    echo 1 > "$ISCSI/enable"
}

iscsi_login() {
    [ -s /etc/iscsi/initiatorname.iscsi ] || echo InitiatorName=iqn.2003-01.org.example:me > /etc/iscsi/initiatorname.iscsi
    modprobe iscsi_tcp
    pidof iscsid || iscsid
    iscsiadm -m discovery -t st -p 127.0.0.1
    iscsiadm -m node --login
}

iscsi_drop() {
    echo 0 > "$ISCSI/enable"
    rmdir "$ISCSI/np/127.0.0.1:3260"
    lio_drop "$ISCSI"
}

tcm_loop_up() {
    loopback=/sys/kernel/config/target/loopback
    mkdir -p $loopback
    mkdir -p $loopback/naa.60014050000000aa/tpgt_1
    echo naa.60014050000000bb > $loopback/naa.60014050000000aa/tpgt_1/nexus
    lio_lun $loopback/naa.60014050000000aa/tpgt_1
}

# aoe_up DEVICE
aoe_up() {
    ip link add zoo0 type veth peer name zoo1
    ip link set zoo0 up
    ip link set zoo1 up
    vblade 0 0 zoo1 "$1" > /run/vblade.log 2>&1 &
    echo $! > /run/vblade.pid
    sleep 1
    echo > /dev/etherd/discover
}

# ublk_serve DEVICE
ublk_serve() {
    udevadm settle
    python3 zoo_ublk.py "$1" > /run/ublk.log 2>&1 &
    echo $! > /run/ublk.pid
    sleep 3
    cat /run/ublk.log
}
