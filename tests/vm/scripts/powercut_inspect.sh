#!/bin/sh
# Leaves in $REPORT/states what is on a disk after each of the `cuts`; `attach` and `detach` make /dev/loop0 a mounted
# file system and the other way round. Without udev, which takes longer than all else.
set -eu

udevadm control --exit
cat > /etc/lvm/lvm.conf << END
devices {
    filter = [ "a|^/dev/loop0$|", "r|.*|" ]
    obtain_device_list_from_udev = 0
    external_device_info_source = "none"
}
activation {
    udev_sync = 0
    udev_rules = 0
    monitoring = 0
    thin_pool_autoextend_threshold = 80
    thin_pool_autoextend_percent = 20
}
END
modprobe loop
mkdir -p /run/powercut/mounted
PYTHONPATH=. python3 powercut_guest.py "$REPORT/states"
