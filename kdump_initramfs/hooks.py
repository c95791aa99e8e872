"""Hooks: finds the pairs NN-name.py and NN-name.sh, and asks the build sides what they contribute.

The contract is in hooks/README.md. This is the only dynamic import of the tool.
"""

import importlib.util
import logging
import os
import re
import stat
import sys
from types import ModuleType

from msgspec import Struct

from kdump_initramfs import resources, run
from kdump_initramfs.config import Config
from kdump_initramfs.errors import HookError, KdumpError, Problems
from kdump_initramfs.host.root import Root
from kdump_initramfs.model import BootStep, BuildOnly, Contribution, HookRun, HostFacts, StorageLayer

logger = logging.getLogger(__name__)

SITE_DIRECTORY = "/etc/kdump-initramfs/hooks"

_NAME = re.compile(r"(?P<name>[0-9]{2}-[a-z0-9-]+)\.(?P<half>py|sh)")


class HookFiles(Struct, frozen=True, kw_only=True):
    """A hook as files: either half may be absent ("")."""

    name: str
    build: str = ""
    capture: str = ""


def find(root: Root) -> tuple[HookFiles, ...]:
    """Return the hooks in their order: the shipped ones, and those of the site, which replace or mask by name."""
    halves: dict[str, dict[str, str]] = {}
    site = root.host(SITE_DIRECTORY)
    for directory in (resources.directory("hooks"), site):
        for file in sorted(os.listdir(directory)) if os.path.isdir(directory) else ():
            if match := _NAME.fullmatch(file):
                path = os.path.join(directory, file)
                halves.setdefault(match["name"], {})[match["half"]] = path
                if directory == site:
                    _check_owner(path)
    return tuple(
        HookFiles(name=name, build=_unmasked(paths.get("py", "")), capture=_unmasked(paths.get("sh", "")))
        for name, paths in sorted(halves.items())
    )


def _unmasked(path: str) -> str:
    return "" if path and os.path.realpath(path) == os.devnull else path


def contribute(config: Config, host: HostFacts, *, root: Root, problems: Problems | None = None) -> tuple[HookRun, ...]:
    """Ask every hook what it contributes for this host.

    Problems of all hooks are raised together; with `problems` they are left there, and those without one are returned.
    """
    runs: list[HookRun] = []
    found = Problems() if problems is None else problems
    for files in find(root):
        with found:
            contribution = _ask(files, config, host)
            if contribution is None:
                logger.debug("hook %s: not on this host", files.name)
            else:
                runs.append(HookRun(name=files.name, script=_script(files, contribution), contribution=contribution))
    if problems is None:
        found.raise_all()
    return tuple(runs)


def _script(files: HookFiles, contribution: Contribution) -> str:
    # What has nothing but a build side; an exact type, since the others add the same and more.
    if type(contribution) is BuildOnly or (isinstance(contribution, StorageLayer) and not files.capture):
        return ""
    if not files.capture:
        kind = type(contribution).__name__
        raise HookError(
            f"{files.build}: contributes a {kind} but has no {files.name}.sh",
            hint="add the script, or return a BuildOnly",
        )
    _check_syntax(files.capture)
    return files.capture


def _check_syntax(path: str) -> None:
    """Refuse a script of the site that no shell can parse; the shipped ones are tested."""
    if os.path.dirname(path) == resources.directory("hooks"):
        return
    result = run.run(["/bin/sh", "-n", path])
    if result.returncode != 0:
        said = result.stderr.strip().splitlines()
        raise HookError(said[0] if said else f"{path}: syntax error", hint="mend or mask this hook")


def _ask(files: HookFiles, config: Config, host: HostFacts) -> Contribution | None:
    if not files.build:
        # A script alone is one that runs for every host, before the targets.
        return BootStep() if files.capture else None
    module = _import(files.build)
    contribute_function = getattr(module, "contribute", None)
    if contribute_function is None:
        raise HookError(f"{files.build}: has no function contribute(config, host)", hint="see hooks/README.md")
    try:
        contribution = contribute_function(config, host)
    except KdumpError:
        raise
    except (Exception, SystemExit) as error:  # a site's hook may fail in any way
        raise HookError(f"{files.build}: {type(error).__name__}: {error}", hint="mend or mask this hook") from error
    if not isinstance(contribution, Contribution | None):
        raise HookError(
            f"{files.build}: contribute() returned {contribution!r}",
            hint="return one of the contributions of kdump_initramfs.model, or None",
        )
    return contribution


def _import(path: str) -> ModuleType:
    """Return the module at `path`; no bytecode is left in a configuration directory."""
    name = "kdump_initramfs_hook_" + re.sub(r"\W", "_", os.path.basename(path))
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise HookError(f"{path}: cannot be imported", hint="see hooks/README.md")
    module = importlib.util.module_from_spec(spec)
    keep = sys.dont_write_bytecode
    sys.dont_write_bytecode = keep or os.path.dirname(path) != resources.directory("hooks")
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise HookError(f"{path}:{error.lineno}: {error.msg}", hint="mend or mask this hook") from error
    except (Exception, SystemExit) as error:
        raise HookError(f"{path}: {type(error).__name__}: {error}", hint="mend or mask this hook") from error
    finally:
        sys.dont_write_bytecode = keep
    return module


def _check_owner(path: str) -> None:
    """Refuse, when we are root, code of the site that somebody else could have put there."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise HookError(f"{path}: {error.strerror}", hint="remove the link, or mend it") from error
    exposed = status.st_uid != 0 or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if os.geteuid() == 0 and exposed and stat.S_ISREG(status.st_mode):
        raise HookError(
            f"{path}: may be changed by others than root",
            hint=f"chown root {path} && chmod go-w {path}",
        )
