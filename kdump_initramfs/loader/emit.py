"""The load command as a file for an init system that is to run it at boot."""

import shlex

from kdump_initramfs.loader.kexec import Command

_LOCAL_D = """\
#!/bin/sh
# /etc/local.d/kdump.start: loads the capture kernel, which runs when this one panics.
# Written by `kdump-initramfs emit local.d` for kernel {release}; write it again after a new kernel or a new image.
# The kernel and the image must be readable at that moment: mount /boot, or copy them to a place that is mounted.
{command}
"""


def local_d(command: Command) -> str:
    """Return the script for OpenRC's local service (/etc/local.d/*.start), which needs mode u+x."""
    words = " \\\n      ".join(shlex.quote(word) for word in command.words)
    return _LOCAL_D.format(release=command.record.manifest.kernel.release, command=words)
