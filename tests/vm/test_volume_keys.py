"""A dump on LUKS that nothing in the image opens: the crashed kernel hands its volume keys over.

No kernel of Debian has the option (CONFIG_CRASH_DM_CRYPT), so this is skipped in the usual guest;
tests/vm/handover-guest makes one that has it.
"""

from pathlib import Path

import pytest

from kdump_initramfs.dumps import store
from tests.vm.debian import Hardware, kernel_config, releases, run_script
from tests.vm.storage import STORAGE, check_dump, last_words, payload

OPTION = "CONFIG_CRASH_DM_CRYPT=y"
RELEASE = next((release for release in releases() if OPTION in kernel_config(release)), "")

pytestmark = [
    pytest.mark.guest,
    pytest.mark.skipif(not RELEASE, reason=f"no kernel of the guest has {OPTION}; tests/vm/handover-guest makes one"),
]

# Two layers, each with one passphrase alone behind more memory than is reserved: the lower one as systemd opens it, for
# crypttab, the upper one as an administrator does.
CASE = """
    passphrase() {
        (umask 077 && printf 'a passphrase' > /run/passphrase)
    }
    format() {
        cryptsetup luksFormat --batch-mode --type luks2 --pbkdf argon2id --pbkdf-memory 262144 \\
            --pbkdf-force-iterations 4 --pbkdf-parallel 1 "$1" /run/passphrase
        udevadm settle
    }
    open_lower() {
        systemd-cryptsetup attach lower "$DISKS/data" /run/passphrase "luks${1:+,$1}"
    }
    open_upper() {
        cryptsetup open --key-file /run/passphrase "$@" /dev/mapper/lower upper
    }
    make_storage() {
        mount -t configfs configfs /sys/kernel/config
        passphrase
        format "$DISKS/data"
        link=link-volume-key=@u::%logon:vk:lower
        echo "lower UUID=$(cryptsetup luksUUID "$DISKS/data") none luks,$link" >> /etc/crypttab
        open_lower "$link"
        format /dev/mapper/lower
        key="@u::%logon:kdump-cryptsetup:vk-$(cryptsetup luksUUID /dev/mapper/lower)"
        open_upper
        mkfs.ext4 -q /dev/mapper/upper
        mount_new ext4 /dev/mapper/upper
        fails kdump-initramfs plan 2> "$REPORT/not-linked"
        umount /var/crash
        cryptsetup close upper
        open_upper --link-vk-to-keyring "$key"
        mount /var/crash
    }
    before_crash() {
        kdump-initramfs load --print | grep ' -s '
        [ "$(cat /sys/kernel/config/crash_dm_crypt_keys/count)" = 0 ]
        # A key that is gone stops the next load, but not what is loaded.
        keyctl unlink %logon:vk:lower @u
        fails kdump-initramfs load 2> "$REPORT/gone"
        kdump-initramfs status
        fails kdump-initramfs load --set kexec.syscall=load 2> "$REPORT/syscall"
        cryptsetup luksDump --batch-mode --dump-volume-key --volume-key-file "$REPORT/volume-key" \\
            --key-file /run/passphrase "$DISKS/data"
        kdump-initramfs inspect --extract /run/image /var/lib/kdump-initramfs/initrd-*.img
        tar -c -C /run/image . > "$REPORT/image"
    }
    open_storage() {
        passphrase
        open_lower
        open_upper
        mount /var/crash
    }
"""


def test_crash_is_saved_behind_passphrases_by_volume_keys_that_were_handed_over(tmp_path: Path) -> None:
    files = payload(CASE, Hardware().disks)
    report = run_script(RELEASE, STORAGE, tmp_path, files=files, append="crashkernel=256M")
    assert report.status == 0, last_words(report)
    assert "link-volume-key=@u::%logon:kdump-cryptsetup:vk-" in report.files["not-linked"].decode()
    assert "vk:lower: no such logon key in root's keyring" in report.files["gone"].decode()
    assert "kexec_load does not hand over" in report.files["syscall"].decode()
    crashed = check_dump(report, files["token"], RELEASE, tmp_path / "dumps")
    key = report.files["volume-key"]
    logs = {name: Path(crashed.dump.path, name).read_bytes() for name in (store.DMESG, store.LOG, store.RECORD)}
    written = {**report.files, **logs, "console": report.console.encode()}
    del written["volume-key"]
    assert [name for name, content in written.items() if key in content or key.hex().encode() in content] == []
