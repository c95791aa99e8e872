"""Tables of device-mapper: lines as the targets print them, and buffers as the kernel fills them."""

import struct
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdump_initramfs.formats import dm_table, dm_targets
from kdump_initramfs.formats.dm_table import Table, Target
from kdump_initramfs.image import kmod
from tests import kernel_names, kernels

KEY = "0123456789abcdef" * 8

# Lines of each target as its status function prints them (STATUSTYPE_TABLE): the devices, and what is asked for.
LINES: Sequence[tuple[str, str, str]] = (
    ("linear 8:17 2048", "8:17", "dm-mod"),
    ("striped 2 128 8:17 0 8:33 384", "8:17 8:33", "dm-mod"),
    ("error", "", "dm-mod"),
    ("zero", "", "dm-zero"),
    ("snapshot-origin 253:3", "253:3", "dm-snapshot-origin"),
    ("snapshot 253:3 253:4 P 8", "253:3 253:4", "dm-snapshot"),
    (
        "snapshot-merge 253:3 253:4 PO 8 2 discard_zeroes_cow discard_passdown_origin",
        "253:3 253:4",
        "dm-snapshot-merge",
    ),
    ("thin 253:5 7", "253:5", "dm-thin-pool"),
    ("thin 253:5 7 253:9", "253:5 253:9", "dm-thin-pool"),
    ("thin-pool 253:3 253:4 128 0 1 no_discard_passdown", "253:3 253:4", "dm-thin-pool"),
    (
        "raid raid1 3 0 region_size 1024 2 253:1 253:2 253:3 253:4",
        "253:1 253:2 253:3 253:4",
        "dm-raid md-level-1",
    ),
    (
        "raid raid5_ls 3 128 region_size 1024 3 253:1 253:2 - - 253:5 253:6",
        "253:1 253:2 253:5 253:6",
        "dm-raid md-level-5",
    ),
    ("raid raid6_n_6 1 128 5 - 8:1 - 8:2 - 8:3 - 8:4 - 8:5", "8:1 8:2 8:3 8:4 8:5", "dm-raid md-level-6"),
    ("raid raid10_near 1 128 2 - 8:1 - 8:2", "8:1 8:2", "dm-raid md-level-10"),
    ("raid raid0 1 128 2 - 8:1 - 8:2", "8:1 8:2", "dm-raid md-level-0"),
    (f"crypt aes-xts-plain64 {KEY} 0 8:17 32768 1 allow_discards", "8:17", "crypto-aes crypto-ecb crypto-xts dm-crypt"),
    (
        "crypt capi:adiantum(xchacha12,aes)-plain64 :32:logon:cryptsetup:u-d0 0 8:17 32768 1 sector_size:4096",
        "8:17",
        "crypto-adiantum crypto-aes crypto-nhpoly1305 crypto-xchacha12 dm-crypt",
    ),
    (
        f"crypt capi:authenc(hmac(sha256),xts(aes))-random {KEY} 0 253:1 0 1 integrity:48:aead",
        "253:1",
        "crypto-aes crypto-authenc crypto-ecb crypto-hmac crypto-sha256 crypto-xts dm-crypt",
    ),
    (
        f"crypt aes-cbc-essiv:sha256 {KEY[:32]} 0 8:17 4096",
        "8:17",
        "crypto-aes crypto-cbc crypto-essiv crypto-sha256 dm-crypt",
    ),
    ("crypt cipher_null-ecb - 0 8:17 0", "8:17", "crypto-cipher_null crypto-ecb dm-crypt"),
    (
        f"verity 1 8:1 8:2 4096 4096 25600 1 sha256 {'ab' * 32} {'cd' * 4} 8 use_fec_from_device 8:3 fec_blocks 200",
        "8:1 8:2 8:3",
        "crypto-sha256 dm-verity",
    ),
    (f"verity 1 8:1 8:1 512 4096 1 9 sha512 {'ab' * 64} -", "8:1", "crypto-sha512 dm-verity"),
    (
        "integrity 8:1 0 4 J 4 journal_sectors:7936 interleave_sectors:32768 commit_time:10000 internal_hash:crc32c",
        "8:1",
        "crypto-crc32c dm-integrity",
    ),
    (
        "integrity 8:1 0 32 B 3 meta_device:8:2 block_size:4096 internal_hash:sha256",
        "8:1 8:2",
        "crypto-sha256 dm-integrity",
    ),
    (
        f"integrity 8:1 0 4 J 3 internal_hash:hmac(sha256):{KEY} journal_crypt:ctr(aes):{KEY} journal_mac:cmac(aes):a0",
        "8:1",
        "crypto-aes crypto-cmac crypto-ctr crypto-hmac crypto-sha256 dm-integrity",
    ),
    ("cache 253:1 253:2 253:3 128 2 metadata2 writethrough smq 0", "253:1 253:2 253:3", "dm-cache dm-cache-smq"),
    ("cache 253:1 253:2 253:3 128 0 cleaner 2 migration_threshold 1", "253:1 253:2 253:3", "dm-cache dm-cache-cleaner"),
    ("writecache s 253:1 253:2 4096 2 high_watermark 50", "253:1 253:2", "dm-writecache"),
    ("mirror core 2 1024 nosync 2 8:1 0 8:2 0 1 handle_errors", "8:1 8:2", "dm-log dm-mirror"),
    ("mirror disk 2 253:1 1024 2 8:1 0 8:2 0", "253:1 8:1 8:2", "dm-log dm-mirror"),
    ("mirror userspace 4 LVM-x clustered-disk 253:1 1024 2 8:1 0 8:2 0", "253:1 8:1 8:2", "dm-log-userspace dm-mirror"),
    (
        "multipath 1 queue_if_no_path 1 alua 2 1 service-time 0 1 2 8:16 1 1 round-robin 0 2 1 8:32 1000 8:48 1000",
        "8:16 8:32 8:48",
        "dm-multipath dm-round-robin dm-service-time scsi_dh_alua",
    ),
    ("multipath 0 0 1 1 queue-length 0 2 1 8:16 128 8:32 128", "8:16 8:32", "dm-multipath dm-queue-length"),
    (
        "multipath 3 pg_init_retries 50 queue_if_no_path 1 rdac 1 1 service-time 0 1 2 65:16 1 1",
        "65:16",
        "dm-multipath dm-service-time scsi_dh_rdac",
    ),
    ("vdo V4 253:2 262144 4096 32768 16380 deduplication on compression on", "253:2", "dm-vdo"),
    ("era 253:1 253:2 128", "253:1 253:2", "dm-era"),
    ("delay 8:1 0 50 8:2 0 100", "8:1 8:2", "dm-delay"),
    ("flakey 8:1 0 60 5 1 drop_writes", "8:1", "dm-flakey"),
    ("log-writes 8:1 8:2", "8:1 8:2", "dm-log-writes"),
    ("unstriped 2 256 0 8:1 0", "8:1", "dm-unstriped"),
    ("switch 3 128 0 8:1 0 8:2 0 8:3 0", "8:1 8:2 8:3", "dm-switch"),
    ("zoned 8:1 259:1", "8:1 259:1", "dm-zoned"),
    # Of what Debian's kernels do not have.
    ("clone 253:1 253:2 253:3 8 1 no_hydration", "253:1 253:2 253:3", "dm-clone"),
    ("dust 8:1 0 512 fail_read_on_bad_block", "8:1", "dm-dust"),
    ("ebs 8:1 0 1 8", "8:1", "dm-ebs"),
)
# Where the configuration lacks the option, nothing answers.
OPTIONS = {
    "dm-clone": "DM_CLONE",
    "dm-dust": "DM_DUST",
    "dm-ebs": "DM_EBS",
    "dm-vdo": "DM_VDO",
    "dm-zoned": "DM_ZONED",
    "scsi_dh_alua": "SCSI_DH_ALUA",
    "scsi_dh_rdac": "SCSI_DH_RDAC",
}


def target(line: str) -> Target:
    tables = dm_table.parse_text(f"name: 0 2048 {line}\n")
    assert tables
    ((found,),) = tables.values()
    return found


@pytest.mark.parametrize(("line", "devices", "asked"), LINES, ids=[line[:24] for line, _, _ in LINES])
def test_target_names_its_devices_and_what_it_asks_for(line: str, devices: str, asked: str) -> None:
    found = target(line)
    assert (found.start, found.length, found.type) == (0, 2048, line.split(maxsplit=1)[0])
    assert found.devices == tuple(devices.split())
    assert found.requests == tuple(asked.split())
    assert found.is_known


def test_every_type_is_tried() -> None:
    assert dm_targets.TYPES - {line.split(maxsplit=1)[0] for line, _, _ in LINES} == {"pcache"}


@pytest.mark.parametrize(
    "line", [line for line, _, _ in LINES if KEY in line or ":a0" in line] + [f"new-crypt x {KEY} 8:1"]
)
def test_no_key_is_kept(line: str) -> None:
    kept = target(line).params
    assert KEY[:16] not in kept
    assert not kept.endswith(":a0")
    assert len(kept.split()) == len(line.split()) - 1


@pytest.mark.parametrize("key", [":32:logon:cryptsetup:u-d0", "00", KEY[:32], ":64:encrypted:dump"])
def test_key_of_a_cipher_is_left_out_whatever_it_is(key: str) -> None:
    assert target(f"crypt aes-xts-plain64 {key} 0 8:17 0").params == "aes-xts-plain64 - 0 8:17 0"


@pytest.mark.parametrize("kind", ["inlinecrypt", "error-of-tomorrow", "bow"])
def test_type_that_is_not_known_is_told_with_its_devices(kind: str) -> None:
    found = target(f"{kind} 8:1 0 8:2 7")
    assert (found.is_known, found.devices, found.requests) == (False, ("8:1", "8:2"), (f"dm-{kind}",))


@pytest.mark.parametrize(
    "line", ["cache 1:1", "raid", "crypt", "verity", "mirror", "multipath 9", "multipath 0 0 9 9 x", "integrity"]
)
def test_parameters_that_are_cut_off_ask_for_the_target_alone(line: str) -> None:
    assert f"dm-{line.split(maxsplit=1)[0]}" in target(line).requests


def test_real_kernels_have_an_answer_to_all_that_is_asked_for() -> None:
    asked = {name for line, _, _ in LINES for name in target(line).requests}
    for release, root in kernels.roots().items():
        answered, config = kernel_names.answered(root, release), kernel_names.configured(root, release)
        missing = {name for name in asked if kmod.normal(name) not in answered}
        assert missing <= OPTIONS.keys(), release
        assert not [name for name in missing if f"CONFIG_{OPTIONS[name]}=" in config], release


# --- what dmsetup prints -----------------------------------------------------------------------------------------


def test_tables_of_all_devices_are_told_by_name() -> None:
    text = "vg-lv: 0 8192 linear 8:17 2048\nvg-lv: 8192 8192 zero \nempty: \na:b: 0 1 error \n"
    assert dm_table.parse_text(text) == {
        "vg-lv": (
            Target(start=0, length=8192, type="linear", params="8:17 2048"),
            Target(start=8192, length=8192, type="zero"),
        ),
        "empty": (),
        "a:b": (Target(start=0, length=1, type="error"),),
    }


def test_table_of_one_device_has_no_name() -> None:
    assert dm_table.parse_text("0 1 linear 8:1 0\n") == {
        "": (Target(start=0, length=1, type="linear", params="8:1 0"),)
    }


@pytest.mark.parametrize("text", ["", "\n", "No devices found\n"])
def test_no_device_is_no_table(text: str) -> None:
    assert dm_table.parse_text(text) == {}


def test_what_dmsetup_does_not_print_is_none() -> None:
    assert dm_table.parse_text("Device vg-lv not found\n") is None


# --- what the kernel fills in ------------------------------------------------------------------------------------


def filled(*targets: tuple[int, int, str, str], flags: int = 0, room: int = 16384) -> bytes:
    """Return a buffer as retrieve_status() and its callers leave it (drivers/md/dm-ioctl.c)."""
    area = b""
    used = 0
    for start, length, kind, params in targets:
        body = struct.pack("<QQi", start, length, 0), kind.encode().ljust(16, b"\0") + params.encode() + b"\0"
        end = len(area) + 24 + len(body[1])
        used, following = end, (end + 7) // 8 * 8
        area += (body[0] + struct.pack("<I", following) + body[1]).ljust(following - len(area), b"\0")
    # 253:300, in the one word that huge_encode_dev() makes of it.
    head = struct.pack("<3I", 4, 47, 0) + struct.pack("<II", 312 + used, 312) + struct.pack("<Ii", len(targets), 1)
    head += struct.pack("<IIIQ", flags, 0, 0, 0x10FD2C) + b"vg-lv".ljust(128, b"\0") + b"LVM-x".ljust(129, b"\0")
    return (head.ljust(312, b"\0") + area).ljust(room, b"\0")


TARGETS = (
    (0, 8192, "linear", "8:17 2048"),
    (8192, 8, "zero", ""),
    (8200, 1 << 40, "crypt", f"aes-xts-plain64 {KEY} 0 8:33 4096 1 allow_discards"),
)


def test_buffer_of_the_kernel_is_a_table() -> None:
    assert dm_table.parse_ioctl(filled(*TARGETS)) == Table(
        name="vg-lv",
        uuid="LVM-x",
        number="253:300",
        targets=(
            Target(start=0, length=8192, type="linear", params="8:17 2048"),
            Target(start=8192, length=8, type="zero"),
            Target(start=8200, length=1 << 40, type="crypt", params="aes-xts-plain64 - 0 8:33 4096 1 allow_discards"),
        ),
    )


def test_buffer_without_a_target_is_an_empty_table() -> None:
    assert dm_table.parse_ioctl(filled()) == Table(name="vg-lv", uuid="LVM-x", number="253:300", targets=())


def test_buffer_that_was_too_small_is_none() -> None:
    assert dm_table.parse_ioctl(filled(*TARGETS, flags=dm_table.BUFFER_FULL)) is None


@pytest.mark.parametrize("left", [0, 311, 312, 320, 351, 360, 400, 430])
def test_buffer_that_is_cut_off_is_none(left: int) -> None:
    assert dm_table.parse_ioctl(filled(*TARGETS)[:left]) is None


@given(st.binary(max_size=600))
def test_any_bytes_are_a_table_or_none(content: bytes) -> None:
    dm_table.parse_ioctl(content)
    dm_table.parse_ioctl(filled(*TARGETS)[:312] + content)


@given(st.text(max_size=200))
def test_any_text_is_a_table_or_none(text: str) -> None:
    dm_table.parse_text(text)
    found = dm_table.parse_text(f"0 1 multipath {text}\n")
    assert found is None or all(each.requests for targets in found.values() for each in targets)
