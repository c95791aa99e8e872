"""Saved dumps: dumps list, show, recover, decrypt."""

import argparse
import errno
import logging
import os
from typing import TYPE_CHECKING

from kdump_initramfs.commands import common, paths
from kdump_initramfs.config import Config, PathTarget, RawTarget
from kdump_initramfs.host.root import Root

if TYPE_CHECKING:
    from kdump_initramfs.dumps.store import Dump

logger = logging.getLogger(__name__)


def add_verbs(verbs: "common.Verbs") -> None:
    dumps = verbs.add_parser("dumps", help="list, show, recover and decrypt saved dumps", allow_abbrev=False)
    inner = dumps.add_subparsers(metavar="ACTION", required=True, prog=f"{common.PROGRAM} dumps")
    listing = common.add(inner, "list", _list, "list the saved dumps, oldest first", json=True)
    show = common.add(inner, "show", _show, "show one dump", json=True)
    show.add_argument("name", metavar="NAME", nargs="?", default="", help="which (default: the newest)")
    show.add_argument("--lines", metavar="N", type=int, default=10, help="last lines of the log (default: 10)")
    recover = common.add(inner, "recover", _recover, "make dump directories of raw targets", json=True)
    recover.add_argument("device", metavar="DEVICE", nargs="*", help="where from (default: the raw targets)")
    recover.add_argument("--to", metavar="DIR", default="", help="where to (default: the first directory target)")
    decrypt = common.add(inner, "decrypt", _decrypt, "decrypt the vmcore of a dump")
    decrypt.add_argument("name", metavar="NAME", nargs="?", default="", help="which (default: the newest)")
    decrypt.add_argument("--identity", metavar="FILE", required=True, help="the file with the secret key, for age")
    decrypt.add_argument("--to", metavar="DIR", default="", help="where to (default: beside the encrypted one)")
    for verb in (listing, show, decrypt):
        verb.add_argument("--dir", metavar="DIR", action="append", default=[], help="look here, not in the targets")


def _directories(args: argparse.Namespace) -> list[str]:
    if args.dir:
        return list(args.dir)
    root = Root(args.root)
    return [root.host(target.path) for target in common.config(args).targets if isinstance(target, PathTarget)]


def _chosen(args: argparse.Namespace) -> "Dump":
    """Return the dump that is named; a directory that is named and missing is an error here, and not an empty one."""
    from kdump_initramfs.dumps import store

    for directory in args.dir:
        paths.directory(directory, "--dir takes a directory with dumps in it")
    return store.choose(store.find(_directories(args)), args.name)


def _list(args: argparse.Namespace) -> int:
    from kdump_initramfs.dumps import store

    directories = _directories(args)
    found = store.find(directories)
    for directory in args.dir:
        if not os.path.exists(directory):
            logger.warning("%s: %s", directory, os.strerror(errno.ENOENT))
    if not found:
        logger.info("no dumps in %s", ", ".join(directories) or "any target: none is a directory")
    if args.json:
        common.print_json([{"name": dump.name, "path": dump.path, "complete": dump.is_complete} for dump in found])
        return 0
    for dump in found:
        state = "complete" if dump.is_complete else "INCOMPLETE"
        panic = dump.record.panic if dump.record else "no record"
        common.say([f"{dump.name}  {state:10}  {common.mib(dump.size_bytes):>10}  {panic}"])
    return 0


def _show(args: argparse.Namespace) -> int:
    dump = _chosen(args)
    if args.json:
        common.print_json(dump)
        return 0
    from kdump_initramfs.dumps import show

    common.say(show.lines(dump, tail=args.lines))
    return 0


def _recover(args: argparse.Namespace) -> int:
    from kdump_initramfs.dumps import recover
    from kdump_initramfs.host import block

    root, config = Root(args.root), common.config(args)
    raw = [block.path(root, target.device) for target in config.targets if isinstance(target, RawTarget)]
    directory = args.to or root.host(_first_directory(config))
    recovered = [recover.recover(device, directory) for device in args.device or raw]
    if args.json:
        common.print_json(recovered)
        return 0
    for each in recovered:
        common.say([f"{each.device}: {each.path or each.note}"])
    if not recovered:
        logger.info('no [[target]] of kind = "raw" is configured, and no device was named')
    return 0


def _decrypt(args: argparse.Namespace) -> int:
    from kdump_initramfs.dumps import decrypt

    dump = _chosen(args)
    common.say([decrypt.decrypt(dump, args.identity, args.to or dump.path)])
    return 0


def _first_directory(config: Config) -> str:
    """Return the first directory for dumps of the configuration, or the default one."""
    return next((target.path for target in config.targets if isinstance(target, PathTarget)), PathTarget().path)
