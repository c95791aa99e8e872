"""Values of a union, as the kind that a test knows them to be."""

from typing import TypeVar

T = TypeVar("T")


def only(kind: type[T], value: object) -> T:
    """Return `value`, which must be of that kind."""
    assert isinstance(value, kind), value
    return value
