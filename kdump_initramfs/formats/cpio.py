"""The newc archive that the kernel unpacks into its first root file system: a streaming writer and a reader.

Format: Documentation/driver-api/early-userspace/buffer-format.rst of the kernel; what the kernel makes of it is in
init/initramfs.c, where the limits below come from.
"""

import re
import stat
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

from msgspec import Struct, structs

from kdump_initramfs.errors import ImageError

_MAGIC = b"070701"
_HEADER_BYTES = 110
_TRAILER = "TRAILER!!!"
# PATH_MAX, the terminating NUL included: the kernel skips an entry with a longer name or link target without a word.
_MAX_NAME_BYTES = 4096
# Sizes are eight hexadecimal digits.
_MAX_FILE_BYTES = 0xFFFF_FFFF
# GNU cpio and gen_init_cpio fill the last block; a boot loader that appends a second archive relies on alignment.
_BLOCK_BYTES = 512
_CHUNK_BYTES = 1 << 20
# A guard for the reader's memory; no capture image comes near it.
_MAX_MEMBER_BYTES = 1 << 30

_parse_header = re.compile(rb"070701((?:[0-9A-Fa-f]{8}){13})").fullmatch
_unpack_fields = struct.Struct(">13I").unpack


class Member(Struct, frozen=True, kw_only=True):
    """One entry of an archive."""

    name: str
    # File type and permissions, as st_mode.
    mode: int
    uid: int
    gid: int
    # Number of names of the file.
    nlink: int
    mtime_s: int
    # Inode number, the same for all names of one file.
    ino: int
    # Major and minor number of the file system that the file came from.
    origin: tuple[int, int]
    # Major and minor number of a device node.
    device: tuple[int, int]
    # Content of a file, or target of a symbolic link.
    data: bytes


# --- writing -----------------------------------------------------------------------------------------------------


class Writer:
    """Writes one archive through `write`; the same entries give the same bytes, whoever builds, whenever."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self._ino = 0
        self.size_bytes = 0

    def add(self, name: str, mode: int, data: bytes = b"", *, device: tuple[int, int] = (0, 0)) -> None:
        """Add an entry; `name` has no leading slash, `mode` includes the file type, as st_mode."""
        self._add_header(name, mode, len(data), device)
        if data:
            self._put(data)
            self._pad(4)

    def add_chunks(self, name: str, mode: int, size_bytes: int, chunks: Iterable[bytes]) -> None:
        """Add a file whose content comes in pieces, `size_bytes` in all."""
        self._add_header(name, mode, size_bytes, (0, 0))
        end = self.size_bytes + size_bytes
        for chunk in chunks:
            self._put(chunk)
            if self.size_bytes > end:
                break
        if self.size_bytes != end:
            raise ImageError(f"{name}: its size changed while it was copied", hint="build again when it is stable")
        self._pad(4)

    def finish(self) -> None:
        """Write the trailer, and zeros up to a whole block."""
        self._put(_header(0, 0, 1, 0, (0, 0), _TRAILER.encode()))
        self._pad(_BLOCK_BYTES)

    def _add_header(self, name: str, mode: int, size_bytes: int, device: tuple[int, int]) -> None:
        encoded = _encode_name(name)
        _check_size(name, mode, size_bytes)
        self._ino += 1
        nlink = 2 if stat.S_ISDIR(mode) else 1
        self._put(_header(self._ino, mode, nlink, size_bytes, device, encoded))

    def _put(self, data: bytes) -> None:
        self._write(data)
        self.size_bytes += len(data)

    def _pad(self, alignment: int) -> None:
        if rest := self.size_bytes % alignment:
            self._put(bytes(alignment - rest))


def _encode_name(name: str) -> bytes:
    encoded = name.encode("utf-8", "surrogateescape")
    if not name or name.startswith("/") or name == _TRAILER or b"\0" in encoded:
        raise ImageError(f"{name!r}: a cpio archive cannot hold an entry of this name")
    if len(encoded) >= _MAX_NAME_BYTES:
        raise ImageError(f"{name[:60]}…: the name is longer than {_MAX_NAME_BYTES - 1} bytes")
    return encoded


def _check_size(name: str, mode: int, size_bytes: int) -> None:
    if size_bytes > _MAX_FILE_BYTES:
        raise ImageError(f"{name}: {size_bytes} bytes; a cpio archive holds files of less than 4 GiB")
    if stat.S_ISLNK(mode) and size_bytes >= _MAX_NAME_BYTES:
        raise ImageError(f"{name}: the target of the link is longer than {_MAX_NAME_BYTES - 1} bytes")


def _header(ino: int, mode: int, nlink: int, size_bytes: int, device: tuple[int, int], name: bytes) -> bytes:
    """Return the header with the name, padded; owner root, time 0 and no origin, so that builds repeat."""
    major, minor = device
    fields = (ino, mode, 0, 0, nlink, 0, size_bytes, 0, 0, major, minor, len(name) + 1, 0)
    header = _MAGIC + (b"%08X" * len(fields)) % fields + name
    return header + bytes(1 + -(len(header) + 1) % 4)


# --- reading -----------------------------------------------------------------------------------------------------


def read(stream: BinaryIO) -> Iterator[Member]:
    """Yield the members of an archive, up to its trailer.

    Of a file with several names the archive carries the content once, with the last name (GNU cpio, gen_init_cpio):
    its other names are held back until then, so that every member is complete.
    """
    archive = _Reader(stream)
    waiting: dict[tuple[int, tuple[int, int]], list[Member]] = {}
    while (member := archive.member()) is not None:
        if member.nlink <= 1 or not stat.S_ISREG(member.mode):
            yield member
            continue
        names = waiting.setdefault((member.ino, member.origin), [])
        names.append(member)
        if member.data:
            yield from _with_data(names)
            names.clear()
    for names in waiting.values():
        yield from names


def _with_data(names: list[Member]) -> Iterator[Member]:
    """Yield all names of one file, each with the content that came with the last."""
    *others, last = names
    for member in others:
        yield structs.replace(member, data=last.data)
    yield last


class _Reader:
    """Reads forwards only, because the stream may be a decompressor; counts, so that errors can say where."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._offset = 0

    def member(self) -> Member | None:
        """Return the next member, or None at the trailer."""
        start = self._offset
        match = _parse_header(self._take(_HEADER_BYTES))
        if match is None:
            raise ImageError(f"cpio archive: no newc header at byte {start}")
        fields = _unpack_fields(bytes.fromhex(match[1].decode("ascii")))
        ino, mode, uid, gid, nlink, mtime_s, size_bytes, *numbers, name_bytes, _checksum = fields
        name = self._name(start, name_bytes)
        if name == _TRAILER:
            return None
        return Member(
            name=name,
            mode=mode,
            uid=uid,
            gid=gid,
            nlink=nlink,
            mtime_s=mtime_s,
            ino=ino,
            origin=(numbers[0], numbers[1]),
            device=(numbers[2], numbers[3]),
            data=self._data(start, size_bytes),
        )

    def _name(self, start: int, name_bytes: int) -> str:
        if not 1 < name_bytes <= _MAX_NAME_BYTES:
            raise ImageError(f"cpio archive: entry at byte {start}: a name of {name_bytes} bytes")
        name = self._take(name_bytes)
        if name.find(b"\0") != name_bytes - 1:
            raise ImageError(f"cpio archive: entry at byte {start}: the name does not end where it should")
        self._skip_padding()
        return name[:-1].decode("utf-8", "surrogateescape")

    def _data(self, start: int, size_bytes: int) -> bytes:
        if size_bytes > _MAX_MEMBER_BYTES:
            raise ImageError(f"cpio archive: entry at byte {start}: {size_bytes} bytes are too many for an image")
        data = self._take(size_bytes)
        self._skip_padding()
        return data

    def _skip_padding(self) -> None:
        self._take(-self._offset % 4)

    def _take(self, count: int) -> bytes:
        """Return exactly `count` bytes, reading in pieces: a false size must not reserve memory."""
        pieces = []
        missing = count
        while missing:
            piece = self._stream.read(min(missing, _CHUNK_BYTES))
            if not piece:
                raise ImageError(f"cpio archive: ends at byte {self._offset}, inside an entry or without a trailer")
            pieces.append(piece)
            missing -= len(piece)
            self._offset += len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)
