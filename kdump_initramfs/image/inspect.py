"""Looks into an image: lists it, shows a file of it, compares two of them."""

import hashlib
import os
import stat
from collections.abc import Iterator

import msgspec

from kdump_initramfs.errors import ImageError
from kdump_initramfs.formats import compression, cpio, plaintext
from kdump_initramfs.image.write import MANIFEST_PATH
from kdump_initramfs.model import Manifest


def members(image: str) -> Iterator[cpio.Member]:
    """Yield the entries of an image in their order; ImageError, which names it, where it is damaged or none."""
    try:
        with open(image, "rb") as stream, compression.reader(stream, image) as unpacked:
            yield from cpio.read(unpacked)
    except ImageError as error:
        said = str(error)
        raise ImageError(
            said if said.startswith(f"{image}: ") else f"{image}: {said}",
            hint=error.hint
            or "name an image that `kdump-initramfs build` wrote; if it is one, it is damaged: build it again",
        ) from error
    except OSError as error:
        raise ImageError(f"{image}: {error.strerror}", hint="name a readable image") from error


def manifest(image: str) -> Manifest:
    """Return the manifest inside an image."""
    for member in members(image):
        if member.name == MANIFEST_PATH:
            return _decode(image, member.data)
    raise ImageError(f"{image}: has no {MANIFEST_PATH}", hint="it was not built by kdump-initramfs")


def _decode(image: str, data: bytes) -> Manifest:
    try:
        return plaintext.decode(data, Manifest)
    except msgspec.DecodeError as error:
        raise ImageError(f"{image}: {MANIFEST_PATH}: {error}", hint="build it again") from error


def line(member: cpio.Member) -> str:
    """Return an entry as `ls -l` would show it."""
    arrow = f" -> {os.fsdecode(member.data)}" if stat.S_ISLNK(member.mode) else ""
    return f"{stat.filemode(member.mode)} {len(member.data):>9} /{member.name}{arrow}"


def differences(old: str, new: str) -> Iterator[str]:
    """Yield one line for each entry that only one image has (- or +) or that both have differently (~)."""
    before = {member.name: member for member in members(old)}
    after = {member.name: member for member in members(new)}
    for name in sorted(before.keys() | after.keys()):
        one, other = before.get(name), after.get(name)
        if one is None or other is None:
            yield f"{'-' if other is None else '+'} /{name}"
        elif changed := _changed(one, other):
            yield f"~ /{name} ({changed})"


def _changed(one: cpio.Member, other: cpio.Member) -> str:
    what = {
        "mode": (one.mode, other.mode),
        "device": (one.device, other.device),
        f"{len(one.data)} -> {len(other.data)} bytes": (_digest(one), _digest(other)),
    }
    return ", ".join(name for name, (before, after) in what.items() if before != after)


def _digest(member: cpio.Member) -> bytes:
    return hashlib.sha256(member.data).digest()


def extract(image: str, wanted: str) -> bytes:
    """Return the content of one file of an image."""
    for member in members(image):
        if member.name == wanted.lstrip("/"):
            return member.data
    raise ImageError(f"{image}: has no {wanted}", hint="inspect without a path lists what it has")
