"""Real kernels for tests: a directory of roots named by release, each with lib/modules as its package unpacks it."""

import os

import pytest

VARIABLE = "KDUMP_TEST_KERNELS"


def roots() -> dict[str, str]:
    """Return the roots by release, or skip the test."""
    place = os.environ.get(VARIABLE, "")
    if not os.path.isdir(place):
        pytest.skip(f"{VARIABLE} names no directory of unpacked kernels")
    found = {release: os.path.join(place, release) for release in sorted(os.listdir(place))}
    return {release: root for release, root in found.items() if os.path.isdir(f"{root}/lib/modules/{release}")}
