"""The text of the capture environment: /init, settings, the library and the hooks' scripts, checked against each other.

A setting that a script reads and nobody declares fails here, at build, and not in the dark after a crash.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from kdump_initramfs import __version__, resources
from kdump_initramfs.errors import HookError, KdumpError, raise_together
from kdump_initramfs.image import recognition, render
from kdump_initramfs.model import (
    BootStep,
    BuildOnly,
    Contribution,
    Entry,
    File,
    HookRun,
    HostFacts,
    Saver,
    Settings,
    StorageLayer,
    TargetDriver,
    Text,
)
from kdump_initramfs.storage import DeviceTarget, DirectoryTarget, TargetFacts

LIBRARY = ("lib.sh", "process.sh", "modules.sh", "devices.sh", "directory.sh", "retention.sh", "limited.sh", "guard.sh")
_SETTING = re.compile(r"KDUMP_[A-Z0-9_]+")
_ASSIGNED = re.compile(r"^\s*(KDUMP_[A-Z0-9_]+)=", re.MULTILINE)


def entries(host: HostFacts, runs: Sequence[HookRun], settings: Mapping[str, str]) -> tuple[Entry, ...]:
    """Return all files of text for these hooks; `settings` are those beside the hooks' own.

    Everything that is wrong with settings, targets or scripts is raised together.
    """
    shared = {**settings, **_merged(runs)}
    per_target = [_target_settings(target, runs) for target in host.targets]
    _check(host, runs, [shared, *per_target])
    return (
        Text(path="/init", content=_rendered("init.sh.j2", host, runs), mode=0o755, reason="process 1"),
        Text(path="/lib/kdump/target.sh", content=_rendered("target.sh.j2", host, runs), reason="saves to one target"),
        Text(path="/etc/kdump/settings", content=_settings(shared), mode=0o600, reason="settings"),
        *(
            Text(path=f"/etc/kdump/targets/{position}", content=_settings(values), mode=0o600, reason="settings")
            for position, values in enumerate(per_target)
        ),
        *(
            Text(path=f"/lib/kdump/{name}", content=resources.read("templates", name), reason="library of the hooks")
            for name in LIBRARY
        ),
        *(
            File(path=f"/lib/kdump/hooks/{run.name}.sh", source=run.script, reason=f"hook {run.name}")
            for run in runs
            if run.script
        ),
    )


def _merged(runs: Iterable[HookRun]) -> dict[str, str]:
    return {name: value for run in runs for name, value in run.contribution.settings.items()}


def _target_settings(target: TargetFacts, runs: Iterable[HookRun]) -> dict[str, str]:
    values = {
        "KDUMP_TARGET_NAME": target.name,
        "KDUMP_TARGET_KIND": target.kind,
        "KDUMP_TARGET_BUDGET_S": str(target.budget_s),
        "KDUMP_TARGET_HOOK": "",
    }
    for run in runs:
        values |= _settings_for(target, run.contribution)
        if isinstance(run.contribution, TargetDriver) and target in run.contribution.drives:
            values["KDUMP_TARGET_HOOK"] = run.name
    return values


def _settings_for(target: TargetFacts, contribution: Contribution) -> Settings:
    match contribution:
        case TargetDriver():
            return contribution.drives.get(target, {})
        case Saver():
            return contribution.target_settings.get(target, {})
        case StorageLayer() if isinstance(target, DirectoryTarget | DeviceTarget):
            return contribution.target_settings.get(target, {})
        case _:
            return {}


def _settings(values: Mapping[str, str]) -> str:
    return render.render("settings.sh.j2", settings=sorted(values.items()))


def _rendered(template: str, host: HostFacts, runs: Sequence[HookRun]) -> str:
    def hooks(phase: type[BuildOnly]) -> list[str]:
        return [run.name for run in runs if isinstance(run.contribution, phase) and run.script]

    return render.render(
        template,
        version=__version__,
        kernel_release=host.kernel.release,
        boot_hooks=hooks(BootStep),
        storage_hooks=hooks(StorageLayer),
        save_hooks=[run for run in runs if isinstance(run.contribution, Saver)],
        targets=range(len(host.targets)),
    )


def _check(host: HostFacts, runs: Sequence[HookRun], tables: Sequence[Mapping[str, str]]) -> None:
    errors: list[KdumpError] = [*_check_names(tables), *_check_declared(runs, tables)]
    errors += recognition.problems(host.targets, runs)
    raise_together(errors)


def _check_names(tables: Iterable[Mapping[str, str]]) -> Iterator[KdumpError]:
    for name, value in (item for table in tables for item in table.items()):
        if not _SETTING.fullmatch(name) and name != "LD_LIBRARY_PATH":
            yield HookError(f"{name}: not a name for a setting", hint="settings are named KDUMP_…, in capitals")
        if "\0" in value or "\n" in value:
            yield HookError(f"{name}: a value of several lines", hint="put such data into a file of the image")


def _check_declared(runs: Sequence[HookRun], tables: Iterable[Mapping[str, str]]) -> Iterator[KdumpError]:
    declared = {name for table in tables for name in table}
    library = "".join(resources.read("templates", name) for name in LIBRARY)
    declared |= set(_ASSIGNED.findall(library))
    scripts = [(run.script, _read(run.script)) for run in runs if run.script]
    for path, text in [("templates/lib.sh", library), *scripts]:
        undeclared = sorted(used_settings(text) - declared - set(_ASSIGNED.findall(text)))
        if undeclared:
            hint = "declare it in `settings` or `target_settings` of the build side"
            yield HookError(f"{path}: reads {', '.join(undeclared)}, which nobody declares", hint=hint)


def used_settings(script: str) -> set[str]:
    """Return the KDUMP_ names in a script, comments left out."""
    lines = (line for line in script.splitlines() if not line.lstrip().startswith("#"))
    return {name for line in lines for name in _SETTING.findall(line)}


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as stream:
            return stream.read()
    except (OSError, UnicodeDecodeError) as error:
        raise HookError(f"{path}: {error}", hint="a capture hook is a text file") from error
