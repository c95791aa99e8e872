"""The one place where the tool runs a program: lists of words, no shell, a small fixed environment."""

import logging
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from kdump_initramfs.errors import HostError

if TYPE_CHECKING:
    import subprocess

logger = logging.getLogger(__name__)

_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}


def run(words: Sequence[str], *, timeout_s: float = 60) -> "subprocess.CompletedProcess[str]":
    """Run a program to its end, whatever its exit status, and return what it said.

    Raises HostError where it cannot be started or does not end in time.
    """
    import subprocess  # noqa: PLC0415 - most of what we are asked is answered without another program

    logger.debug("running %s", shlex.join(words))
    try:
        return subprocess.run(
            list(words),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            env=_ENVIRONMENT,
            cwd="/",
            timeout=timeout_s,
            check=False,
        )
    except FileNotFoundError as error:
        raise HostError(f"{words[0]}: no such program", hint="install the package that has it") from error
    except OSError as error:
        raise HostError(f"{words[0]}: {error.strerror}", hint="it must be an executable program") from error
    except subprocess.TimeoutExpired as error:
        raise HostError(
            f"{words[0]}: no end after {timeout_s:g} s", hint=f"run it by hand: {shlex.join(words)}"
        ) from error
