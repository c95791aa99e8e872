"""The rehearsal, in a guest or on this machine."""

import argparse
import os
from typing import TYPE_CHECKING

from kdump_initramfs.commands import common
from kdump_initramfs.config import Config
from kdump_initramfs.errors import ConfigError
from kdump_initramfs.host.root import Root

if TYPE_CHECKING:
    from kdump_initramfs.rehearsal.rehearse import Options


def add_verbs(verbs: "common.Verbs") -> None:
    verb = common.add(verbs, "rehearse", _rehearse, "crash a kernel in QEMU and check the dump it leaves", json=True)
    common.add_kernel(verb)
    common.add_image(verb)
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


def _rehearse(args: argparse.Namespace) -> int:
    if args.live:
        _crash(args)
    from kdump_initramfs.rehearsal import rehearse as rehearsing

    root, config = Root(args.root), common.config(args)
    options = rehearsing.Options(
        accel=args.accel,
        memory_mib=args.memory,
        crashkernel=args.crashkernel,
        timeout_s=args.timeout,
        keep=os.path.abspath(args.keep) if args.keep else "",
    )
    image = common.image(root, config, args.image)
    if args.find_minimum:
        return _find_minimum(args, root, config, image, options)
    result = rehearsing.rehearse(root, config, image, options)
    if args.json:
        common.print_json(result)
    else:
        common.say(rehearsing.summary(result))
    return 0 if result.passed else 1


def _crash(args: argparse.Namespace) -> None:
    """Crash this machine; comes back only with an error."""
    from kdump_initramfs.rehearsal import live

    others = {"KVER": args.kernel, "--image": args.image, "--keep": args.keep, "--find-minimum": args.find_minimum}
    if given := [word for word, value in others.items() if value]:
        raise ConfigError(
            f"--live: crashes this machine with what is loaded, and {given[0]} is for a guest", hint="leave one out"
        )
    live.crash(Root(args.root), common.config(args), force=args.force, confirm=live.ask)


def _find_minimum(args: argparse.Namespace, root: Root, config: Config, image: str, options: "Options") -> int:
    from kdump_initramfs.rehearsal import minimum

    bounds = minimum.Bounds(low_mib=args.low, high_mib=args.high, step_mib=args.step)
    found = minimum.find(root, config, image, options, bounds)
    if args.json:
        common.print_json(found)
    else:
        common.say(minimum.summary(found))
    return 0
