"""A rehearsal on the machine itself: remembered before the crash, and judged in a later boot.

What is remembered lies beside the image, as the verdict will, and names the boot that was to end by the crash. In any
other boot the dump must be there: it is known by the words that the crashed kernel had in its log.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
from msgspec import Struct

from kdump_initramfs.config import Config, PathTarget
from kdump_initramfs.dumps import store
from kdump_initramfs.errors import HostError, KdumpError
from kdump_initramfs.host import expected
from kdump_initramfs.host.root import Root
from kdump_initramfs.image import record
from kdump_initramfs.loader import proof
from kdump_initramfs.model import SCHEMA

logger = logging.getLogger(__name__)

_BOOT_ID = "/proc/sys/kernel/random/boot_id"


class Attempt(Struct, frozen=True, kw_only=True):
    schema: int = SCHEMA
    image_sha256: str
    # Of the boot that was to end by the crash.
    boot_id: str
    # Said in the kernel's log before it.
    token: str
    # Seconds since the epoch.
    at: int
    # What was reserved, in the notation of crashkernel=.
    crashkernel: str


def boot_id(root: Root) -> str:
    return root.read_word(_BOOT_ID)


def write(image: str, attempt: Attempt) -> None:
    """Remember the attempt, on the disk, before the crash."""
    path = proof.attempt_path(image)
    try:
        record.write_beside(path, record.to_json(attempt))
    except OSError as error:
        raise HostError(f"{path}: {error.strerror}", hint="nothing was crashed") from error


@contextmanager
def remembered(image: str, attempt: Attempt) -> Iterator[None]:
    """Remember the attempt while the crash is made; when that comes to an end, there was none."""
    write(image, attempt)
    try:
        yield
    finally:
        os.unlink(proof.attempt_path(image))


def settle(root: Root, config: Config, image: str) -> None:
    """Give the verdict on a crash of an earlier boot, if there was one: `proof` has it then."""
    try:
        with open(proof.attempt_path(image), "rb") as stream:
            attempt = msgspec.json.decode(stream.read(), type=Attempt)
    except (OSError, msgspec.DecodeError) as error:
        logger.debug("%s: %s", proof.attempt_path(image), error)
        return
    if attempt.boot_id == boot_id(root):
        return
    try:
        passed = _has_passed(root, config, attempt)
    except KdumpError as error:
        logger.info("the verdict on the rehearsal of %s must wait: %s", proof.when(attempt.at), error)
        return
    verdict = proof.Proof(
        image_sha256=attempt.image_sha256, passed=passed, at=attempt.at, crashkernel=attempt.crashkernel, live=True
    )
    if proof.write(image, verdict):
        os.unlink(proof.attempt_path(image))


def _has_passed(root: Root, config: Config, attempt: Attempt) -> bool:
    """Return whether there is a complete dump of the attempt; KdumpError where it cannot be told yet."""
    paths = [target for target in config.targets if isinstance(target, PathTarget)]
    saved = [dump for dump in store.find(root.host(each.path) for each in paths) if _is_of(dump, attempt)]
    if any(dump.is_complete for dump in saved):
        return True
    expected.check_targets(root, config.targets, on_demand=True)
    if len(paths) < len(config.targets):
        raise HostError("its dump may be on a target that is not mounted", hint="run: kdump-initramfs dumps recover")
    return False


def _is_of(dump: store.Dump, attempt: Attempt) -> bool:
    try:
        with open(os.path.join(dump.path, store.DMESG), "rb") as stream:
            return attempt.token.encode() in stream.read()
    except OSError:
        return False
