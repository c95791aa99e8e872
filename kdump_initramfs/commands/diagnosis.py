"""What is wrong, and how much to reserve: check, estimate."""

import argparse

from kdump_initramfs.commands import common
from kdump_initramfs.config import Config
from kdump_initramfs.host.root import Root
from kdump_initramfs.model import Plan


def add_verbs(verbs: "common.Verbs") -> None:
    check = common.add(verbs, "check", _check, "tell what is wrong with this machine, and what mends it", json=True)
    text = "tell the crashkernel= of this machine, and where it goes"
    estimate = common.add(verbs, "estimate", _estimate, text, json=True)
    for verb in (check, estimate):
        common.add_kernel(verb)
        common.add_image(verb)


def _check(args: argparse.Namespace) -> int:
    from kdump_initramfs.check import diagnosis, show

    root, config = Root(args.root), common.config(args)
    report = diagnosis.read(root, config, common.image(root, config, args.image))
    if args.json:
        common.print_json(report)
    else:
        common.say(show.lines(report, everything=args.verbose))
    return report.exit_code


def _estimate(args: argparse.Namespace) -> int:
    from kdump_initramfs.loader import bootloader, needs, sizing

    root, config = Root(args.root), common.config(args)
    found = needs.estimate(root, config, common.image(root, config, args.image), lambda: _plan(root, config))
    if args.json:
        common.print_json(found)
    else:
        common.say(sizing.lines(found))
        common.say(str(bootloader.edit(root, found.plain)).splitlines())
    return 0


def _plan(root: Root, config: Config) -> Plan:
    """Return what a build would put into an image, which is asked for where there is none."""
    from kdump_initramfs import build

    return build.plan(root, config)
