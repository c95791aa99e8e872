"""Programs that some tests need beside Python."""

import os
import shutil

import pytest


def need(*names: str) -> None:
    """Skip the test where one of the programs is missing; in CI, where it must be there, fail."""
    missing = [name for name in names if shutil.which(name) is None]
    if missing and os.environ.get("CI"):
        pytest.fail(f"not installed: {', '.join(missing)}")
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
