"""The load command as a file for an init system that is to run it at boot."""

import shlex
from collections.abc import Sequence

from kdump_initramfs.loader import volume_keys
from kdump_initramfs.loader.kexec import Command

_LOCAL_D = """\
#!/bin/sh
# /etc/local.d/kdump.start: loads the capture kernel, which runs when this one panics.
# Written by `kdump-initramfs emit local.d` for kernel {release}; write it again after a new kernel or a new image.
# The kernel and the image must be readable at that moment. A kernel on a file system with noauto in /etc/fstab has been
# copied beside the image when that was built.
{command}
"""

# The command in it needs the keys registered, and is no longer the last.
_WITH_KEYS = """\
{register}
status=0
{command} || status=$?
{unregister}
exit $status"""


def local_d(command: Command) -> str:
    """Return the script for OpenRC's local service (/etc/local.d/*.start), which needs mode u+x."""
    words = " \\\n      ".join(shlex.quote(word) for word in command.words)
    keys = command.record.manifest.volume_keys
    return _LOCAL_D.format(
        release=command.record.manifest.kernel.release, command=_with_keys(words, keys) if keys else words
    )


def _with_keys(command: str, keys: Sequence[str]) -> str:
    """Return the command between what registers the volume keys and what takes that back (loader/volume_keys.py)."""
    items = [(volume_keys.item(number), shlex.quote(key)) for number, key in enumerate(keys)]
    return _WITH_KEYS.format(
        register="\n".join(f"mkdir {place}\necho {key} >{place}/description" for place, key in items),
        command=command,
        unregister="\n".join(f"rmdir {place}" for place, _ in items),
    )
