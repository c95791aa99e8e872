"""The least crashkernel= with which a rehearsal passes, by bisection."""

import itertools
import logging
from collections.abc import Callable, Iterator

from msgspec import Struct

from kdump_initramfs.config import Config
from kdump_initramfs.errors import ConfigError, RehearsalError
from kdump_initramfs.host.root import Root
from kdump_initramfs.image import record
from kdump_initramfs.loader import minimum as keeping
from kdump_initramfs.model import SCHEMA
from kdump_initramfs.rehearsal import rehearse as rehearsing
from kdump_initramfs.rehearsal.rehearse import Options

logger = logging.getLogger(__name__)

# How often a size must pass before it counts: at the edge, luck decides.
_CONFIRMATIONS = 2


class Bounds(Struct, frozen=True, kw_only=True):
    """Where to look, in MiB: at `high` and below it in steps, down to `low`."""

    low_mib: int = 48
    high_mib: int = 192
    step_mib: int = 8


class Trial(Struct, frozen=True, kw_only=True):
    mib: int
    passed: bool
    # Why it did not.
    reason: str = ""


class Minimum(Struct, frozen=True, kw_only=True):
    schema: int = SCHEMA
    image: str
    minimum_mib: int
    step_mib: int
    # Every rehearsal, in order.
    trials: tuple[Trial, ...]


# What is tried: a size, and what came of it.
Probe = Callable[[int], Trial]


def search(probe: Probe, bounds: Bounds) -> tuple[int, tuple[Trial, ...]]:
    """Return the least size that passes as often as it must, and every trial; RehearsalError where none does.

    A size that failed once is too small, and so is every smaller one.
    """
    if not 0 < bounds.low_mib <= bounds.high_mib or bounds.step_mib < 1:
        raise ConfigError(
            f"{bounds.low_mib} to {bounds.high_mib} MiB in steps of {bounds.step_mib}: no range to search",
            hint="--low must not be above --high, and --step is 1 or more",
        )
    trials: list[Trial] = []
    sizes = range(bounds.high_mib, bounds.low_mib - 1, -bounds.step_mib)[::-1]
    # The least index that may be it, and the least one that is known to pass.
    floor, found = 0, len(sizes) - 1
    if not _holds(probe, sizes[found], trials, times=1):
        raise RehearsalError(f"crashkernel={sizes[found]}M: {trials[-1].reason}", hint="raise --high, or mend that")
    while floor < found:
        middle = (floor + found) // 2
        if _holds(probe, sizes[middle], trials, times=1):
            found = middle
        else:
            floor = middle + 1
    while not _holds(probe, sizes[found], trials, times=_CONFIRMATIONS):
        found += 1
        if found == len(sizes):
            raise RehearsalError(f"crashkernel={bounds.high_mib}M: passes only sometimes", hint="raise --high")
    return sizes[found], tuple(trials)


def _holds(probe: Probe, mib: int, trials: list[Trial], *, times: int) -> bool:
    """Try a size until it has passed `times` times, those before counted; once failed is failed."""
    known = [trial.passed for trial in trials if trial.mib == mib]
    while all(known) and len(known) < times:
        trials.append(probe(mib))
        known.append(trials[-1].passed)
    return all(known)


def find(root: Root, config: Config, image: str, options: Options, bounds: Bounds) -> Minimum:
    """Hold rehearsals until the minimum of an image is known, and keep it beside the image."""
    digest = record.read(image).image_sha256
    number = itertools.count(1)
    mib, trials = search(
        lambda size: _rehearse(root, config, image, options.with_crashkernel(f"{size}M", next(number)), size), bounds
    )
    keeping.write(image, digest, mib=mib, step_mib=bounds.step_mib)
    return Minimum(image=image, minimum_mib=mib, step_mib=bounds.step_mib, trials=trials)


def _rehearse(root: Root, config: Config, image: str, options: Options, mib: int) -> Trial:
    """Hold one rehearsal; with too little memory the guest may load nothing, or never end, which is a failure too."""
    logger.info("rehearsal with crashkernel=%dM", mib)
    try:
        result = rehearsing.rehearse(root, config, image, options)
    except RehearsalError as error:
        return _heard(Trial(mib=mib, passed=False, reason=str(error)))
    failed = next((check for check in result.checks if not check.passed), None)
    cause = f" ({result.diagnosis.cause})" if result.diagnosis else ""
    reason = f"{failed.name}: {failed.detail}{cause}" if failed else ""
    return _heard(Trial(mib=mib, passed=result.passed, reason=reason))


def _heard(trial: Trial) -> Trial:
    logger.info("crashkernel=%dM %s", trial.mib, "passed" if trial.passed else f"failed: {trial.reason}")
    return trial


def summary(found: Minimum) -> Iterator[str]:
    """Yield the lines that tell a person what was found."""
    yield f"{found.image}: crashkernel={found.minimum_mib}M is the least that passes, in steps of {found.step_mib} MiB"
    for trial in found.trials:
        yield f"  {trial.mib:5} MiB  {'passed' if trial.passed else f'failed: {trial.reason}'}"
