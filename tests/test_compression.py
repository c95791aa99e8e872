"""Compression: what is packed is unpacked by the usual programs and by us, and nothing broken gets through."""

import bz2
import gzip
import io
import lzma
import random
import shutil
import struct
import subprocess
import tracemalloc
import zlib

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from kdump_initramfs.errors import ImageError
from kdump_initramfs.formats import compression

KINDS = ("zstd", "xz", "gzip", "none")
PACKERS = ("zstd", "xz", "gzip")
# Compressible, and longer than the buffers on the way.
CONTENT = b"".join(b"%d\n" % (number * number) for number in range(60_000)) + random.Random(1).randbytes(300_000)  # noqa: S311 - no secret


class Sink:
    """All that a writer may ask of the file below."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: bytes, /) -> int:
        self.data += data
        return len(data)


def pack(kind: str, content: bytes, *, piece_bytes: int = 65536) -> bytes:
    sink = Sink()
    writer = compression.open_writer(kind, sink)
    for start in range(0, len(content), piece_bytes):
        writer.write(content[start : start + piece_bytes])
    writer.close()
    return bytes(sink.data)


def bgzip(content: bytes) -> bytes:
    """Return a member of gzip with an extra field, as bgzip writes them one after the other."""
    packer = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = packer.compress(content) + packer.flush()
    head = b"\x1f\x8b\x08\x04" + bytes(5) + b"\xff\x06\0BC\x02\0" + struct.pack("<H", len(body) + 25)
    return head + body + struct.pack("<II", zlib.crc32(content), len(content))


def named_gzip(content: bytes) -> bytes:
    target = io.BytesIO()
    with gzip.GzipFile(filename="Image", mode="wb", fileobj=target) as stream:
        stream.write(content)
    return target.getvalue()


# --- packing -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PACKERS)
def test_the_usual_program_unpacks_it(kind: str) -> None:
    if shutil.which(kind) is None:
        pytest.skip(f"{kind} is not installed")
    result = subprocess.run([kind, "-dc"], input=pack(kind, CONTENT), check=True, capture_output=True, timeout=60)
    assert result.stdout == CONTENT


@pytest.mark.parametrize("kind", KINDS)
def test_the_bytes_depend_on_the_content_alone(kind: str) -> None:
    assert pack(kind, CONTENT) == pack(kind, CONTENT) == pack(kind, CONTENT, piece_bytes=777)


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_below_stays_open(kind: str) -> None:
    sink = io.BytesIO()
    compression.open_writer(kind, sink).close()
    assert not sink.closed


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ImageError, match=r"^compression 'lz4': not one of zstd, xz, gzip, none$"):
        compression.open_writer("lz4", io.BytesIO())


def test_a_zstd_frame_needs_little_memory_to_unpack() -> None:
    frame = zstandard.get_frame_parameters(pack("zstd", CONTENT))
    assert frame.content_size == zstandard.CONTENTSIZE_UNKNOWN
    assert 1 << 17 <= frame.window_size <= 1 << 20
    assert frame.has_checksum


def test_xz_is_what_the_kernel_can_unpack() -> None:
    packed = pack("xz", CONTENT)
    assert packed[7] == lzma.CHECK_CRC32  # stream flags, xz-file-format.txt 2.1.1.2
    # A decompressor that may use no more than the dictionary of 1 MiB and its own state.
    assert lzma.LZMADecompressor(memlimit=(1 << 20) + 65536).decompress(packed) == CONTENT


def test_gzip_carries_neither_time_nor_name() -> None:
    assert pack("gzip", CONTENT)[3:8] == b"\0\0\0\0\0"  # FLG, MTIME of RFC 1952


# --- unpacking ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_packed_is_unpacked(kind: str) -> None:
    packed = pack(kind, CONTENT)
    assert compression.detect(packed[: compression.MAGIC_BYTES]) == kind
    assert compression.unpack(packed, limit_bytes=len(CONTENT)) == CONTENT
    with compression.reader(io.BytesIO(packed)) as stream:
        assert stream.read(10) == CONTENT[:10]
        assert stream.read() == CONTENT[10:]
        assert stream.read() == b""


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_content(kind: str) -> None:
    assert compression.unpack(pack(kind, b""), limit_bytes=0) == b""
    assert compression.reader(io.BytesIO(pack(kind, b""))).read() == b""


@pytest.mark.parametrize(
    "packed",
    [
        zstandard.compress(CONTENT, 19),
        lzma.compress(CONTENT, check=lzma.CHECK_CRC64),
        gzip.compress(CONTENT),
    ],
    ids=PACKERS,
)
def test_what_others_packed_is_unpacked(packed: bytes) -> None:
    assert compression.unpack(packed, limit_bytes=1 << 20) == CONTENT


@pytest.mark.parametrize("kind", PACKERS)
@pytest.mark.parametrize("padding", [0, 1, 8000])
def test_streams_that_follow_one_another_are_one_content(kind: str, padding: int) -> None:
    packed = pack(kind, CONTENT) + bytes(padding) + pack(kind, b"more") + bytes(padding)
    assert compression.unpack(packed, limit_bytes=1 << 20) == CONTENT + b"more"


def skippable(content: bytes, number: int = 0) -> bytes:
    """Return a frame that is to be skipped (RFC 8878, 3.1.2)."""
    return struct.pack("<II", 0x184D2A50 + number, len(content)) + content


# What files that are whole may look like, with the same content in all of them.
LAYOUTS = {
    "zstd behind a frame to be skipped": skippable(b"from a builder") + pack("zstd", CONTENT),
    "zstd behind an empty one": skippable(b"", 15) + pack("zstd", CONTENT),
    "zstd behind several": skippable(b"a", 1) + skippable(bytes(9000), 7) + pack("zstd", CONTENT),
    "zstd as pzstd has it": b"".join(
        skippable(struct.pack("<I", 9), 0) + zstandard.compress(CONTENT[start : start + 100_000])
        for start in range(0, len(CONTENT), 100_000)
    ),
    "zstd before a frame to be skipped": pack("zstd", CONTENT) + skippable(b"a table for seeking", 14),
    "zstd with an empty frame in it": pack("zstd", b"") + pack("zstd", CONTENT) + pack("zstd", b""),
    "zstd without a checksum": zstandard.ZstdCompressor(write_checksum=False).compress(CONTENT),
    "xz of several streams with padding": pack("xz", CONTENT[:5000])
    + bytes(8)
    + pack("xz", CONTENT[5000:])
    + bytes(12),
    "xz that begins with an empty stream": pack("xz", b"") + pack("xz", CONTENT),
    "xz with a check by SHA-256": lzma.compress(CONTENT, check=lzma.CHECK_SHA256),
    "gzip of several members": b"".join(
        gzip.compress(CONTENT[at : at + 65000]) for at in range(0, len(CONTENT), 65000)
    ),
    "gzip as bgzip has it": b"".join(
        bgzip(CONTENT[start : start + 60000]) for start in (*range(0, len(CONTENT), 60000), len(CONTENT))
    ),
    "gzip with a name and padding": named_gzip(CONTENT) + bytes(511),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_whatever_a_file_is_made_of_all_of_it_is_unpacked(name: str) -> None:
    packed = LAYOUTS[name]
    kind = name.partition(" ")[0]
    assert compression.detect(packed[: compression.MAGIC_BYTES]) == kind
    assert compression.unpack(packed, limit_bytes=len(CONTENT)) == CONTENT
    assert compression.reader(io.BytesIO(packed)).read() == CONTENT
    whole = compression.streams(io.BytesIO(packed), kind, size_bytes=len(packed), name="kernel")
    assert b"".join(whole) == CONTENT


@pytest.mark.parametrize(
    ("packed", "kind"),
    [
        (bz2.compress(CONTENT[:5000]) + bz2.compress(CONTENT[5000:]), "bzip2"),
        (lzma.compress(CONTENT, lzma.FORMAT_ALONE), "lzma"),
    ],
)
def test_whatever_a_kernel_is_packed_by_all_of_it_is_unpacked(packed: bytes, kind: str) -> None:
    for behind in (b"", struct.pack("<I", len(CONTENT)), bytes(700), b"\x1f\x8b", b"something else"):
        stream = io.BytesIO(packed + behind)
        whole = compression.streams(stream, kind, size_bytes=len(packed + behind), name="kernel")
        assert b"".join(whole) == CONTENT


@pytest.mark.parametrize("kind", PACKERS)
@pytest.mark.parametrize("behind", [b"BZh9", b"\x1f\x8b\x08\0", b"\x28\xb5\x2f\xfd", b"\x50\x2a\x4d\x18"])
def test_the_size_that_follows_a_packed_kernel_is_no_other_stream(kind: str, behind: bytes) -> None:
    packed = pack(kind, CONTENT) + behind
    whole = compression.streams(io.BytesIO(packed), kind, size_bytes=len(packed), name="kernel")
    assert b"".join(whole) == CONTENT


@pytest.mark.parametrize("kind", PACKERS)
def test_a_second_stream_that_is_cut_off_is_refused(kind: str) -> None:
    packed = pack(kind, CONTENT) + pack(kind, CONTENT)[:-9]
    whole = compression.streams(io.BytesIO(packed), kind, size_bytes=len(packed), name="kernel")
    with pytest.raises(ImageError, match=rf"^kernel: truncated {kind} data$"):
        b"".join(whole)


@pytest.mark.parametrize("cut", [3, 7, 8, 12])
def test_a_frame_to_be_skipped_that_is_cut_off_is_refused(cut: int) -> None:
    packed = skippable(b"from a builder")[:cut]
    if cut < 4:
        assert compression.unpack(packed, limit_bytes=100) == packed
        return
    with pytest.raises(ImageError, match=r"^compressed data: truncated zstd data$"):
        compression.unpack(packed, limit_bytes=100)


@pytest.mark.parametrize("kind", PACKERS)
def test_more_than_the_limit_is_refused(kind: str) -> None:
    packed = pack(kind, CONTENT)
    with pytest.raises(ImageError, match=rf"^a\.ko: more than {len(CONTENT) - 1} bytes when unpacked$"):
        compression.unpack(packed, limit_bytes=len(CONTENT) - 1, name="a.ko")


@pytest.mark.parametrize("kind", ["gzip", "xz"])
def test_a_bomb_is_refused_long_before_it_is_unpacked(kind: str) -> None:
    size_bytes = 128 << 20
    packed = pack(kind, bytes(size_bytes), piece_bytes=size_bytes)
    tracemalloc.start()
    try:
        with pytest.raises(ImageError, match=r"^compressed data: more than 1000 bytes when unpacked$"):
            compression.unpack(packed, limit_bytes=1000)
        assert tracemalloc.get_traced_memory()[1] < size_bytes // 2
    finally:
        tracemalloc.stop()


def test_xz_data_that_needs_much_memory_is_refused() -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 256 << 20}]
    packed = lzma.compress(b"x", filters=filters)
    with pytest.raises(ImageError, match=r"^compressed data: broken xz data: Memory usage limit exceeded$"):
        compression.unpack(packed, limit_bytes=1000)


@pytest.mark.parametrize("kind", PACKERS)
@pytest.mark.parametrize("missing", [1, 4, 8, 5000, 200_000])
def test_truncated_data_is_refused(kind: str, missing: int) -> None:
    packed = pack(kind, CONTENT)[:-missing]
    with pytest.raises(ImageError, match=rf"^compressed data: truncated {kind} data$"):
        compression.unpack(packed, limit_bytes=1 << 20)
    with pytest.raises(ImageError, match=rf"^image: truncated {kind} data$"):
        compression.reader(io.BytesIO(packed)).read()


@pytest.mark.parametrize("kind", PACKERS)
def test_changed_data_is_refused(kind: str) -> None:
    packed = bytearray(pack(kind, CONTENT))
    packed[len(packed) // 2] ^= 0x55
    with pytest.raises(ImageError, match=rf"^compressed data: broken {kind} data: "):
        compression.unpack(bytes(packed), limit_bytes=1 << 20)


@pytest.mark.parametrize("kind", PACKERS)
def test_other_bytes_behind_the_end_are_refused(kind: str) -> None:
    with pytest.raises(ImageError, match=rf"^compressed data: broken {kind} data: "):
        compression.unpack(pack(kind, CONTENT) + b"something else, long enough", limit_bytes=1 << 20)


@given(st.sampled_from(PACKERS), st.binary(max_size=100), st.integers(0, 200))
def test_any_bytes_are_unpacked_or_refused(kind: str, noise: bytes, position: int) -> None:
    packed = pack(kind, b"some content " * 30)
    try:
        compression.unpack(packed[:position] + noise, limit_bytes=1 << 20)
    except ImageError as error:
        assert str(error).startswith("compressed data: ")  # noqa: PT017 - either outcome is right


def test_checksums_are_those_of_the_content() -> None:
    assert zlib.crc32(CONTENT) == int.from_bytes(pack("gzip", CONTENT)[-8:-4], "little")
