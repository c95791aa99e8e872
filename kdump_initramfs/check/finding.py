"""One thing that was looked at, and all of them together; the JSON of `check` is this, and extended only."""

from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import TypeVar

from msgspec import Struct

from kdump_initramfs.errors import KdumpError, SeveralProblemsError
from kdump_initramfs.model import SCHEMA

_Value = TypeVar("_Value")


class State(StrEnum):
    OK = "ok"
    # A dump is saved, but not of every crash, or it is of less use.
    WEAK = "weak"
    # Not armed, or no dump would be saved.
    BROKEN = "broken"
    # It cannot be told from here; counts for nothing in the exit status.
    UNKNOWN = "unknown"


class Finding(Struct, frozen=True, kw_only=True):
    # What was looked at: stable, for who compares machines.
    name: str
    state: State
    # What was seen.
    seen: str
    # Why it matters.
    why: str
    # The one thing to do; "" where nothing is to be done.
    remedy: str = ""


class Report(Struct, frozen=True, kw_only=True):
    schema: int = SCHEMA
    hostname: str
    kernel_release: str
    # The worst of all findings that can be told.
    state: State
    findings: tuple[Finding, ...]

    @property
    def exit_code(self) -> int:
        return {State.BROKEN: 4, State.WEAK: 3}.get(self.state, 0)


def report(hostname: str, release: str, findings: Iterable[Finding]) -> Report:
    found = tuple(findings)
    states = {finding.state for finding in found}
    worst = next((state for state in (State.BROKEN, State.WEAK) if state in states), State.OK)
    return Report(hostname=hostname, kernel_release=release, state=worst, findings=found)


def attempt(name: str, why: str, read: Callable[[], _Value]) -> tuple[_Value | None, tuple[Finding, ...]]:
    """Return what `read` returns, or what its errors are as findings: what may not be read is not broken by that."""
    try:
        return read(), ()
    except KdumpError as error:
        errors = error.errors if isinstance(error, SeveralProblemsError) else (error,)
        return None, tuple(of_error(name, why, one) for one in errors)


def of_error(name: str, why: str, error: KdumpError) -> Finding:
    """Return an error as a finding."""
    is_hidden = isinstance(error.__cause__, PermissionError)
    return Finding(
        name=name,
        state=State.UNKNOWN if is_hidden else State.BROKEN,
        seen=str(error),
        why=why,
        remedy="run as root" if is_hidden else error.hint or "",
    )
