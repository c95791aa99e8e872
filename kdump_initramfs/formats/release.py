"""The release of a kernel (`uname -r`), as far as it can be compared."""

import re

_NUMBERS = re.compile(r"([0-9]{1,4})\.([0-9]{1,4})(?![0-9])", re.ASCII)


def version(release: str) -> tuple[int, int]:
    """Return the first two numbers of a kernel release; (0, 0) where it does not begin with them."""
    match = _NUMBERS.match(release)
    return (int(match[1]), int(match[2])) if match else (0, 0)
