"""Compression of images, modules and firmware: zstd, xz, gzip or none.

What the kernel can unpack: lib/decompress_unzstd.c, lib/decompress_inflate.c, Documentation/staging/xz.rst (which has
no CRC64). The compressors are imported where one is needed: zstandard alone takes 10 ms.
"""

import io
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, BinaryIO, Protocol, cast

from kdump_initramfs.errors import ImageError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

# The first bytes of a compressed file: RFC 8878, xz-file-format.txt 2.1.1.1, RFC 1952.
_MAGICS = {"zstd": b"\x28\xb5\x2f\xfd", "xz": b"\xfd7zXZ\0", "gzip": b"\x1f\x8b"}
MAGIC_BYTES = max(map(len, _MAGICS.values()))
# What may follow a stream of its kind. Behind that of a kernel is the size of what is packed, in four bytes
# (scripts/Makefile.lib, cmd_file_size), which must not be taken for the start of another one.
_NEXT = {**_MAGICS, "gzip": b"\x1f\x8b\x08", "bzip2": b"BZh"}
_LEAST_STREAM_BYTES = 8

# A frame that decompressors of zstd and of LZ4 pass over: one of 16 magic numbers, and its size (RFC 8878, 3.1.2).
# pzstd begins each part of a file with one, and some builders put what they have to say into one.
_SKIPPABLE = tuple(bytes((0x50 + number, 0x2A, 0x4D, 0x18)) for number in range(16))
SKIPPABLE_BYTES = 8

# Measured on 2 cores with the image of an LVM + ext4 target on Debian 6.1, 18.9 MB unpacked:
#   zstd 3   0.08 s  7.36 MB     zstd 8   0.34 s  6.87 MB     gzip 3   0.65 s  7.77 MB
#   zstd 6   0.20 s  6.96 MB     zstd 12  0.62 s  6.84 MB     xz 0     1.04 s  6.47 MB
# zstd with a window of 2^20, which the capture kernel allocates while it unpacks; one of 2^17 takes 0.9 MB less of its
# memory for that time, and makes the image 0.2 MB larger. Threads change the bytes: it is two on any machine.
_ZSTD_LEVEL = 6
_ZSTD_WINDOW_LOG = 20
_ZSTD_THREADS = 2
_GZIP_LEVEL = 3
_XZ_PRESET = 0
_XZ_DICTIONARY_BYTES = 1 << 18

# Packed bytes are fed to a decompressor in small pieces: each may unpack to 30,000 times as much before it is counted.
_FEED_BYTES = 4096
# xz -9 needs 65 MiB, and a kernel up to 129 (scripts/xz_wrap.sh).
_XZ_MEMORY_BYTES = 192 << 20


class Sink(Protocol):
    """The file below a writer: nothing but its `write` is used."""

    def write(self, data: bytes, /) -> object: ...


class Writer(Protocol):
    """Takes the plain bytes; `close` completes the compressed stream and leaves the file below open."""

    def write(self, data: bytes, /) -> object: ...
    def close(self) -> object: ...


class _Decoder(Protocol):
    """What the decompressors of zlib, lzma and zstandard have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


def open_writer(kind: str, sink: Sink) -> Writer:
    """Return a writer that compresses into `sink`; the same input gives the same bytes."""
    raw = cast("BinaryIO", sink)
    match kind:
        case "zstd":
            return _zstd_writer(raw)
        case "xz":
            return _xz_writer(raw)
        case "gzip":
            return _gzip_writer(raw)
        case "none":
            return _PlainWriter(raw)
        case _:
            raise ImageError(f"compression {kind!r}: not one of zstd, xz, gzip, none")


def detect(start: bytes) -> str:
    """Return the compression that the first MAGIC_BYTES of a file tell: zstd, xz, gzip or none."""
    if start.startswith(_SKIPPABLE):
        return "zstd"
    return next((kind for kind, magic in _MAGICS.items() if start.startswith(magic)), "none")


def skippable_bytes(start: bytes) -> int:
    """Return how long a frame that is to be skipped is, by its first SKIPPABLE_BYTES; 0 where this begins none."""
    if len(start) < SKIPPABLE_BYTES or not start.startswith(_SKIPPABLE):
        return 0
    return SKIPPABLE_BYTES + int.from_bytes(start[4:8], "little")


def unpack(data: bytes, *, limit_bytes: int, name: str = "compressed data") -> bytes:
    """Return the data unpacked, or as it is when it is not compressed; `name` is for messages."""
    kind = detect(data)
    if kind == "none":
        return data
    pieces = []
    size_bytes = 0
    stream = io.BytesIO(data)
    for piece in _decoded(stream, stream.read(_FEED_BYTES), kind, name):
        size_bytes += len(piece)
        if size_bytes > limit_bytes:
            raise ImageError(f"{name}: more than {limit_bytes} bytes when unpacked")
        pieces.append(piece)
    return b"".join(pieces)


def reader(stream: BinaryIO, name: str = "image") -> io.BufferedReader:
    """Return the unpacked content of `stream` as a file to be read forwards."""
    return io.BufferedReader(_Pieces(_unpacked(stream, name)), buffer_size=1 << 17)


def streams(stream: BinaryIO, kind: str, *, size_bytes: int, name: str) -> Iterator[bytes]:
    """Yield what `size_bytes` of `stream` unpack to: a compressed stream and those of its kind that follow it.

    What follows and is none is left aside, as is padding. Beside zstd, xz and gzip these may be bzip2 and lzma, which
    kernels are packed with. ImageError where the data are broken, or the compression is none that can be unpacked here.
    """
    new_decoder, error = _decoders(kind)
    data, decoder, rest = b"", new_decoder(), size_bytes
    while True:
        if not data:
            data = stream.read(min(_FEED_BYTES, rest))
            rest -= len(data)
        if not data:
            raise ImageError(f"{name}: truncated {kind} data")
        try:
            piece = decoder.decompress(data)
        except error as reason:
            raise ImageError(f"{name}: broken {kind} data: {reason}") from None
        yield piece
        data = b""
        if decoder.eof:
            data, rest = _behind(stream, decoder.unused_data, rest)
            if not _goes_on(kind, data):
                return
            decoder = new_decoder()


def _behind(stream: BinaryIO, data: bytes, rest: int) -> tuple[bytes, int]:
    """Return what follows a stream and its padding, enough to tell what it is; and how much is still to be read."""
    while len(data := data.lstrip(b"\0")) < _LEAST_STREAM_BYTES and (more := stream.read(min(_FEED_BYTES, rest))):
        data += more
        rest -= len(more)
    return data, rest


def _goes_on(kind: str, data: bytes) -> bool:
    """Whether another stream follows, or for zstd a frame that is to be skipped."""
    is_next = kind in _NEXT and data.startswith(_NEXT[kind])
    return len(data) >= _LEAST_STREAM_BYTES and (is_next or (kind == "zstd" and data.startswith(_SKIPPABLE)))


class _PlainWriter:
    def __init__(self, raw: BinaryIO) -> None:
        self.write = raw.write

    def close(self) -> None:
        """Leave the file below open, as the compressors do."""


def _zstd_writer(raw: BinaryIO) -> Writer:
    import zstandard  # noqa: PLC0415

    parameters = zstandard.ZstdCompressionParameters.from_level(
        _ZSTD_LEVEL, window_log=_ZSTD_WINDOW_LOG, write_checksum=True, threads=_ZSTD_THREADS
    )
    # The size is not told: a frame that names it is a single segment, whose window is the whole archive, and the kernel
    # allocates that window.
    return zstandard.ZstdCompressor(compression_params=parameters).stream_writer(raw, closefd=False)


def _xz_writer(raw: BinaryIO) -> Writer:
    import lzma  # noqa: PLC0415

    filters = [{"id": lzma.FILTER_LZMA2, "preset": _XZ_PRESET, "dict_size": _XZ_DICTIONARY_BYTES}]
    return lzma.LZMAFile(raw, "wb", check=lzma.CHECK_CRC32, filters=filters)


def _gzip_writer(raw: BinaryIO) -> Writer:
    import gzip  # noqa: PLC0415

    return gzip.GzipFile(filename="", mode="wb", compresslevel=_GZIP_LEVEL, fileobj=raw, mtime=0)


def _unpacked(stream: BinaryIO, name: str) -> Iterator[bytes]:
    """Yield the unpacked content in pieces."""
    data = stream.read(_FEED_BYTES)
    kind = detect(data)
    if kind != "none":
        yield from _decoded(stream, data, kind, name)
        return
    while data:
        yield data
        data = stream.read(1 << 20)


def _decoded(stream: BinaryIO, data: bytes, kind: str, name: str) -> Iterator[bytes]:
    """Yield what `data` and the rest of `stream` unpack to; streams that follow one another are one content."""
    new_decoder, error = _decoders(kind)
    decoder: _Decoder | None = None
    while data:
        if decoder is None:
            data = data.lstrip(b"\0")  # images are padded to whole blocks
        if data:
            decoder = decoder or new_decoder()
            try:
                piece = decoder.decompress(data)
            except error as reason:
                raise ImageError(f"{name}: broken {kind} data: {reason}") from None
            yield piece
            data = b""
            if decoder.eof:
                data, decoder = decoder.unused_data, None
        data = data or stream.read(_FEED_BYTES)
    if decoder is not None:
        raise ImageError(f"{name}: truncated {kind} data")


def _decoders(kind: str) -> tuple[Callable[[], _Decoder], type[Exception]]:
    """Return what makes a decompressor, and what it raises."""
    match kind:
        case "zstd":
            import zstandard  # noqa: PLC0415

            return zstandard.ZstdDecompressor().decompressobj, zstandard.ZstdError
        case "xz":
            import lzma  # noqa: PLC0415

            return lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY_BYTES), lzma.LZMAError
        case "lzma":
            import lzma  # noqa: PLC0415

            return lambda: lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=_XZ_MEMORY_BYTES), lzma.LZMAError
        case "bzip2":
            import bz2  # noqa: PLC0415

            return bz2.BZ2Decompressor, OSError
        case "gzip":
            import zlib  # noqa: PLC0415

            return lambda: zlib.decompressobj(zlib.MAX_WBITS | 16), zlib.error  # 16: with gzip's header and checksum
        case _:
            raise ImageError(f"{kind}: a compression that cannot be unpacked here")


class _Pieces(io.RawIOBase):
    """A file made of pieces."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        super().__init__()
        self._pieces = pieces
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Fill `buffer` with what is there; 0 at the end."""
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = memoryview(piece)
        target = memoryview(buffer).cast("B")
        count = min(len(target), len(self._rest))
        target[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count
