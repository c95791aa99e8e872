"""Where hooks/, templates/ and contrib/ are: inside the package when it was installed, beside it in a checkout."""

import os

_PACKAGE = os.path.dirname(os.path.abspath(__file__))


def directory(name: str) -> str:
    """Return the directory of the resources `name`: "hooks", "templates" or "contrib"."""
    installed = os.path.join(_PACKAGE, "data", name)
    return installed if os.path.isdir(installed) else os.path.join(os.path.dirname(_PACKAGE), name)


def read(name: str, file: str) -> str:
    """Return the text of one resource."""
    with open(os.path.join(directory(name), file), encoding="utf-8") as stream:
        return stream.read()
