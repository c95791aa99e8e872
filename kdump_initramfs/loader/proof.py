"""When an image was last proven: the verdict of its last rehearsal, kept beside it."""

import logging
import os
import time

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
    # crashkernel= of the guest.
    crashkernel: str


def _path(image: str) -> str:
    return f"{image}.proof.json"


def write(image: str, image_sha256: str, *, passed: bool, crashkernel: str) -> None:
    """Keep a verdict. Rehearsals need no privilege; who may not write there is told so, and no more."""
    proof = Proof(image_sha256=image_sha256, passed=passed, at=int(time.time()), crashkernel=crashkernel)
    try:
        record.write_beside(_path(image), record.to_json(proof))
    except OSError as error:
        logger.info("%s: %s; `status` will not know of this rehearsal", _path(image), error.strerror)


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
    if os.path.lexists(_path(image)):
        os.unlink(_path(image))
