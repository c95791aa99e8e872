"""When an image was last proven: the verdict of its last rehearsal, in a guest or on the machine, kept beside it."""

import logging
import os
import time
from datetime import UTC, datetime

import msgspec
from msgspec import Struct

from kdump_initramfs.image import record
from kdump_initramfs.model import SCHEMA

logger = logging.getLogger(__name__)


class Proof(Struct, frozen=True, kw_only=True):
    schema: int = SCHEMA
    # The image that was rehearsed; a proof of another one says nothing.
    image_sha256: str
    passed: bool
    # Seconds since the epoch.
    at: int
    # crashkernel= of what crashed.
    crashkernel: str
    # Whether it was the machine itself, and not a guest.
    live: bool = False


def _path(image: str) -> str:
    return f"{image}.proof.json"


def attempt_path(image: str) -> str:
    """Return where a crash of the machine itself is remembered until there is a verdict."""
    return f"{image}.live.json"


def now() -> int:
    return int(time.time())


def when(at: int) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC"


def write(image: str, proof: Proof) -> bool:
    """Keep a verdict. Rehearsals need no privilege; who may not write there is told so, and no more."""
    try:
        record.write_beside(_path(image), record.to_json(proof))
    except OSError as error:
        logger.info("%s: %s; `status` will not know of this rehearsal", _path(image), error.strerror)
        return False
    return True


def read(image: str, image_sha256: str) -> Proof | None:
    """Return the verdict on just this image, or None."""
    try:
        with open(_path(image), "rb") as stream:
            proof = msgspec.json.decode(stream.read(), type=Proof)
    except (OSError, msgspec.DecodeError):
        return None
    return proof if proof.image_sha256 == image_sha256 else None


def forget(image: str) -> None:
    """Forget the verdict on an image that is removed."""
    for path in (_path(image), attempt_path(image)):
        if os.path.lexists(path):
            os.unlink(path)
