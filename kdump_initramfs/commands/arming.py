"""Arming: load, emit, unload, status, enable, disable, kernel-hook."""

import argparse
import logging
import os
import sys

from kdump_initramfs.commands import common, paths
from kdump_initramfs.config import Config
from kdump_initramfs.errors import KdumpError, SeveralProblemsError
from kdump_initramfs.host.root import Root

logger = logging.getLogger(__name__)


def add_verbs(verbs: "common.Verbs") -> None:
    load = common.add(verbs, "load", _load, "arm this machine with a built image")
    load.add_argument(
        "--print", action="store_true", dest="print_only", help="print the kexec command and load nothing"
    )
    load.add_argument("--rebuild", action="store_true", help="build the image before, where it is missing or stale")
    emit = common.add(verbs, "emit", _emit, "print the kexec command as a file for an init system")
    emit.add_argument("form", choices=["local.d", "openrc", "systemd", "sh"], help="for which it is")
    for verb in (load, emit):
        common.add_kernel(verb)
        common.add_image(verb)
    common.add(verbs, "unload", _unload, "disarm this machine")
    common.add(verbs, "status", _status, "tell whether this machine is armed, and with what", json=True)
    _add_boot_verbs(verbs)


def _add_boot_verbs(verbs: "common.Verbs") -> None:
    common.add(verbs, "enable", _enable, "arm this machine at each boot, and follow its kernels and its hot plugging")
    common.add(verbs, "disable", _disable, "undo what enable did")
    hook = common.add(verbs, "kernel-hook", _kernel_hook, "build or remove the image of a kernel; for package managers")
    # What is wrong with a path must be a warning there, too.
    hook.set_defaults(checks_paths=False)
    hook.add_argument("action", choices=["add", "remove"])
    hook.add_argument("kernel_version", metavar="KVER", help="kernel release; -: those of the paths on stdin")
    hook.add_argument("paths", metavar="PATH", nargs="*", help="add: its bootable image; remove: what goes with it")


def _load(args: argparse.Namespace) -> int:
    from kdump_initramfs.loader import kexec

    root, config = Root(args.root), common.config(args)
    image = common.image(root, config, args.image)
    if args.rebuild:
        from kdump_initramfs.loader import rearm

        rearm.rebuild(root, config, image)
    command = kexec.command(root, config, image)
    if args.print_only:
        common.print_exactly(f"{command}\n")
        return 0
    kexec.load(root, command)
    logger.info("armed: kernel %s with %s", command.record.manifest.kernel.release, command.image)
    _settle(root, config, image)
    return 0


def _settle(root: Root, config: Config, image: str) -> None:
    """Give the verdict on a rehearsal of the machine itself, if one waits for it."""
    from kdump_initramfs.loader import proof

    if os.path.exists(proof.attempt_path(image)):
        from kdump_initramfs.rehearsal import attempt

        attempt.settle(root, config, image)


def _unload(args: argparse.Namespace) -> int:
    from kdump_initramfs.loader import kexec

    kexec.unload(Root(args.root))
    logger.info("disarmed")
    return 0


def _status(args: argparse.Namespace) -> int:
    from kdump_initramfs.loader import proof, state
    from kdump_initramfs.loader import status as reading

    root, config = Root(args.root), common.config(args)
    if (loaded := state.read(root)) is not None:
        _settle(root, config, loaded.image)
    found = reading.read(root, config)
    if args.json:
        common.print_json(found)
    else:
        print("armed" if found.armed else f"not armed, {common.mib(found.reserved_bytes)} reserved")
        if found.loaded is not None:
            common.say([f"with {found.loaded.image} for kernel {found.loaded.kernel_release}"])
        common.say(f"stale: {reason}" for reason in found.stale)
        if found.proof is not None:
            verdict = "passed" if found.proof.passed else "FAILED"
            where = "of this machine itself" if found.proof.live else "in a guest"
            print(f"last rehearsal: {verdict} {where}, {proof.when(found.proof.at)}")
    return found.exit_code


def _emit(args: argparse.Namespace) -> int:
    from kdump_initramfs.loader import emit as emitting
    from kdump_initramfs.loader import kexec

    root, config = Root(args.root), common.config(args)
    command = kexec.command(root, config, common.image(root, config, args.image))
    common.print_exactly(emitting.FORMS[args.form](command))
    return 0


def _enable(args: argparse.Namespace) -> int:
    from kdump_initramfs.loader import enable as enabling

    root = Root(args.root)
    for path in (written := enabling.enable(root)):
        logger.info("wrote %s", path)
    logger.info("enabled%s", "" if written else ": everything was there already")
    return 0


def _disable(args: argparse.Namespace) -> int:
    from kdump_initramfs.loader import enable as enabling

    for path in enabling.disable(Root(args.root)):
        logger.info("removed %s", path)
    logger.info("disabled; what is loaded now stays until the next boot, or `kdump-initramfs unload`")
    return 0


def _kernel_hook(args: argparse.Namespace) -> int:
    """Build or remove for each kernel; whatever goes wrong is a warning, since no kernel's installation may fail."""
    from kdump_initramfs.loader import enable as enabling

    root = Root(args.root)
    try:
        paths.check(args)
    except KdumpError as error:
        _warn(args.action, args.kernel_version, error)
        return 0
    if not enabling.is_wanted(root):
        logger.info("neither enabled nor configured here, so there is nothing to %s (see `enable`)", args.action)
        return 0
    from kdump_initramfs.loader import kernel_hook as following

    for release in following.releases_of(sys.stdin) if args.kernel_version == "-" else [args.kernel_version]:
        try:
            config = common.config(args)
            if args.action == "add":
                following.add(root, config, release, next(iter(args.paths), ""))
            else:
                following.remove(root, config, release, args.paths)
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
