"""Takes a dump from a device without a file system and makes a dump directory of it, once."""

import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from typing import IO

from msgspec import Struct
from msgspec.structs import replace

from kdump_initramfs import durable
from kdump_initramfs.dumps import store
from kdump_initramfs.errors import HostError
from kdump_initramfs.formats import rawdump
from kdump_initramfs.formats.rawdump import StoredFile

logger = logging.getLogger(__name__)

_CHUNK_BYTES = 1 << 20
_MAX_SUFFIX = 1000
# Left free beside the dump: a file system that is full does not boot.
_RESERVE_BYTES = 64 << 20


class Recovered(Struct, frozen=True, kw_only=True):
    device: str
    # Path of the dump directory; "" where the device holds nothing to recover.
    path: str = ""
    # What is there instead, for a person.
    note: str = ""


def recover(device: str, directory: str) -> Recovered:
    """Make a dump directory below `directory` of what is on `device`, and mark the device as recovered.

    The mark comes last: what is interrupted is done anew, and what was done already is known by its record.
    """
    try:
        with open(device, "r+b", buffering=0) as stream:
            return _recover(stream, device, directory)
    except OSError as error:
        where = error.filename or device
        raise HostError(f"{where}: {error.strerror}", hint="run as root, and see that there is room") from error


def _recover(stream: IO[bytes], device: str, directory: str) -> Recovered:
    head = rawdump.read_head(_reader(stream))
    if head is None or head.state == "recovered":
        return Recovered(device=device, note="nothing to recover" if head is None else "recovered already")
    if not store.is_name(head.name):
        raise HostError(
            f"{device}: holds a dump with the name {head.name!r}, which we would not make",
            hint="look at the device by hand: hexdump -C",
        )
    size_bytes = stream.seek(0, os.SEEK_END)
    found = [file for file in rawdump.files(_reader(stream), head, size_bytes) if _is_ours(file)]
    if not found:
        note = "a dump was begun there, and no file of it is whole"
        return Recovered(device=device, note=note)
    path = _known(stream, found, os.path.join(directory, head.name)) or _extract(stream, found, directory, head.name)
    stream.seek(0)
    stream.write(rawdump.head_text(replace(head, state="recovered")))
    os.fsync(stream.fileno())
    return Recovered(device=device, path=path)


def _reader(stream: IO[bytes]) -> rawdump.Reader:
    def read(offset: int, size_bytes: int) -> bytes:
        stream.seek(offset)
        return stream.read(size_bytes)

    return read


def _is_ours(file: StoredFile) -> bool:
    return file.name in (*store.VMCORES, store.DMESG, store.RECORD, store.LOG)


def _candidates(path: str) -> Iterator[str]:
    yield path
    yield from (f"{path}-{number}" for number in range(1, _MAX_SUFFIX))


def _known(stream: IO[bytes], files: Sequence[StoredFile], path: str) -> str:
    """Return the directory of an earlier recovery that did not come to its mark, or "": its record is the same."""
    record = next((file for file in files if file.name == store.RECORD), None)
    if record is None:
        return ""
    content = _reader(stream)(record.offset, record.size_bytes)
    for candidate in _candidates(path):
        try:
            with open(os.path.join(candidate, store.RECORD), "rb") as other:
                if other.read() == content:
                    return candidate
        except FileNotFoundError:
            if not os.path.exists(candidate):
                return ""
    return ""


def _extract(stream: IO[bytes], files: Sequence[StoredFile], directory: str, name: str) -> str:
    needed = sum(file.size_bytes for file in files)
    free = shutil.disk_usage(directory).free
    if free < needed + _RESERVE_BYTES:
        raise HostError(
            f"{directory}: {free >> 20} MiB are free, and the dump takes {needed >> 20} MiB",
            hint="remove old dumps, or name another directory with --to",
        )
    work = tempfile.mkdtemp(prefix=f".{name}-recovering-", dir=directory)  # mode 0700
    try:
        digests = {file.name: _copy(stream, file, work) for file in files}
        _check(work, digests)
        durable.sync_directory(work)
        path = _rename(work, os.path.join(directory, name))
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    durable.sync_directory(directory)
    return path


def _copy(stream: IO[bytes], file: StoredFile, directory: str) -> str:
    """Copy one file, wait until it is on the disk, and return its sha256."""
    digest = hashlib.sha256()
    stream.seek(file.offset)
    left = file.size_bytes
    descriptor = os.open(os.path.join(directory, file.name), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "wb") as out:
        while left:
            chunk = stream.read(min(left, _CHUNK_BYTES))
            if not chunk:
                raise HostError(f"{file.name}: the device ends within it", hint="is it the whole partition?")
            digest.update(chunk)
            out.write(chunk)
            left -= len(chunk)
        out.flush()
        os.fsync(descriptor)
    return digest.hexdigest()


def _check(directory: str, digests: dict[str, str]) -> None:
    """Give what is not what its record says the name of something incomplete."""
    record = store.read(directory).record
    for name, known in (record.files if record else {}).items():
        if name in digests and digests[name] != known.sha256:
            logger.warning("%s: is not what %s says: kept as %s-incomplete", name, store.RECORD, name)
            os.rename(os.path.join(directory, name), os.path.join(directory, f"{name}-incomplete"))


def _rename(work: str, path: str) -> str:
    """Give the directory its name, or the next one that is free: a dump is never overwritten."""
    for candidate in _candidates(path):
        if not os.path.lexists(candidate):
            os.rename(work, candidate)
            return candidate
    raise HostError(f"{path}: and {_MAX_SUFFIX - 1} more of this name are there", hint="remove old dumps")
