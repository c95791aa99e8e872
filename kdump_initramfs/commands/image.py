"""Images: build, plan, probe, inspect."""

import argparse
import logging
import os
import sys
from collections.abc import Iterator
from typing import assert_never

from kdump_initramfs.commands import common
from kdump_initramfs.host.root import Root
from kdump_initramfs.model import HostFacts
from kdump_initramfs.storage import DeviceTarget, DirectoryTarget, ShareTarget, TargetFacts, UnknownDevice, stack_of

logger = logging.getLogger(__name__)


def add_verbs(verbs: "common.Verbs") -> None:
    build = common.add(verbs, "build", _build, "build the capture image", json=True)
    build.add_argument("-o", "--output", metavar="FILE", default="", help="where to write it")
    plan = common.add(verbs, "plan", _plan, "show what would be built, writing nothing", json=True)
    probe = common.add(verbs, "probe", _probe, "show what was found on this machine", json=True)
    for verb in (build, plan, probe):
        common.add_kernel(verb)
        _add_facts(verb)
    inspect = common.add(verbs, "inspect", _inspect, "look into an image")
    inspect.add_argument("image", metavar="IMAGE")
    inspect.add_argument("path", metavar="PATH", nargs="?", help="print this file of the image")
    way = inspect.add_mutually_exclusive_group()
    way.add_argument("--manifest", action="store_true", help="print the manifest inside")
    way.add_argument("--diff", metavar="OTHER", help="compare with another image")
    way.add_argument("--extract", metavar="DIR", help="unpack it into a new directory")


def _add_facts(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--facts", metavar="FILE", help="storage and name of the machine that wrote FILE by `probe --json`"
    )


def _facts(args: argparse.Namespace) -> HostFacts | None:
    from kdump_initramfs.host import probe

    return probe.load_facts(args.facts) if args.facts else None


def _build(args: argparse.Namespace) -> int:
    from kdump_initramfs import build as spine

    output = os.path.abspath(args.output) if args.output else ""
    root, config = Root(args.root), common.config(args)
    record = spine.build(root, config, output=output, facts_of=_facts(args))
    path = output or spine.output_path(root, config, record.manifest.kernel.release)
    logger.info("wrote %s: %s, %s unpacked", path, common.mib(record.image_bytes), common.mib(record.unpacked_bytes))
    if args.json:
        common.print_json(record)
    return 0


def _plan(args: argparse.Namespace) -> int:
    from kdump_initramfs import build as spine
    from kdump_initramfs.image import plan as planning

    planned = spine.plan(Root(args.root), common.config(args), facts_of=_facts(args))
    if args.json:
        common.print_json(planned)
    else:
        sys.stdout.write(planning.as_list(planned, reasons=args.verbose))
    for warning in planned.warnings:
        logger.warning("%s", warning)
    return 0


def _probe(args: argparse.Namespace) -> int:
    from kdump_initramfs.errors import raise_together
    from kdump_initramfs.host import probe as probing
    from kdump_initramfs.image import recognition

    root, config = Root(args.root), common.config(args)
    facts = probing.read(root, config, facts_of=_facts(args))
    if args.json:
        common.print_json(facts)
    else:
        common.say(_describe(facts))
    # What was found is for a bug report, whether it can be built for or not.
    raise_together(recognition.refusals(root, config, facts))
    return 0


def _describe(facts: HostFacts) -> list[str]:
    tools = facts.tools
    lines = [
        f"host       {facts.hostname} ({facts.machine})",
        f"kernel     {facts.kernel.release}, {facts.kernel.image}",
        f"reserved   {common.mib(facts.reserved_bytes)} for the capture kernel",
        f"programs   {', '.join(path for path in (tools.busybox, tools.makedumpfile, tools.lvm) if path)}",
    ]
    return [*lines, *map(_describe_target, facts.targets)]


def _describe_target(target: TargetFacts) -> str:
    return f"target     {target.name}: {' on '.join((_describe_place(target), *_describe_stack(target)))}"


def _describe_place(target: TargetFacts) -> str:
    match target:
        case DeviceTarget():
            return "without a file system,"
        case DirectoryTarget(filesystem=filesystem):
            return f"{filesystem.type} {filesystem.uuid or filesystem.label}, /{target.directory},"
        case ShareTarget():
            return f"{target.fs_type} {target.tag}, /{target.directory}"
        case _:
            assert_never(target)


def _describe_stack(target: TargetFacts) -> Iterator[str]:
    for device in stack_of(target):
        kind = f"unknown: {device.seems}" if isinstance(device, UnknownDevice) else device.kind
        yield f"{device.name} ({kind})"


def _inspect(args: argparse.Namespace) -> int:
    from kdump_initramfs.image import inspect as inspecting

    if args.manifest:
        common.print_json(inspecting.manifest(args.image))
    elif args.diff:
        common.say(list(inspecting.differences(args.image, args.diff)) or ["no differences"])
    elif args.extract:
        from kdump_initramfs.image import unpack

        unpack.unpack(args.image, args.extract)
    elif args.path:
        sys.stdout.buffer.write(inspecting.extract(args.image, args.path))
    else:
        common.say(inspecting.line(member) for member in inspecting.members(args.image))
    return 0
