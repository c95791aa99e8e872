"""The command line: parses it, sets up the log, and turns errors into exit statuses.

stdout carries data, stderr the log. Exit status 0 done, 1 could not, 2 wrong usage; 3 and 4 as `status` documents.
"""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from kdump_initramfs import __version__, commands
from kdump_initramfs.errors import KdumpError, SeveralProblemsError

logger = logging.getLogger("kdump_initramfs")

_PROGRAM = "kdump-initramfs"

_Command = Callable[[argparse.Namespace], int]
_Adder = Callable[["_Verbs"], None]
if TYPE_CHECKING:
    _Verbs = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 - add_subparsers() returns just this


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand and return its exit status."""
    words = sys.argv[1:] if arguments is None else arguments
    parsed = parser(words[0] if words else "").parse_args(words)
    _set_up_log(logging.DEBUG if parsed.verbose else logging.ERROR if parsed.quiet else logging.INFO)
    command: _Command = parsed.command
    try:
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


def _set_up_log(level: int) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(f"{_PROGRAM}: %(message)s"))
    logger.handlers[:] = [handler]
    logger.propagate = False
    logger.setLevel(level)


def parser(verb: str = "") -> argparse.ArgumentParser:
    """Return the parser of the whole command line, or one that knows little more than that verb and is made faster."""
    top = argparse.ArgumentParser(
        prog=_PROGRAM,
        description="Builds, arms and proves the initramfs that saves a kernel crash dump.",
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"{_PROGRAM} {__version__}")
    # Told what it is, argparse formats no usage (with shutil, and all its codecs) to find out.
    verbs = top.add_subparsers(metavar="COMMAND", required=True, prog=_PROGRAM)
    groups: dict[_Adder, tuple[str, ...]] = {
        _add_image_verbs: ("build", "plan", "probe", "inspect"),
        _add_loader_verbs: ("load", "emit", "unload", "status"),
        _add_boot_verbs: ("enable", "disable", "kernel-hook"),
        _add_rehearse: ("rehearse",),
        _add_diagnosis: ("check", "estimate"),
        _add_dumps: ("dumps",),
    }
    wanted = [add for add, names in groups.items() if verb in names]
    for add in wanted or groups:
        add(verbs)
    return top


def _add(verbs: "_Verbs", name: str, command: _Command, text: str, *, json: bool = False) -> argparse.ArgumentParser:
    verb = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False)
    verb.set_defaults(command=command)
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


def _add_kernel(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("kernel", metavar="KVER", nargs="?", default="", help="kernel release (default: the running one)")


def _add_facts(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--facts", metavar="FILE", help="storage and name of the machine that wrote FILE by `probe --json`"
    )


def _add_image_verbs(verbs: "_Verbs") -> None:
    build = _add(verbs, "build", commands.build, "build the capture image", json=True)
    build.add_argument("-o", "--output", metavar="FILE", default="", help="where to write it")
    plan = _add(verbs, "plan", commands.plan, "show what would be built, writing nothing", json=True)
    probe = _add(verbs, "probe", commands.probe, "show what was found on this machine", json=True)
    for verb in (build, plan, probe):
        _add_kernel(verb)
        _add_facts(verb)
    inspect = _add(verbs, "inspect", commands.inspect, "look into an image")
    inspect.add_argument("image", metavar="IMAGE")
    inspect.add_argument("path", metavar="PATH", nargs="?", help="print this file of the image")
    way = inspect.add_mutually_exclusive_group()
    way.add_argument("--manifest", action="store_true", help="print the manifest inside")
    way.add_argument("--diff", metavar="OTHER", help="compare with another image")
    way.add_argument("--extract", metavar="DIR", help="unpack it into a new directory")


def _add_loader_verbs(verbs: "_Verbs") -> None:
    load = _add(verbs, "load", commands.load, "arm this machine with a built image")
    load.add_argument(
        "--print", action="store_true", dest="print_only", help="print the kexec command and load nothing"
    )
    load.add_argument("--rebuild", action="store_true", help="build the image before, where it is missing or stale")
    emit = _add(verbs, "emit", commands.emit, "print the kexec command as a file for an init system")
    emit.add_argument("form", choices=["local.d", "openrc", "systemd", "sh"], help="for which it is")
    for verb in (load, emit):
        _add_kernel(verb)
        verb.add_argument("--image", metavar="FILE", default="", help="the image (default: where build writes it)")
    _add(verbs, "unload", commands.unload, "disarm this machine")
    _add(verbs, "status", commands.status, "tell whether this machine is armed, and with what", json=True)


def _add_boot_verbs(verbs: "_Verbs") -> None:
    _add(verbs, "enable", commands.enable, "arm this machine at each boot, and follow its kernels")
    _add(verbs, "disable", commands.disable, "undo what enable did")
    hook = _add(
        verbs, "kernel-hook", commands.kernel_hook, "build or remove the image of a kernel; for package managers"
    )
    hook.add_argument("action", choices=["add", "remove"])
    hook.add_argument("kernel_version", metavar="KVER", help="kernel release; -: those of the paths on stdin")
    hook.add_argument("kernel_image", metavar="IMAGE", nargs="?", default="", help="its bootable image")


def _add_rehearse(verbs: "_Verbs") -> None:
    verb = _add(verbs, "rehearse", commands.rehearse, "crash a kernel in QEMU and check the dump it leaves", json=True)
    _add_kernel(verb)
    verb.add_argument("--image", metavar="FILE", default="", help="the image (default: where build writes it)")
    verb.add_argument("--accel", choices=["auto", "kvm", "tcg"], default="auto", help="how QEMU runs the guest")
    verb.add_argument("--memory", metavar="MIB", type=int, default=1024, help="memory of the guest (default: 1024)")
    verb.add_argument("--crashkernel", metavar="SIZE", default="192M", help="crashkernel= of the guest (default: 192M)")
    verb.add_argument("--timeout", metavar="S", type=int, default=300, help="for each boot (default: 300)")
    verb.add_argument("--keep", metavar="DIR", default="", help="keep the dump and the logs in this directory")
    live = verb.add_argument_group("a crash of this machine itself, in place of a guest")
    live.add_argument("--live", action="store_true", help="crash this machine; `status` tells of it after the reboot")
    live.add_argument("--force", action="store_true", help="though somebody is logged in or something writes")
    least = verb.add_argument_group("the least crashkernel= that is enough")
    least.add_argument("--find-minimum", action="store_true", help="hold as many rehearsals as it takes to find it")
    least.add_argument("--low", metavar="MIB", type=int, default=48, help="do not look below (default: 48)")
    least.add_argument("--high", metavar="MIB", type=int, default=192, help="where to begin (default: 192)")
    least.add_argument("--step", metavar="MIB", type=int, default=8, help="how near to come to it (default: 8)")


def _add_diagnosis(verbs: "_Verbs") -> None:
    check = _add(verbs, "check", commands.check, "tell what is wrong with this machine, and what mends it", json=True)
    text = "tell the crashkernel= of this machine, and where it goes"
    estimate = _add(verbs, "estimate", commands.estimate, text, json=True)
    for verb in (check, estimate):
        _add_kernel(verb)
        verb.add_argument("--image", metavar="FILE", default="", help="the image (default: where build writes it)")


def _add_dumps(verbs: "_Verbs") -> None:
    dumps = verbs.add_parser("dumps", help="list, show, recover and decrypt saved dumps", allow_abbrev=False)
    inner = dumps.add_subparsers(metavar="ACTION", required=True, prog=f"{_PROGRAM} dumps")
    listing = _add(inner, "list", commands.dumps_list, "list the saved dumps, oldest first", json=True)
    show = _add(inner, "show", commands.dumps_show, "show one dump", json=True)
    show.add_argument("name", metavar="NAME", nargs="?", default="", help="which (default: the newest)")
    show.add_argument("--lines", metavar="N", type=int, default=10, help="last lines of the log (default: 10)")
    recover = _add(inner, "recover", commands.dumps_recover, "make dump directories of raw targets", json=True)
    recover.add_argument("device", metavar="DEVICE", nargs="*", help="where from (default: the raw targets)")
    recover.add_argument("--to", metavar="DIR", default="", help="where to (default: the first directory target)")
    decrypt = _add(inner, "decrypt", commands.dumps_decrypt, "decrypt the vmcore of a dump")
    decrypt.add_argument("name", metavar="NAME", nargs="?", default="", help="which (default: the newest)")
    decrypt.add_argument("--identity", metavar="FILE", required=True, help="the file with the secret key, for age")
    decrypt.add_argument("--to", metavar="DIR", default="", help="where to (default: beside the encrypted one)")
    for verb in (listing, show, decrypt):
        verb.add_argument("--dir", metavar="DIR", action="append", default=[], help="look here, not in the targets")
