"""The subcommands: each reads what the arguments name, calls one arrow of the one direction, and prints its noun.

What only one of them needs is imported in it: start-up is paid by every post-install hook and every `status`.
"""

import argparse
import logging
import os
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from kdump_initramfs import config as configuration
from kdump_initramfs.config import Config, PathTarget, RawTarget
from kdump_initramfs.errors import KdumpError, SeveralProblemsError
from kdump_initramfs.host.root import Root
from kdump_initramfs.model import HostFacts, TargetFacts

if TYPE_CHECKING:
    from kdump_initramfs.rehearsal.rehearse import Options

logger = logging.getLogger(__name__)

_MIB = 1 << 20


def _config(args: argparse.Namespace) -> Config:
    config = configuration.load(root=args.root, file=args.config, overrides=args.overrides)
    if not getattr(args, "kernel", ""):
        return config
    return replace(config, kernel=replace(config.kernel, version=args.kernel))


def _facts(args: argparse.Namespace) -> HostFacts | None:
    from kdump_initramfs.host import probe

    return probe.load_facts(args.facts) if args.facts else None


def _print_json(value: object) -> None:
    print(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def build(args: argparse.Namespace) -> int:
    from kdump_initramfs import build as spine

    output = os.path.abspath(args.output) if args.output else ""
    root, config = Root(args.root), _config(args)
    record = spine.build(root, config, output=output, facts_of=_facts(args))
    path = output or spine.output_path(root, config, record.manifest.kernel.release)
    logger.info("wrote %s: %s, %s unpacked", path, _mib(record.image_bytes), _mib(record.unpacked_bytes))
    if args.json:
        _print_json(record)
    return 0


def plan(args: argparse.Namespace) -> int:
    from kdump_initramfs import build as spine
    from kdump_initramfs.image import plan as planning

    planned = spine.plan(Root(args.root), _config(args), facts_of=_facts(args))
    if args.json:
        _print_json(planned)
    else:
        sys.stdout.write(planning.as_list(planned, reasons=args.verbose))
    for warning in planned.warnings:
        logger.warning("%s", warning)
    return 0


def probe(args: argparse.Namespace) -> int:
    from kdump_initramfs.host import probe as probing

    facts = probing.read(Root(args.root), _config(args), facts_of=_facts(args))
    if args.json:
        _print_json(facts)
    else:
        print("\n".join(_describe(facts)))
    return 0


def _describe(facts: HostFacts) -> list[str]:
    tools = facts.tools
    lines = [
        f"host       {facts.hostname} ({facts.machine})",
        f"kernel     {facts.kernel.release}, {facts.kernel.image}",
        f"reserved   {_mib(facts.reserved_bytes)} for the capture kernel",
        f"programs   {', '.join(path for path in (tools.busybox, tools.makedumpfile, tools.lvm) if path)}",
    ]
    for target in facts.targets:
        stack = " on ".join(f"{device.name} ({device.kind})" for device in target.stack)
        lines.append(f"target     {target.name}: {_describe_place(target)}, on {stack}")
    return lines


def _describe_place(target: TargetFacts) -> str:
    filesystem = target.filesystem
    if filesystem is None:
        return "without a file system"
    return f"{filesystem.type} {filesystem.uuid or filesystem.label or filesystem.tag}, /{target.directory}"


def inspect(args: argparse.Namespace) -> int:
    from kdump_initramfs.image import inspect as inspecting

    if args.manifest:
        _print_json(inspecting.manifest(args.image))
    elif args.diff:
        lines = list(inspecting.differences(args.image, args.diff))
        print("\n".join(lines) if lines else "no differences")
    elif args.extract:
        from kdump_initramfs.image import unpack

        unpack.unpack(args.image, args.extract)
    elif args.path:
        sys.stdout.buffer.write(inspecting.extract(args.image, args.path))
    else:
        for member in inspecting.members(args.image):
            print(inspecting.line(member))
    return 0


def load(args: argparse.Namespace) -> int:
    from kdump_initramfs.loader import kexec

    root, config = Root(args.root), _config(args)
    image = _image(root, config, args.image)
    if args.rebuild:
        from kdump_initramfs.loader import rearm

        rearm.rebuild(root, config, image)
    command = kexec.command(root, config, image)
    if args.print_only:
        print(command)
        return 0
    kexec.load(root, command)
    logger.info("armed: kernel %s with %s", command.record.manifest.kernel.release, command.image)
    _settle(root, config, image)
    return 0


def _settle(root: Root, config: Config, image: str) -> None:
    """Give the verdict on a rehearsal of the machine itself, if one waits for it."""
    from kdump_initramfs.loader import proof

    if os.path.exists(proof.attempt_path(image)):
        from kdump_initramfs.loader import attempt

        attempt.settle(root, config, image)


def _image(root: Root, config: Config, named: str) -> str:
    """Return the path of the image that was named, or of the one that `build` writes for this kernel."""
    from kdump_initramfs.host import kernel

    if named:
        return os.path.abspath(named)
    release = config.kernel.version or kernel.running_release(root)
    return root.host(config.image.output.replace("{kernel}", release))


def unload(args: argparse.Namespace) -> int:
    from kdump_initramfs.loader import kexec

    kexec.unload(Root(args.root), _config(args))
    logger.info("disarmed")
    return 0


def status(args: argparse.Namespace) -> int:
    from kdump_initramfs.loader import state
    from kdump_initramfs.loader import status as reading

    root, config = Root(args.root), _config(args)
    if (loaded := state.read(root)) is not None:
        _settle(root, config, loaded.image)
    found = reading.read(root, config)
    if args.json:
        _print_json(found)
    else:
        print("armed" if found.armed else f"not armed, {_mib(found.reserved_bytes)} reserved")
        if found.loaded is not None:
            print(f"with {found.loaded.image} for kernel {found.loaded.kernel_release}")
        for reason in found.stale:
            print(f"stale: {reason}")
        if found.proof is not None:
            verdict = "passed" if found.proof.passed else "FAILED"
            where = "of this machine itself" if found.proof.live else "in a guest"
            print(
                f"last rehearsal: {verdict} {where}, {datetime.fromtimestamp(found.proof.at, UTC):%Y-%m-%d %H:%M} UTC"
            )
    return found.exit_code


def check(args: argparse.Namespace) -> int:
    from kdump_initramfs.check import diagnosis, show

    root, config = Root(args.root), _config(args)
    report = diagnosis.read(root, config, _image(root, config, args.image))
    if args.json:
        _print_json(report)
    else:
        print("\n".join(show.lines(report, everything=args.verbose)))
    return report.exit_code


def estimate(args: argparse.Namespace) -> int:
    from kdump_initramfs import build as spine
    from kdump_initramfs.loader import bootloader, needs, sizing

    root, config = Root(args.root), _config(args)
    found = needs.estimate(root, config, _image(root, config, args.image), lambda: spine.plan(root, config))
    if args.json:
        _print_json(found)
    else:
        print("\n".join(sizing.lines(found)))
        print(bootloader.edit(root, found.plain))
    return 0


def emit(args: argparse.Namespace) -> int:
    from kdump_initramfs.loader import emit as emitting
    from kdump_initramfs.loader import kexec

    root, config = Root(args.root), _config(args)
    command = kexec.command(root, config, _image(root, config, args.image))
    sys.stdout.write(emitting.FORMS[args.form](command))
    return 0


def enable(args: argparse.Namespace) -> int:
    from kdump_initramfs.loader import enable as enabling

    root = Root(args.root)
    for path in (written := enabling.enable(root)):
        logger.info("wrote %s", path)
    logger.info("enabled%s", "" if written else ": everything was there already")
    return 0


def disable(args: argparse.Namespace) -> int:
    from kdump_initramfs.loader import enable as enabling

    for path in enabling.disable(Root(args.root)):
        logger.info("removed %s", path)
    logger.info("disabled; what is loaded now stays until the next boot, or `kdump-initramfs unload`")
    return 0


def kernel_hook(args: argparse.Namespace) -> int:
    """Build or remove for each kernel; whatever goes wrong is a warning, since no kernel's installation may fail."""
    from kdump_initramfs.loader import enable as enabling

    root = Root(args.root)
    if not enabling.is_wanted(root):
        logger.info("neither enabled nor configured here, so there is nothing to %s (see `enable`)", args.action)
        return 0
    from kdump_initramfs.loader import kernel_hook as following

    for release in following.releases_of(sys.stdin) if args.kernel_version == "-" else [args.kernel_version]:
        try:
            config = _config(args)
            if args.action == "add":
                following.add(root, config, release, args.kernel_image)
            else:
                following.remove(root, config, release)
        except (KdumpError, OSError) as error:
            _warn(args.action, release, error)
    return 0


def _warn(action: str, release: str, error: KdumpError | OSError) -> None:
    for one in error.errors if isinstance(error, SeveralProblemsError) else (error,):
        logger.warning("%s", one)
        if isinstance(one, KdumpError) and one.hint:
            logger.warning("  hint: %s", one.hint)
    done = (
        "no capture image was built; its own installation goes on"
        if action == "add"
        else "its capture image was not removed; its own removal goes on"
    )
    logger.warning("kernel %s: %s", release, done)


def rehearse(args: argparse.Namespace) -> int:
    from kdump_initramfs.rehearsal import rehearse as rehearsing

    root, config = Root(args.root), _config(args)
    if args.live:
        from kdump_initramfs.rehearsal import live

        live.crash(root, config, force=args.force, confirm=live.ask)
    options = rehearsing.Options(
        accel=args.accel,
        memory_mib=args.memory,
        crashkernel=args.crashkernel,
        timeout_s=args.timeout,
        keep=os.path.abspath(args.keep) if args.keep else "",
    )
    image = _image(root, config, args.image)
    if args.find_minimum:
        return _find_minimum(args, root, config, image, options)
    result = rehearsing.rehearse(root, config, image, options)
    if args.json:
        _print_json(result)
    else:
        print("\n".join(rehearsing.summary(result)))
    return 0 if result.passed else 1


def _find_minimum(args: argparse.Namespace, root: Root, config: Config, image: str, options: "Options") -> int:
    from kdump_initramfs.rehearsal import minimum

    bounds = minimum.Bounds(low_mib=args.low, high_mib=args.high, step_mib=args.step)
    found = minimum.find(root, config, image, options, bounds)
    if args.json:
        _print_json(found)
    else:
        print("\n".join(minimum.summary(found)))
    return 0


def _dump_directories(args: argparse.Namespace) -> list[str]:
    if args.dir:
        return list(args.dir)
    root = Root(args.root)
    return [root.host(target.path) for target in _config(args).targets if isinstance(target, PathTarget)]


def dumps_list(args: argparse.Namespace) -> int:
    from kdump_initramfs.dumps import show, store

    found = store.find(_dump_directories(args))
    if args.json:
        _print_json([{"name": dump.name, "path": dump.path, "complete": dump.is_complete} for dump in found])
        return 0
    for dump in found:
        state = "complete" if dump.is_complete else "INCOMPLETE"
        panic = dump.record.panic if dump.record else "no record"
        print(show.printable(f"{dump.name}  {state:10}  {_mib(dump.size_bytes):>10}  {panic}"))
    return 0


def dumps_show(args: argparse.Namespace) -> int:
    from kdump_initramfs.dumps import store

    dump = store.choose(store.find(_dump_directories(args)), args.name)
    if args.json:
        _print_json(dump)
        return 0
    from kdump_initramfs.dumps import show

    print("\n".join(show.lines(dump, tail=args.lines)))
    return 0


def dumps_recover(args: argparse.Namespace) -> int:
    from kdump_initramfs.dumps import recover
    from kdump_initramfs.host import block

    root, config = Root(args.root), _config(args)
    raw = [block.path(root, target.device) for target in config.targets if isinstance(target, RawTarget)]
    directory = args.to or root.host(_first_directory(config))
    recovered = [recover.recover(device, directory) for device in args.device or raw]
    if args.json:
        _print_json(recovered)
        return 0
    for each in recovered:
        print(f"{each.device}: {each.path or each.note}")
    if not recovered:
        logger.info('no [[target]] of kind = "raw" is configured, and no device was named')
    return 0


def dumps_decrypt(args: argparse.Namespace) -> int:
    from kdump_initramfs.dumps import decrypt, store

    dump = store.choose(store.find(_dump_directories(args)), args.name)
    print(decrypt.decrypt(dump, args.identity, args.to or dump.path))
    return 0


def _first_directory(config: Config) -> str:
    """Return the first directory for dumps of the configuration, or the default one."""
    return next((target.path for target in config.targets if isinstance(target, PathTarget)), PathTarget().path)


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / _MIB:.1f} MiB"
