"""The command line: parses it, sets up the log, and turns errors into exit statuses.

stdout carries data, stderr the log. Exit status 0 done, 1 could not, 2 wrong usage; 3 and 4 as `status` documents.
"""

import argparse
import importlib
import io
import logging
import os
import sys
from collections.abc import Sequence

from kdump_initramfs import __version__
from kdump_initramfs.commands import paths
from kdump_initramfs.commands.common import PROGRAM, Command, HelpFormatter
from kdump_initramfs.errors import KdumpError, SeveralProblemsError
from kdump_initramfs.formats import plaintext

logger = logging.getLogger("kdump_initramfs")

# Modules of commands/ with their verbs, in the order of the help.
GROUPS = {
    "image": ("build", "plan", "probe", "inspect"),
    "arming": ("load", "emit", "unload", "status", "enable", "disable", "kernel-hook"),
    "rehearsal": ("rehearse",),
    "diagnosis": ("check", "estimate"),
    "dumps": ("dumps",),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand and return its exit status."""
    words = sys.argv[1:] if arguments is None else arguments
    # A locale that lacks a character of our own words is no reason to stop.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    parsed = parser(words[0] if words else "").parse_args(words)
    _set_up_log(logging.DEBUG if parsed.verbose else logging.ERROR if parsed.quiet else logging.INFO)
    command: Command = parsed.command
    try:
        if parsed.checks_paths:
            paths.check(parsed)
        status = command(parsed)
        sys.stdout.flush()
    except KdumpError as error:
        _report(error)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output has enough of it.
        _abandon_stdout()
        return 1
    except OSError as error:
        _report(KdumpError(f"{error.filename or 'standard output'}: {error.strerror}"))
        _abandon_stdout()
        return 1
    return status


def _abandon_stdout() -> None:
    """See to it that nothing more is written at exit (as the documentation of Python's signal does it)."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _report(error: KdumpError) -> None:
    for one in error.errors if isinstance(error, SeveralProblemsError) else (error,):
        logger.error("%s", one, exc_info=one.__cause__ if logger.isEnabledFor(logging.DEBUG) else None)
        if one.hint:
            logger.error("  hint: %s", one.hint)


class _Formatter(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging calls it so
        """Return the one line of a message, in which nothing is obeyed by a terminal."""
        return plaintext.shown(super().formatMessage(record))


def _set_up_log(level: int) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(f"{PROGRAM}: %(message)s"))
    logger.handlers[:] = [handler]
    logger.propagate = False
    logger.setLevel(level)


def parser(verb: str = "") -> argparse.ArgumentParser:
    """Return the parser of the whole command line, or one that knows little more than that verb and is made faster."""
    top = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Builds, arms and proves the initramfs that saves a kernel crash dump.",
        allow_abbrev=False,
        formatter_class=HelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    # Told what it is, argparse formats no usage (with shutil, and all its codecs) to find out.
    verbs = top.add_subparsers(metavar="COMMAND", required=True, prog=PROGRAM)
    wanted = [group for group, names in GROUPS.items() if verb in names]
    for group in wanted or GROUPS:
        importlib.import_module(f"kdump_initramfs.commands.{group}").add_verbs(verbs)
    return top
