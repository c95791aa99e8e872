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
    return next((kind for kind, magic in _MAGICS.items() if start.startswith(magic)), "none")


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


def first_stream(stream: BinaryIO, kind: str, *, size_bytes: int, name: str) -> Iterator[bytes]:
    """Yield what the first compressed stream in `size_bytes` of `stream` unpacks to; what follows it is left aside.

    Beside zstd, xz and gzip these may be bzip2 and lzma, which kernels are packed with. ImageError where the data are
    broken, or the compression is none that can be unpacked here.
    """
    new_decoder, error = _decoders(kind)
    decoder, rest = new_decoder(), size_bytes
    while not decoder.eof:
        data = stream.read(min(_FEED_BYTES, rest))
        if not data:
            raise ImageError(f"{name}: truncated {kind} data")
        rest -= len(data)
        try:
            piece = decoder.decompress(data)
        except error as reason:
            raise ImageError(f"{name}: broken {kind} data: {reason}") from None
        yield piece


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
