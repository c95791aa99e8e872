"""The record beside an image: which bytes the image has, and the manifest that is inside it.

Image and record are two files, and two renames are not one. So the record of a new image is first put beside the old
record (`.json.next`), then the image is replaced, then the record: at every instant one of the two records fits the
image that is there.
"""

import hashlib
import os
from collections.abc import Iterator
from typing import BinaryIO

import msgspec

from kdump_initramfs.errors import ImageError
from kdump_initramfs.formats import plaintext
from kdump_initramfs.model import FACTS_SCHEMA, ImageRecord

# The end of the name of a file that is being written beside an image.
PARTIAL = ".partial"


def partial_of(image: str) -> str:
    """Return a new name for a file that is being written beside an image.

    It is known before the file is there, so that the file can be removed after an interrupt at any instant.
    """
    directory, name = os.path.split(image)
    return os.path.join(directory, f".{name}.{os.urandom(4).hex()}{PARTIAL}")


def create(path: str) -> BinaryIO:
    """Open a new file of mode 0600 for writing."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb")


def path_of(image: str) -> str:
    """Return where the record of an image is."""
    return f"{image}.json"


def next_path_of(image: str) -> str:
    """Return where the record of an image is while the image is being replaced."""
    return f"{image}.json.next"


def read(image: str) -> ImageRecord:
    """Return the record that fits the image; ImageError where the image is missing, damaged or not described."""
    digest, previous = sha256_of(image), ""
    while digest != previous:  # a build may have replaced the image since
        for record in _records(image):
            if record is not None and record.image_sha256 == digest:
                return record
        digest, previous = sha256_of(image), digest
    if os.path.lexists(path_of(image)):
        raise ImageError(f"{image}: is not the image that its manifest describes", hint="build it again")
    raise ImageError(f"{path_of(image)}: no such file, so nothing is known of the image", hint="build it again")


def _records(image: str) -> Iterator[ImageRecord | None]:
    """Yield what may be the record of an image: a build may have made the second the first since we looked there."""
    yield _read(path_of(image))
    yield _read_next(image)
    yield _read(path_of(image))


def beside(image: str) -> ImageRecord | None:
    """Return the record beside an image, whatever has become of the image; None where there is none to be read."""
    try:
        return _decoded(path_of(image))
    except msgspec.DecodeError:
        return None


def remove(image: str) -> None:
    """Remove an image with its records; the record goes last, so that what is interrupted can be done again."""
    for path in (image, next_path_of(image), path_of(image)):
        if os.path.lexists(path):
            os.unlink(path)


def settle(image: str) -> None:
    """Finish a replacement that was interrupted after the image had been replaced; undo one that did not get so far.

    A record that cannot be read is left alone, with ImageError: it may be the one that fits.
    """
    following = _read_next(image)
    if following is not None and _exists(image) and following.image_sha256 == sha256_of(image):
        os.rename(next_path_of(image), path_of(image))
    elif os.path.lexists(next_path_of(image)):
        os.unlink(next_path_of(image))


def _exists(path: str) -> bool:
    """Tell whether a file is there; other than os.path.exists(), do not take an error for a no."""
    try:
        os.stat(path)
    except FileNotFoundError:
        return False
    return True


def _read_next(image: str) -> ImageRecord | None:
    """Return the record of a replacement that is going on or was interrupted, as far as it is complete."""
    try:
        return _decoded(next_path_of(image))
    except msgspec.DecodeError:
        return None


def _read(path: str) -> ImageRecord | None:
    try:
        return _decoded(path)
    except msgspec.DecodeError as error:
        raise ImageError(f"{path}: {error}", hint="build the image again") from error


def _decoded(path: str) -> ImageRecord | None:
    try:
        with open(path, "rb") as stream:
            content = stream.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror}", hint="run as root") from error
    try:
        return plaintext.decode(content, ImageRecord)
    except msgspec.ValidationError:
        return _of_older_version(content)


def _of_older_version(content: bytes) -> ImageRecord:
    """Return a record with facts of an older schema, without these: its image can be loaded until it is built again.

    Raises msgspec.ValidationError where it is no such record.
    """
    found = plaintext.decode(content, dict[str, object])
    manifest = msgspec.convert(found.get("manifest"), type=dict[str, object])
    if manifest.get("schema") == FACTS_SCHEMA:
        return plaintext.decode(content, ImageRecord)
    return msgspec.convert({**found, "basis": None, "manifest": {**manifest, "targets": []}}, type=ImageRecord)


def sha256_of(path: str) -> str:
    """Return the digest of a file in hexadecimal; ImageError where it cannot be read."""
    try:
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise ImageError(f"{path}: no such file", hint="run: kdump-initramfs build") from error
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror}", hint="run as root") from error


def to_json(value: object) -> bytes:
    """Return a struct as JSON for people: indented, one newline at the end."""
    return plaintext.indented(value) + b"\n"


def write_beside(path: str, content: bytes) -> None:
    """Write a file that nobody else may read, and see to it that it is on the disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        os.fchmod(descriptor, 0o600)
        stream.write(content)
        stream.flush()
        os.fsync(descriptor)
