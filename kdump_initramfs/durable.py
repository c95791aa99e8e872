"""What makes a change of a directory survive a power cut."""

import os


def sync_directory(directory: str) -> None:
    """Wait until the names in a directory are on the disk (fsync(2), on directories)."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
