"""The paths of a command line, looked at before anything is done with them: a wrong one is named, with what it is.

What only its reader can tell (whether a file is an image) is not asked here; nor is what may rightly be missing.
"""

import argparse
import os
import stat
from collections.abc import Callable, Iterator

from kdump_initramfs.errors import HostError, KdumpError, raise_together

_Test = Callable[[int], bool]
_KINDS: tuple[tuple[_Test, str], ...] = (
    (stat.S_ISREG, "a file"),
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a character device"),
    (stat.S_ISBLK, "a block device"),
)


def directory(path: str, hint: str) -> None:
    """Raise HostError unless there is a directory that may be entered."""
    _check(path, "a directory", stat.S_ISDIR, hint, inside="/.")


def file(path: str, hint: str) -> None:
    """Raise HostError unless this is a file with something in it; opening a pipe would wait for ever."""
    found = _check(path, "a file", stat.S_ISREG, hint)
    if found.st_size == 0:
        raise HostError(f"{path}: is empty", hint=hint)


def image(path: str, hint: str) -> None:
    """Raise HostError where there is something that can be no image; whoever needs it says that it is not there."""
    if _is_there(path):
        file(path, hint)


def output(path: str, hint: str) -> None:
    """Raise HostError where there is something else than a file: it would be replaced."""
    if _is_there(path) and os.path.isdir(os.path.dirname(os.path.abspath(path))):
        _check(path, "a file", stat.S_ISREG, hint)


def new_directory(path: str, hint: str) -> None:
    """Raise HostError where there is something else than a directory."""
    if os.path.lexists(path):
        _check(path, "a directory", stat.S_ISDIR, hint)


def device(path: str, hint: str) -> None:
    """Raise HostError unless this is a block device, or a copy of one in a file."""
    _check(path, "a block device", lambda mode: stat.S_ISBLK(mode) or stat.S_ISREG(mode), hint)


def _is_there(path: str) -> bool:
    """Whether there is something, be it a loop of links; a link to nothing is nothing."""
    try:
        os.stat(path)
    except OSError as error:
        return not isinstance(error, FileNotFoundError)
    return True


def _check(path: str, wanted: str, is_wanted: _Test, hint: str, *, inside: str = "") -> os.stat_result:
    shown = path or "''"
    try:
        found = os.stat(path)
        if not is_wanted(found.st_mode):
            raise HostError(f"{shown}: {_kind(found.st_mode)}, not {wanted}", hint=hint)
        return os.stat(path + inside)
    except ValueError as error:
        raise HostError(f"{path!r}: {error}", hint=hint) from error
    except OSError as error:
        raise HostError(f"{shown}: {error.strerror}", hint=hint) from error


def _kind(mode: int) -> str:
    return next((name for test, name in _KINDS if test(mode)), "something else")


# Each option with a path that is given as it is, by its name in the parsed arguments.
_OPTIONS: dict[str, tuple[Callable[[str, str], None], str]] = {
    "root": (directory, "--root takes the directory of a machine"),
    "facts": (file, "name a file that `probe --json` wrote"),
    "dir": (new_directory, "--dir takes a directory with dumps in it"),
    "to": (directory, "--to takes an existing directory"),
    "identity": (file, "name the file with the secret key, as age-keygen wrote it"),
    "device": (device, "name a partition that was a raw target, or a copy of one"),
    "output": (output, "--output takes the name of a file"),
    "image": (image, "name an image that `kdump-initramfs build` wrote"),
    "diff": (file, "name another image"),
    "extract": (new_directory, "--extract takes the name of a new directory"),
    "keep": (new_directory, "--keep takes the name of a new directory"),
}


def check(args: argparse.Namespace) -> None:
    """Raise what is wrong with the paths among the arguments, all together."""
    raise_together(list(_problems(args)))


def _problems(args: argparse.Namespace) -> Iterator[KdumpError]:
    for name, (look, hint) in _OPTIONS.items():
        given = getattr(args, name, None)
        for path in given if isinstance(given, list) else [given] if given or (name == "root" and given == "") else []:
            try:
                look(path, hint)
            except KdumpError as error:
                yield error
