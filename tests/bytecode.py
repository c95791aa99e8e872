"""Python's bytecode, for what measures the tool from a checkout."""

import os


def keep(directory: str) -> None:
    """Have all Python that is run from now on keep its bytecode below a directory, as an installed package has it.

    Without, as in containers with PYTHONDONTWRITEBYTECODE, a third of a run is the compilation of the source.
    """
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = directory
