"""What the verbs share: options, the configuration that they name, and how sizes and JSON are printed."""

import argparse
import os
import re
import sys
from collections.abc import Callable, Iterable
from functools import cache
from typing import TYPE_CHECKING

from msgspec.structs import replace

from kdump_initramfs import config as configuration
from kdump_initramfs.config import Config
from kdump_initramfs.formats import plaintext
from kdump_initramfs.host.root import Root

PROGRAM = "kdump-initramfs"

# What runs a verb, and returns the exit status.
Command = Callable[[argparse.Namespace], int]
if TYPE_CHECKING:
    Verbs = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 - add_subparsers() returns just this

_MIB = 1 << 20
# Of a terminal that does not say.
_COLUMNS = 80


class HelpFormatter(argparse.HelpFormatter):
    """Knows the width of the terminal without shutil, which argparse asks for each option, and all its codecs."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_columns() - 2)


@cache
def _columns() -> int:
    """Return what shutil.get_terminal_size() does: COLUMNS, where it is a number of any, before the terminal."""
    wanted = os.environ.get("COLUMNS", "")
    if wanted.isdecimal() and int(wanted) > 0:
        return int(wanted)
    try:
        return os.get_terminal_size().columns or _COLUMNS
    except OSError:
        return _COLUMNS


def add(verbs: "Verbs", name: str, command: Command, text: str, *, json: bool = False) -> argparse.ArgumentParser:
    """Add a verb with the options that all of them have, and return its parser."""
    verb = verbs.add_parser(
        name,
        help=text,
        description=text[0].upper() + text[1:] + ".",
        allow_abbrev=False,
        formatter_class=HelpFormatter,
    )
    verb.set_defaults(command=command, checks_paths=True)
    common = verb.add_argument_group("common options")
    common.add_argument("--root", metavar="DIR", default="/", help="the machine: / or a directory tree (default: /)")
    common.add_argument("--config", metavar="FILE", help="read this file alone instead of the configured ones")
    common.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], dest="overrides", help="set one configuration key"
    )
    common.add_argument("-v", "--verbose", action="store_true", help="log every decision with its reason")
    common.add_argument("-q", "--quiet", action="store_true", help="log errors only")
    if json:
        common.add_argument("--json", action="store_true", help="print JSON")
    return verb


def add_kernel(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("kernel", metavar="KVER", nargs="?", default="", help="kernel release (default: the running one)")


def add_image(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--image", metavar="FILE", default="", help="the image (default: where build writes it)")


def config(args: argparse.Namespace) -> Config:
    """Return the configuration, for the kernel that the arguments name."""
    found = configuration.load(root=args.root, file=args.config, overrides=args.overrides)
    if not getattr(args, "kernel", ""):
        return found
    return replace(found, kernel=replace(found.kernel, version=args.kernel))


def image(root: Root, config: Config, named: str) -> str:
    """Return the path of the image that was named, or of the one that `build` writes for this kernel."""
    from kdump_initramfs.host import kernel

    if named:
        return os.path.abspath(named)
    release = config.kernel.version or kernel.running_release(root)
    return root.host(config.image.output.replace("{kernel}", release))


def print_json(value: object) -> None:
    print(re.sub(r"[^\n -~]", _json_escaped, plaintext.indented(value).decode()))


def _json_escaped(match: re.Match[str]) -> str:
    """Return a character as JSON may have it; of what a terminal obeys, encoders escape only what is ASCII."""
    if match[0].isprintable():
        return match[0]
    encoded = match[0].encode("utf-16-be").hex()
    return "".join(f"\\u{encoded[start : start + 4]}" for start in range(0, len(encoded), 4))


def say(lines: Iterable[str]) -> None:
    """Print lines for a person: nothing in them is obeyed by a terminal."""
    for line in lines:
        print(plaintext.shown(line))


def print_exactly(text: str) -> None:
    """Print what another program reads, every byte as it is; to a terminal as `say` does."""
    if sys.stdout.isatty():
        say(text.splitlines())
        return
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))


def mib(size_bytes: int) -> str:
    return f"{size_bytes / _MIB:.1f} MiB"
