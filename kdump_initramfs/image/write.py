"""Writes a plan as an image: streamed through the compressor into a file beside the old one, which it then replaces.

The same plan and the same files give the same bytes.
"""

import fcntl
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO, assert_never

from kdump_initramfs import __version__, durable
from kdump_initramfs.errors import HostError, ImageError
from kdump_initramfs.formats import compression, cpio
from kdump_initramfs.host.root import Root
from kdump_initramfs.image import kernel_copy, module_files, record
from kdump_initramfs.model import Dir, Entry, File, ImageRecord, Input, Link, Manifest, Module, Node, Plan, Text

MANIFEST_PATH = "etc/kdump/manifest.json"


class _HashingFile:
    """A binary file that knows size and digest of what was written to it."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self._hash = hashlib.sha256()
        self.size_bytes = 0

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        self.size_bytes += len(data)
        return self._raw.write(data)

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()


def write(plan: Plan, root: Root, output: str) -> ImageRecord:
    """Write the image of `plan` and its record, and return the record.

    Whatever goes wrong, what was at `output` stays there: ImageError or HostError says what it was.
    """
    if os.path.lexists(output) and not (os.path.isfile(output) or os.path.islink(output)):
        raise ImageError(
            f"{output}: exists, and is not a regular file", hint="name another place with --output or image.output"
        )
    directory = os.path.dirname(output)
    is_replaced = False
    try:
        with _locked(directory), _partial(output) as (partial, stream):
            written = _write_archive(plan, root, stream, os.path.basename(output))
            stream.flush()
            os.fsync(stream.fileno())
            written = kernel_copy.add(root, output, written)
            record.write_beside(record.next_path_of(output), record.to_json(written))
            os.rename(partial, output)
            is_replaced = True
            os.rename(record.next_path_of(output), record.path_of(output))
            durable.sync_directory(directory)
            kernel_copy.remove_others(output, written)
    except OSError as error:
        where = error.filename or output
        hint = "the new image is there, but build it again" if is_replaced else "what was there before is unchanged"
        raise ImageError(f"{where}: {error.strerror}", hint=hint) from error
    return written


@contextmanager
def _locked(directory: str) -> Iterator[None]:
    """Keep other builds out of the directory."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise ImageError(f"{directory}: no such directory", hint=f"create it: mkdir -m 0700 -p {directory}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise ImageError(f"{directory}: another build is writing there", hint="wait for it, then try again") from error
    finally:
        os.close(descriptor)


@contextmanager
def _partial(output: str) -> Iterator[tuple[str, BinaryIO]]:
    """Open a new file of mode 0600 beside the image; it is gone afterwards unless it was renamed."""
    _clean_up(output)
    path = record.partial_of(output)
    try:
        with record.create(path) as stream:
            yield path, stream
    except BaseException:
        # The first error is the one to tell of; the next build removes what cannot be removed now.
        with suppress(OSError, ImageError):
            os.unlink(path)
            record.settle(output)
        raise


def _clean_up(output: str) -> None:
    """Remove what a build that was killed left beside the image."""
    record.settle(output)
    directory, name = os.path.split(output)
    for each in os.listdir(directory):
        if each.startswith(f".{name}.") and each.endswith(record.PARTIAL):
            os.unlink(os.path.join(directory, each))


def _write_archive(plan: Plan, root: Root, stream: BinaryIO, name: str) -> ImageRecord:
    hashing = _HashingFile(stream)
    compressor = compression.open_writer(plan.compression, hashing)
    archive = cpio.Writer(compressor.write)
    inputs = [found for entry in plan.entries if (found := _add(archive, root, entry)) is not None]
    manifest = Manifest(
        tool=f"kdump-initramfs {__version__}",
        kernel=plan.kernel,
        kernel_sha256=record.sha256_of(root.host(plan.kernel.image)),
        hooks=plan.hooks,
        targets=plan.targets,
        volume_keys=plan.volume_keys,
        inputs=tuple(inputs),
    )
    inside = record.to_json(manifest)
    archive.add(MANIFEST_PATH, stat.S_IFREG | 0o600, inside)
    archive.finish()
    compressor.close()
    return ImageRecord(
        image=name,
        image_bytes=hashing.size_bytes,
        image_sha256=hashing.sha256,
        unpacked_bytes=archive.size_bytes,
        compression=plan.compression,
        digest=hashlib.sha256(inside).hexdigest(),
        manifest=manifest,
        basis=plan.basis,
    )


def _add(archive: cpio.Writer, root: Root, entry: Entry) -> Input | None:
    """Add one entry; for one that is a file of the host, return which file with which content."""
    name = entry.path.lstrip("/")
    match entry:
        case Dir():
            archive.add(name, stat.S_IFDIR | entry.mode)
        case Text():
            archive.add(name, stat.S_IFREG | entry.mode, entry.content.encode("utf-8", "surrogateescape"))
        case Link():
            archive.add(name, stat.S_IFLNK | 0o777, os.fsencode(entry.target))
        case Node():
            kind = stat.S_IFCHR if entry.kind == "c" else stat.S_IFBLK
            archive.add(name, kind | entry.mode, device=(entry.major, entry.minor))
        case File() | Module():
            content = _read(entry.source)
            data = module_files.take(entry.source) if isinstance(entry, Module) else content
            archive.add(name, stat.S_IFREG | entry.mode, data)
            return Input(path=root.inside(entry.source), sha256=hashlib.sha256(content).hexdigest())
        case _:
            assert_never(entry)
    return None


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as stream:
            return stream.read()
    except OSError as error:
        raise HostError(f"{path}: {error.strerror}", hint="make it readable, or run as root") from error
