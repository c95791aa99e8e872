"""The least crashkernel= with which an image was seen to save a dump, kept beside it."""

import logging
import os
import time
from contextlib import suppress

import msgspec
from msgspec import Struct

from kdump_initramfs.image import record
from kdump_initramfs.model import SCHEMA

logger = logging.getLogger(__name__)


class Minimum(Struct, frozen=True, kw_only=True):
    schema: int = SCHEMA
    # The image that was rehearsed; the minimum of another one says nothing.
    image_sha256: str
    # The least that passed, and how far below it was tried.
    mib: int
    step_mib: int
    # Seconds since the epoch.
    at: int


def _path(image: str) -> str:
    return f"{image}.minimum.json"


def write(image: str, image_sha256: str, *, mib: int, step_mib: int) -> None:
    """Keep a minimum. Who may not write there is told so, and no more."""
    found = Minimum(image_sha256=image_sha256, mib=mib, step_mib=step_mib, at=int(time.time()))
    try:
        record.write_beside(_path(image), record.to_json(found))
    except OSError as error:
        logger.info("%s: %s; `estimate` will not know of this minimum", _path(image), error.strerror)


def forget(image: str) -> None:
    """Forget the minimum of an image that is removed."""
    with suppress(FileNotFoundError):
        os.unlink(_path(image))


def read(image: str, image_sha256: str) -> Minimum | None:
    """Return the minimum of just this image, or None."""
    try:
        with open(_path(image), "rb") as stream:
            found = msgspec.json.decode(stream.read(), type=Minimum)
    except (OSError, msgspec.DecodeError):
        return None
    return found if found.image_sha256 == image_sha256 else None
