"""The search for the least crashkernel= that passes: a function in place of rehearsals, and what is remembered."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdump_initramfs.errors import ConfigError, RehearsalError
from kdump_initramfs.loader import minimum as keeping
from kdump_initramfs.rehearsal import minimum
from kdump_initramfs.rehearsal.minimum import Bounds, Trial
from kdump_initramfs.rehearsal.rehearse import Options


def needs(mib: int) -> Callable[[int], Trial]:
    """Return a machine that passes with that much and more."""
    return lambda size: Trial(mib=size, passed=size >= mib, reason="" if size >= mib else "no dump")


@given(st.integers(1, 400), st.integers(1, 64), st.integers(1, 300))
def test_what_is_found_passes_and_one_step_less_does_not(least: int, step: int, low: int) -> None:
    bounds = Bounds(low_mib=low, high_mib=low + 400, step_mib=step)
    found, trials = minimum.search(needs(least), bounds)
    assert found >= min(least, found)
    assert found >= low
    assert found - step < least or found - step < low
    assert (bounds.high_mib - found) % step == 0
    assert sum(trial.mib == found and trial.passed for trial in trials) == 2


def test_bisection_is_short() -> None:
    found, trials = minimum.search(needs(93), Bounds(low_mib=48, high_mib=192, step_mib=4))
    assert found == 96
    assert len(trials) <= 8


def test_what_is_known_is_not_tried_again() -> None:
    _, trials = minimum.search(needs(100), Bounds(low_mib=64, high_mib=192, step_mib=8))
    sizes = [trial.mib for trial in trials if not trial.passed]
    assert len(sizes) == len(set(sizes))


def test_size_that_passes_only_sometimes_is_not_the_minimum() -> None:
    seen: list[int] = []

    def probe(mib: int) -> Trial:
        seen.append(mib)
        return Trial(mib=mib, passed=mib > 96 or (mib == 96 and seen.count(96) == 1))

    found, _ = minimum.search(probe, Bounds(low_mib=64, high_mib=192, step_mib=8))
    assert found == 104


def test_where_even_the_most_fails_its_reason_is_the_error() -> None:
    with pytest.raises(RehearsalError, match=r"^crashkernel=192M: no dump$") as caught:
        minimum.search(needs(500), Bounds())
    assert "--high" in str(caught.value.hint)


def test_where_the_most_fails_at_its_second_time_nothing_is_found() -> None:
    tried: list[int] = []

    def probe(mib: int) -> Trial:
        tried.append(mib)
        return Trial(mib=mib, passed=len(tried) == 1)

    with pytest.raises(RehearsalError, match="only sometimes"):
        minimum.search(probe, Bounds(low_mib=64, high_mib=80, step_mib=8))


@pytest.mark.parametrize(("low", "high", "step"), [(0, 8, 1), (9, 8, 1), (8, 16, 0), (-8, 8, 8)])
def test_bounds_that_hold_nothing_are_refused(low: int, high: int, step: int) -> None:
    with pytest.raises(ConfigError, match="no range"):
        minimum.search(needs(1), Bounds(low_mib=low, high_mib=high, step_mib=step))


def test_single_size_is_tried_twice() -> None:
    assert minimum.search(needs(64), Bounds(low_mib=64, high_mib=64))[1] == (Trial(mib=64, passed=True),) * 2


def test_minimum_is_kept_for_just_that_image(tmp_path: Path) -> None:
    image = str(tmp_path / "crash.img")
    keeping.write(image, "a" * 64, mib=96, step_mib=8)
    kept = keeping.read(image, "a" * 64)
    assert kept is not None
    assert (kept.mib, kept.step_mib) == (96, 8)
    assert keeping.read(image, "b" * 64) is None
    assert Path(f"{image}.minimum.json").stat().st_mode & 0o777 == 0o600


def test_each_rehearsal_keeps_its_logs_apart_and_is_no_proof() -> None:
    options = Options(keep="/kept")
    first, second = options.with_crashkernel("96M", 1), options.with_crashkernel("96M", 2)
    assert (first.keep, second.keep) == ("/kept/1-96M", "/kept/2-96M")
    assert not first.is_proof
    assert Options().with_crashkernel("96M", 1).keep == ""


def test_summary_names_every_trial() -> None:
    trials = (Trial(mib=96, passed=True), Trial(mib=88, passed=False, reason="one dump was saved: nothing"))
    found = minimum.Minimum(image="/i", minimum_mib=96, step_mib=8, trials=trials)
    text = "\n".join(minimum.summary(found))
    assert "crashkernel=96M" in text
    assert "88 MiB  failed: one dump was saved" in text
