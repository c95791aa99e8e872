"""Kernel images: what their headers tell, what is packed in them, and what becomes of those that are cut off or lie."""

import gzip
import io
import lzma
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import zstandard
from hypothesis import example, given
from hypothesis import strategies as st

from kdump_initramfs.errors import HostError
from kdump_initramfs.formats import kernel_image, kernel_memory, kernel_payload, pe
from kdump_initramfs.formats.kernel_image import KernelImage
from tests import elfmaker
from tests.kernelmaker import bzimage, image, kernel, pack, s390, uki, vmlinux, zboot, zimage

RELEASE = "6.12.9-test"
CONFIG = "CONFIG_RELOCATABLE=y\nCONFIG_RD_ZSTD=y\n"
KERNEL = kernel(RELEASE, CONFIG)
UNPACKED = ("gzip", "xz", "zstd", "bzip2", "lzma")


def read(content: bytes, name: str = "/boot/it") -> KernelImage:
    return kernel_image.read(io.BytesIO(content), name)


def told(content: bytes) -> tuple[str, str | None]:
    """Return release and configuration that an image holds, whether packed or not."""
    found = read(content)
    return (
        kernel_payload.release(io.BytesIO(content), found, "/boot/it"),
        kernel_payload.config(io.BytesIO(content), found, "/boot/it"),
    )


def unpacked(content: bytes) -> bytes:
    return b"".join(kernel_payload.loadable(io.BytesIO(content), read(content), "/boot/it"))


def with_setup(sectors: int) -> bytes:
    """Return a bzImage whose real-mode part has another length."""
    content = bytearray(bzimage(RELEASE, kind="xz", content=KERNEL))
    content[0x1F1] = sectors
    return bytes(content[:2048]) + bytes(((sectors or 4) - 3) * 512) + bytes(content[2048:])


# --- what is read of whole images --------------------------------------------------------------------------------

INNER = bzimage(RELEASE, kind="zstd", content=KERNEL)
ARM = image("aarch64", KERNEL)

# Images by format, each with what must be read of it.
WHOLE: dict[str, dict[str, tuple[bytes, dict[str, Any]]]] = {
    "bzImage": {
        **{
            f"packed by {kind}": (bzimage(RELEASE, kind=kind, content=KERNEL), {"compression": kind})
            for kind in (*UNPACKED, "lz4", "lzo")
        },
        "nothing packed": (bzimage(RELEASE), {"compression": "", "payload_bytes": 0}),
        "32 bits": (bzimage(RELEASE, flags=0), {"machine": "i686", "has_64bit_entry": False}),
        "without handover": (bzimage(RELEASE, flags=1), {"has_efi_handover": False, "has_64bit_entry": True}),
        "with handover": (bzimage(RELEASE, flags=0b1001), {"has_efi_handover": True}),
        "at a fixed address": (bzimage(RELEASE, relocatable=False), {"is_relocatable": False}),
        "signed": (bzimage(RELEASE, signed=True), {"is_signed": True}),
        "an old protocol": (bzimage(RELEASE, protocol=0x20A), {"machine": "i686", "is_relocatable": True}),
        "older still": (bzimage(RELEASE, protocol=0x200), {"is_relocatable": False, "payload_bytes": 0}),
        "no release": (bzimage(""), {"release": ""}),
        "setup of 4 sectors, as 0": (with_setup(0), {"compression": "xz", "release": RELEASE}),
        "setup of 64 sectors": (with_setup(64), {"compression": "xz", "release": RELEASE}),
    },
    "vmlinux": {
        name: (vmlinux(machine, KERNEL), {"machine": told_machine, "release": ""})
        for name, machine, told_machine in [
            ("x86_64", elfmaker.X86_64, "x86_64"),
            ("i386", elfmaker.I386, "i686"),
            ("aarch64", elfmaker.AARCH64, "aarch64"),
            ("ppc64le", elfmaker.PPC64LE, "ppc64le"),
            ("ppc64", elfmaker.PPC64, "ppc64"),
            ("s390x", elfmaker.S390X, "s390x"),
            ("riscv64", elfmaker.RISCV64, "riscv64"),
            ("riscv32", elfmaker.Machine(243, 32), "riscv32"),
            ("loongarch64", elfmaker.Machine(258, 64), "loongarch64"),
            ("arm", elfmaker.Machine(40, 32), "armv7l"),
            ("mips", elfmaker.Machine(8, 32, big=True), "mips"),
            ("sparc64", elfmaker.Machine(43, 64, big=True), "sparc64"),
        ]
    },
    "zImage": {
        **{
            f"packed by {kind}": (zimage(KERNEL, kind=kind), {"compression": kind, "machine": "ppc64le"})
            for kind in (*UNPACKED, "lz4", "lzo")
        },
        "big endian": (zimage(KERNEL, machine=elfmaker.PPC64), {"machine": "ppc64"}),
        "big endian, xz": (
            zimage(KERNEL, kind="xz", machine=elfmaker.PPC64),
            {"compression": "xz"},
        ),
        "of 32 bits": (zimage(KERNEL, machine=elfmaker.Machine(20, 32, big=True)), {"machine": "ppc"}),
        "of an Image": (zimage(ARM), {"machine": "ppc64le", "release": ""}),
        "signed": (zimage(KERNEL) + b"sig~Module signature appended~\n", {"is_signed": True}),
    },
    "Image": {
        "arm64": (ARM, {"machine": "aarch64", "is_signed": False}),
        "arm64, signed": (image("aarch64", signed=True), {"is_signed": True}),
        "arm64, without EFI": (image("aarch64", efi=False), {"machine": "aarch64"}),
        "arm64, big endian": (image("aarch64", flags=1), {"machine": "aarch64_be"}),
        "arm64, pages of 64k": (image("aarch64", flags=0b1110), {"machine": "aarch64"}),
        "riscv": (image("riscv64"), {"machine": "riscv64"}),
        "riscv, signed": (image("riscv64", signed=True), {"is_signed": True}),
        "riscv, without EFI": (image("riscv64", efi=False), {"machine": "riscv64"}),
        "loongarch": (image("loongarch64"), {"machine": "loongarch64"}),
        "loongarch, signed": (image("loongarch64", signed=True), {"is_signed": True}),
        "with an appended signature": (ARM + b"sig~Module signature appended~\n", {"is_signed": True}),
        "with a kernel in it": (image("riscv64", KERNEL), {"compression": "", "release": ""}),
    },
    "s390": {
        **{
            f"packed by {kind}": (s390(RELEASE, kind=kind, content=KERNEL), {"machine": "s390x"})
            for kind in (*UNPACKED, "lz4", "lzo")
        },
        "nothing packed": (s390(RELEASE), {"release": RELEASE}),
        "no version": (s390("", version_at=0), {"release": ""}),
        "version behind the end": (s390(RELEASE, version_at=1 << 40), {"release": ""}),
        "signed": (s390(RELEASE) + b"~Module signature appended~\n", {"is_signed": True}),
        "nearly signed": (s390(RELEASE) + b"~Module signature appended~", {"is_signed": False}),
    },
    "zboot": {
        **{
            f"{machine}, {kind}": (zboot(machine, kind, ARM), {"machine": machine, "compression": kind})
            for machine, kind in [
                *(("aarch64", kind) for kind in (*UNPACKED, "lz4", "lzo")),
                ("riscv64", "gzip"),
                ("riscv64", "zstd"),
                ("loongarch64", "zstd"),
            ]
        },
        "signed": (zboot("aarch64", "gzip", ARM, signed=True), {"is_signed": True}),
        "of a compression not known": (zboot("aarch64", "", ARM, name="quux"), {"compression": "quux"}),
    },
    "packed": {
        kind: (pack(kind, ARM), {"compression": kind, "machine": "", "release": ""})
        for kind in (*UNPACKED, "lz4", "lzo")
    }
    | {f"vmlinux by {kind}": (pack(kind, vmlinux(elfmaker.X86_64, KERNEL)), {}) for kind in UNPACKED},
    "uki": {
        "of a bzImage": (
            uki(INNER, uname=RELEASE),
            {"machine": "x86_64", "release": RELEASE, "compression": "zstd", "has_64bit_entry": True},
        ),
        "without .uname": (uki(INNER), {"release": RELEASE}),
        "whose .uname is another": (uki(INNER, uname="6.99"), {"release": RELEASE, "uname": "6.99"}),
        "whose .uname ends in a line": (uki(INNER, uname=f"{RELEASE}\n"), {"release": RELEASE}),
        "with an initrd": (uki(INNER, uname=RELEASE, others={".initrd": bytes(5000)}), {"release": RELEASE}),
        "with a device tree": (uki(ARM, machine="aarch64", others={".dtb": bytes(700)}), {"machine": "aarch64"}),
        "of an Image": (uki(ARM, machine="aarch64", uname=RELEASE), {"release": RELEASE, "compression": ""}),
        "of a zboot": (uki(zboot("aarch64", "gzip", ARM), machine="aarch64"), {"compression": "gzip"}),
        "of a packed Image": (uki(pack("gzip", ARM), machine="aarch64"), {"machine": "aarch64"}),
        "of a riscv Image": (uki(image("riscv64"), machine="riscv64"), {"machine": "riscv64"}),
        "signed": (uki(INNER, signed=True), {"is_signed": True}),
        "of a signed kernel": (uki(bzimage(RELEASE, signed=True)), {"is_signed": False}),
    },
}
CASES = [(form, name) for form, cases in WHOLE.items() for name in cases]


@pytest.mark.parametrize(("form", "name"), CASES, ids=[f"{form}: {name}" for form, name in CASES])
def test_headers_tell_what_an_image_is(form: str, name: str) -> None:
    content, expected = WHOLE[form][name]
    found = read(content)
    assert found.format == form
    assert {key: getattr(found, key) for key in expected} == expected


def test_each_format_is_tried_with_a_dozen_images() -> None:
    assert {form for form, _ in CASES} == set(get_args(kernel_image.Format))
    assert all(len(cases) >= 12 for cases in WHOLE.values())


# --- what is inside ----------------------------------------------------------------------------------------------

HOLDERS: dict[str, Callable[[str], bytes]] = {
    "bzImage": lambda kind: bzimage("", kind=kind, content=KERNEL),
    "zImage": lambda kind: zimage(KERNEL, kind=kind),
    "s390": lambda kind: s390("", kind=kind, content=KERNEL, version_at=0),
    "zboot": lambda kind: zboot("aarch64", kind, ARM),
    "packed": lambda kind: pack(kind, vmlinux(elfmaker.X86_64, KERNEL)),
    "uki": lambda kind: uki(bzimage("", kind=kind, content=KERNEL)),
    "uki of a zboot": lambda kind: uki(zboot("riscv64", kind, image("riscv64", KERNEL)), machine="riscv64"),
}


@pytest.mark.parametrize("kind", UNPACKED)
@pytest.mark.parametrize("holder", HOLDERS)
def test_release_and_configuration_are_found_inside(holder: str, kind: str) -> None:
    assert told(HOLDERS[holder](kind)) == (RELEASE, CONFIG)


@pytest.mark.parametrize("content", [vmlinux(elfmaker.S390X, KERNEL), ARM, image("riscv64", KERNEL)])
def test_release_and_configuration_are_found_where_nothing_is_packed(content: bytes) -> None:
    assert told(content) == (RELEASE, CONFIG)


@pytest.mark.parametrize("content", [bzimage(RELEASE, kind="lz4", content=KERNEL), bzimage(RELEASE)])
def test_what_cannot_be_unpacked_here_holds_no_configuration_that_could_be_told(content: bytes) -> None:
    assert told(content) == (RELEASE, None)


def test_markers_are_found_where_pieces_meet() -> None:
    for size in range(1, 40):
        data = bytes(17) + b"Linux version 6.1-x y" + bytes(11)
        pieces = (data[at : at + size] for at in range(0, len(data), size))
        assert kernel_payload._between(pieces, b"Linux version ", b" ", 128) == b"6.1-x"  # noqa: SLF001


@pytest.mark.parametrize("text", [b"Linux version %s (%s)", b"Linux version 6.1", b"Linux version ", b"Linux versio"])
def test_what_only_looks_like_a_version_is_none(text: bytes) -> None:
    assert told(image("aarch64", text + bytes(4096))) == ("", None)


def test_broken_configuration_is_one_error() -> None:
    content = image("aarch64", b"IKCFG_ST\x1f\x8b\x08brokenIKCFG_ED")
    with pytest.raises(HostError, match="broken gzip data"):
        told(content)


@pytest.mark.parametrize("kind", UNPACKED)
def test_what_kexec_gets_is_the_kernel_inside(kind: str) -> None:
    assert unpacked(pack(kind, ARM)) == ARM
    assert unpacked(zboot("aarch64", kind, ARM)) == ARM
    assert unpacked(uki(zboot("aarch64", kind, ARM), machine="aarch64")) == ARM
    assert unpacked(uki(INNER, others={".initrd": b"x" * 700})) == INNER


@pytest.mark.parametrize(
    "content", [zboot("aarch64", "lz4", ARM), pack("lzo", ARM), zboot("aarch64", "", ARM, name="x")]
)
def test_compression_that_cannot_be_unpacked_is_named(content: bytes) -> None:
    with pytest.raises(HostError, match=r"^(lz4|lzo|x): a compression that cannot be unpacked here"):
        unpacked(content)


def test_bomb_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_payload, "MAX_BYTES", 1 << 20)
    for kind in UNPACKED:
        with pytest.raises(HostError, match="more than 1 MiB when unpacked"):
            unpacked(pack(kind, bytes(4 << 20)))


# --- images that are cut off, or lie -----------------------------------------------------------------------------


@pytest.mark.parametrize(("form", "name"), CASES, ids=[f"{form}: {name}" for form, name in CASES])
def test_truncated_image_is_an_error_or_tells_what_is_left(form: str, name: str) -> None:
    content, _ = WHOLE[form][name]
    edges = [0, 1, 2, 4, 15, 16, 52, 63, 64, 0x202, 0x206, 0x210, 0x240, 0x268, 0x400, 0x1000, 0x10008, 0x10430]
    edges += [len(content) - cut for cut in (1, 28, 64, 65, 200, 700)]
    for size in sorted({edge for edge in edges if 0 <= edge < len(content)}):
        attempt(content[:size])


def attempt(content: bytes) -> None:
    """Do all that is done with an image; it may be an error for the administrator, and nothing else."""
    said = []
    try:
        found = read(content)
        kernel_payload.release(io.BytesIO(content), found, "/boot/it")
        kernel_payload.config(io.BytesIO(content), found, "/boot/it")
        if found.format in ("zboot", "packed", "uki"):
            list(kernel_payload.loadable(io.BytesIO(content), found, "/boot/it"))
    except HostError as error:
        said.append(error)
    assert all(error.hint and "\n" not in str(error) for error in said)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (bzimage(RELEASE, kind="xz", content=KERNEL)[:0x860], "truncated: the packed kernel reaches beyond its end"),
        (bzimage(RELEASE)[:0x240], "truncated: the boot header of a bzImage is not complete"),
        (zboot("aarch64", "gzip", ARM)[:0x1010], "truncated: the packed kernel reaches beyond its end"),
        (zboot("aarch64", "gzip", ARM)[:0x50], "truncated: a zboot image without the headers of a PE file"),
        (uki(INNER)[:0x1800], "truncated: the section .linux reaches beyond its end"),
        (uki(b"MZ and nothing that boots" * 40), "what it has in the section .linux is not a kernel"),
        (uki(uki(INNER)), "what it has in the section .linux is not a kernel"),
        (uki(None), "not a kernel image of a format that is known here"),
        (s390(RELEASE)[:0x10420], "truncated: the parameters of an s390x kernel are not complete"),
        (vmlinux(elfmaker.X86_64)[:40], "truncated ELF file"),
        (b"\x7fELF" + bytes([9]) * 60, "an ELF file of unknown class or byte order"),
        (b"", "not a kernel image of a format that is known here"),
        (bytes(70000), "not a kernel image of a format that is known here"),
        (b"#!/bin/sh\nexit 0\n", "not a kernel image of a format that is known here"),
    ],
)
def test_what_is_wrong_with_an_image_is_said(content: bytes, problem: str) -> None:
    with pytest.raises(HostError) as caught:
        read(content)
    assert str(caught.value) == f"/boot/it: {problem}" or str(caught.value) == f"/boot/it (.linux): {problem}"
    assert "kernel" in str(caught.value.hint) or "package" in str(caught.value.hint)


@pytest.mark.parametrize("field", [8, 12])
@pytest.mark.parametrize("value", [0, 0x7FFFFFFF, 0xFFFFFFFF])
def test_zboot_that_points_outside_of_itself_is_an_error(field: int, value: int) -> None:
    content = bytearray(zboot("aarch64", "gzip", ARM))
    struct.pack_into("<I", content, field, value)
    attempt(bytes(content))
    if value:
        with pytest.raises(HostError, match="reaches beyond its end"):
            read(bytes(content))


@pytest.mark.parametrize("pointer", [0x7FFF, 0xFFFF])
def test_release_that_lies_outside_is_none(pointer: int) -> None:
    content = bytearray(bzimage(RELEASE))
    struct.pack_into("<H", content, 0x20E, pointer)
    assert read(bytes(content)).release == ""


@pytest.mark.parametrize("version", ["6.1\x1b[2J", "\xff\xfe", "6.1\n7"])
def test_release_with_odd_characters_is_none(version: str) -> None:
    content = bzimage(RELEASE).replace(RELEASE.encode(), version.encode("latin-1").ljust(len(RELEASE), b"x"))
    assert read(content).release == ""


def test_release_is_the_first_word_of_the_version() -> None:
    assert read(bzimage("6.1.0-35-amd64")).release == "6.1.0-35-amd64"


@pytest.mark.parametrize("start", [0xFFFFFFFF, 0x7FFFFFFF, 2, 0x3C, 100_000])
def test_pe_header_that_is_elsewhere_is_no_header(start: int) -> None:
    content = bytearray(uki(INNER))
    struct.pack_into("<I", content, 0x3C, start)
    assert pe.parse(bytes(content)) is None


def test_first_of_two_sections_of_one_name_counts() -> None:
    second = uki(INNER, uname=RELEASE).replace(b".osrel\0\0", b".uname\0\0", 1)
    assert read(second).uname == "ID=example"


@given(st.binary(max_size=0x500))
@example(b"MZ" + bytes(0x3A) + b"\xff\xff\xff\xff" + bytes(64))
def test_any_bytes_are_an_image_or_an_error(content: bytes) -> None:
    attempt(content)


@given(st.sampled_from(CASES), st.randoms(use_true_random=False))
def test_any_damage_is_an_error_or_goes_unnoticed(case: tuple[str, str], chance: random.Random) -> None:
    content = bytearray(WHOLE[case[0]][case[1]][0])
    for _ in range(8):
        content[chance.randrange(min(len(content), 0x1200))] = chance.randrange(256)
    attempt(bytes(content))


def test_sparse_file_of_a_terabyte_costs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "vmlinuz"
    with path.open("wb") as stream:
        stream.write(bzimage(RELEASE))
        stream.truncate(1 << 40)
    with path.open("rb") as stream:
        assert kernel_image.read(stream, str(path)).release == RELEASE


# --- frames ------------------------------------------------------------------------------------------------------

SKIPPED = struct.pack("<II", 0x184D2A53, 14) + b"from a builder"
IN_PARTS = b"".join(SKIPPED + zstandard.compress(ARM[start : start + 3000]) for start in range(0, len(ARM), 3000))
FRAMES = {
    "packed, behind a frame to be skipped": SKIPPED + zstandard.compress(ARM),
    "packed, behind a frame of 100 KB": struct.pack("<II", 0x184D2A5F, 100_000)
    + bytes(100_000)
    + zstandard.compress(ARM),
    "packed, as pzstd has it": IN_PARTS,
    "packed, in several members of gzip": gzip.compress(ARM[:3000]) + gzip.compress(ARM[3000:]) + bytes(300),
    "packed, in several streams of xz": lzma.compress(ARM[:3000]) + bytes(4) + lzma.compress(ARM[3000:]),
    "a unified image of one": uki(IN_PARTS, machine="aarch64"),
}


@pytest.mark.parametrize("name", FRAMES)
def test_all_frames_of_a_packed_kernel_are_unpacked(name: str) -> None:
    content = FRAMES[name]
    found = read(content)
    assert (found.inner or found).format == "packed"
    assert b"".join(kernel_payload.loadable(io.BytesIO(content), found, "/boot/it")) == ARM
    assert kernel_payload.release(io.BytesIO(content), found, "/boot/it") == RELEASE


@pytest.mark.parametrize("name", [name for name in FRAMES if name.startswith("packed")])
def test_memory_of_a_packed_kernel_is_that_of_the_kernel_in_all_frames(name: str) -> None:
    plain, packed = kernel_memory.read(ARM), kernel_memory.read(FRAMES[name])
    assert plain is not None
    assert packed is not None
    assert packed.bytes == plain.bytes == 0x100000
