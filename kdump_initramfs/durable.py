"""What makes a change survive a power cut."""

import os


def sync_directory(directory: str) -> None:
    """Wait until the names in a directory are on the disk (fsync(2), on directories)."""
    _sync(directory, os.O_DIRECTORY)


def sync_file(path: str) -> None:
    """Wait until the content of a file is on the disk."""
    _sync(path, 0)


def _sync(path: str, flags: int) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
