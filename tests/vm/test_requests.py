"""What the kernel asks modprobe for after a crash: answered from the image, named where it is not there."""

import re
from pathlib import Path

from kdump_initramfs.rehearsal.qemu import Bus
from tests.vm.debian import Hardware
from tests.vm.storage import Crashed, crash, marks

pytestmark = marks

# A btrfs, whose checksums need a module that the image is built without; the dump goes to the next target. sd_mod is a
# driver that no device of this machine asks for, until somebody opens a node with its number.
WITHOUT_XXHASH = """
    make_storage() {
        mkfs.btrfs -q --csum xxhash "$DISKS/sums"
        mkfs.ext4 -q "$DISKS/data"
        udevadm settle
        mkdir -p /srv/sums
        mount "$DISKS/sums" /srv/sums
        mount_new ext4 "$DISKS/data"
        mkdir -p /etc/kdump-initramfs/pre.d
        cat > /etc/kdump-initramfs/config.toml <<- END
\t[image]
\tmode = "generic"
\tomit_modules = ["xxhash_generic"]
\t[[target]]
\tkind = "path"
\tpath = "/srv/sums"
\t[[target]]
\tkind = "path"
\tpath = "/var/crash"
\tEND
        cat > /etc/kdump-initramfs/pre.d/open-a-disk <<- END
\t#!/bin/sh
\tcat /proc/sys/kernel/modprobe
\tmknod /run/disk b 8 0
\t[ -e /sys/module/sd_mod ] || echo "sd_mod was not loaded"
\thead -c 1 /run/disk
\t[ -e /sys/module/sd_mod ] && echo "sd_mod is loaded"
\tEND
        chmod +x /etc/kdump-initramfs/pre.d/open-a-disk
    }
"""


def test_what_the_kernel_asked_for_in_vain_is_named_and_what_is_there_is_loaded(tmp_path: Path) -> None:
    disks: dict[str, Bus] = {"sums": "virtio-blk", "data": "virtio-blk"}
    needs = ("btrfs", "xxhash_generic", "sd_mod")
    crashed = crash("without-xxhash", WITHOUT_XXHASH, disks, Hardware(disks=disks), tmp_path, needs=needs)
    assert crashed.record.kernel_requests == ("crypto-xxhash64",)
    assert crashed.record.target.name == "/var/crash"
    said = "the kernel asked for crypto-xxhash64, which is not in this image"
    assert crashed.log.count(said) == 1
    # A hook that fails shows the last lines of the log there too.
    assert len(re.findall(rf"kdump: .*{said}", crashed.report.console)) == 1
    assert "/lib/kdump/modprobe.sh\nsd_mod was not loaded\n" in crashed.log
    assert "sd_mod is loaded" in crashed.log


# Ciphers, and quotas in inodes of the file system, of which no name of the stack tells: what the running kernel has
# loaded for them comes along.
ADIANTUM = """
    make_storage() {
        key_file /etc/cryptsetup-keys.d/crash.key
        cryptsetup luksFormat --batch-mode --type luks2 --cipher xchacha12,aes-adiantum-plain64 --key-size 256 \\
            --pbkdf pbkdf2 --pbkdf-force-iterations 1000 "$DISKS/data" /etc/cryptsetup-keys.d/crash.key
        cryptsetup open --key-file /etc/cryptsetup-keys.d/crash.key "$DISKS/data" crash
        echo "crash UUID=$(cryptsetup luksUUID "$DISKS/data") /etc/cryptsetup-keys.d/crash.key luks" >> /etc/crypttab
        mkfs.ext4 -q -O quota /dev/mapper/crash
        mount_new ext4 /dev/mapper/crash
        grep -q '^quota_v2 ' /proc/modules
    }
    open_storage() {
        cryptsetup open --key-file /etc/cryptsetup-keys.d/crash.key "$DISKS/data" crash
        mount /var/crash
    }
"""


def test_what_the_running_kernel_has_loaded_for_the_stack_comes_along(tmp_path: Path) -> None:
    needs = ("dm_crypt", "adiantum", "chacha_generic", "nhpoly1305", "quota_v2")
    crashed = crash("luks-adiantum", ADIANTUM, ["data"], Hardware(), tmp_path, needs=needs)
    assert asked_in_vain(crashed) == ()


def asked_in_vain(crashed: Crashed) -> tuple[str, ...]:
    assert "which is not in this image" not in crashed.log
    return crashed.record.kernel_requests
