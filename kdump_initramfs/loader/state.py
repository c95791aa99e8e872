"""What is loaded: remembered below /run, so that it is forgotten exactly when the kernel forgets."""

import os
import time
from collections.abc import Sequence

import msgspec
from msgspec import Struct

from kdump_initramfs.errors import HostError
from kdump_initramfs.formats import plaintext
from kdump_initramfs.host import hotplug
from kdump_initramfs.host.root import Root
from kdump_initramfs.image import record
from kdump_initramfs.model import SCHEMA, ImageRecord

_PATH = "/run/kdump-initramfs/loaded.json"


class Loaded(Struct, frozen=True, kw_only=True):
    schema: int = SCHEMA
    image: str
    image_sha256: str
    kernel_release: str
    # Seconds since the epoch.
    loaded_at: int
    words: tuple[str, ...]
    # What was plugged in then; None from a version that did not look.
    present: hotplug.Present | None = None


def write(root: Root, *, image: str, described: ImageRecord, words: Sequence[str]) -> None:
    """Remember that this image is loaded now."""
    loaded = Loaded(
        image=image,
        image_sha256=described.image_sha256,
        kernel_release=described.manifest.kernel.release,
        loaded_at=int(time.time()),
        words=tuple(words),
        present=hotplug.present(root),
    )
    path = root.host(_PATH)
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        record.write_beside(path, record.to_json(loaded))
    except OSError as error:
        raise HostError(f"{path}: {error.strerror}", hint="the kernel is loaded all the same") from error


def read(root: Root) -> Loaded | None:
    """Return what was loaded last since the boot, or None."""
    content = root.read_bytes(_PATH)
    if content is None:
        return None
    try:
        return plaintext.decode(content, Loaded)
    except msgspec.DecodeError as error:
        raise HostError(f"{_PATH}: {error}", hint="run: kdump-initramfs load") from error


def forget(root: Root) -> None:
    """Forget it, since it is loaded no longer."""
    path = root.host(_PATH)
    if os.path.exists(path):
        os.unlink(path)
