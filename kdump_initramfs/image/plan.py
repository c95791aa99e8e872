"""From what the hooks say to every entry of the image; what is missing is found here, before a byte is written.

`plan -v` prints the result in the kernel's own text form of an initramfs (usr/gen_init_cpio.c), with reasons.
"""

import logging
import os
from collections.abc import Iterable, Sequence
from typing import assert_never

from msgspec import Struct, structs

from kdump_initramfs.config import Config
from kdump_initramfs.errors import HostError, KdumpError, Problems, raise_together
from kdump_initramfs.formats import ldso, plaintext
from kdump_initramfs.host import modprobe_conf, tools
from kdump_initramfs.host.root import Root
from kdump_initramfs.image import basis, drivers, kmod, layout, loaded, requests, scripts
from kdump_initramfs.model import (
    Contribution,
    Dir,
    Entry,
    File,
    HookRun,
    HostFacts,
    Kernel,
    Link,
    Module,
    Node,
    Plan,
    StorageLayer,
    Text,
)

logger = logging.getLogger(__name__)

# In the order of preference: zstd costs the capture kernel least. gzip is what every kernel can, as far as we know it.
_COMPRESSIONS = ("zstd", "gzip", "xz")


class Parts(Struct, frozen=True, kw_only=True):
    """The entries that binaries, modules and files of some contributions become."""

    entries: tuple[Entry, ...]
    # Directories of libraries that the dynamic linker does not search by itself.
    library_dirs: tuple[str, ...]
    warnings: tuple[str, ...]


def make(
    root: Root, config: Config, host: HostFacts, runs: Sequence[HookRun], *, problems: Problems | None = None
) -> Plan:
    """Return the plan of the capture image; whatever is missing is raised together, with `problems` of the hooks."""
    problems = Problems() if problems is None else problems
    contributions = [_located(root, run.contribution) for run in runs]
    known = kmod.Modules(
        root,
        host.kernel.modules_dir,
        settings=host.module_settings,
        blacklist=modprobe_conf.blacklisted(host.cmdline),
        modular=host.kernel.modular,
    )
    parts = gather(root, host, contributions, known=known, omit_modules=config.image.omit_modules, problems=problems)
    settings = {"LD_LIBRARY_PATH": ":".join(parts.library_dirs)} if parts.library_dirs else {}
    extra = [File(path=path, source=root.host(path), reason="image.extra_files") for path in config.image.extra_files]
    with problems:
        _check_files(entry for entry in (*parts.entries, *extra) if isinstance(entry, File))
    compression = ""
    with problems:
        compression = _compression(config, host.kernel)
    # Where a hook has said nothing, what it would have provided is not the problem.
    texts = () if problems else scripts.entries(host, runs, settings)
    problems.raise_all()
    entries = (*parts.entries, *texts, *extra, *requests.program())
    return Plan(
        kernel=host.kernel,
        entries=layout.arrange(root, (*entries, *requests.links(root, entries))),
        hooks=tuple(run.name for run in runs),
        targets=host.targets,
        volume_keys=tuple(
            sorted({key for each in contributions if isinstance(each, StorageLayer) for key in each.volume_keys})
        ),
        compression=compression,
        warnings=(*(warning for run in runs for warning in run.contribution.warnings), *parts.warnings),
        basis=basis.read(root, config, host),
    )


def _located(root: Root, contribution: Contribution) -> Contribution:
    """Return a contribution of a hook, which knows paths in the root alone, with the places of its files."""
    entries = tuple(
        structs.replace(entry, source=_source(root, entry.source)) if isinstance(entry, File) else entry
        for entry in contribution.entries
    )
    return structs.replace(contribution, entries=entries)


def gather(
    root: Root,
    host: HostFacts,
    contributions: Sequence[Contribution],
    *,
    known: kmod.Modules | None = None,
    omit_modules: Sequence[str] = (),
    problems: Problems,
) -> Parts:
    """Return what the contributions become: programs with their libraries, modules with theirs, and their entries.

    The modules' paths, in load order, become the entry /etc/kdump/modules. What is missing is left in `problems`.
    `known` are the kernel's modules with the settings of a site; without it there are no settings.
    """
    own = [entry for each in contributions for entry in each.entries]
    library_dirs: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    with problems:
        programs, library_dirs = _programs(
            root, dict.fromkeys(name for each in contributions for name in each.binaries)
        )
        own += programs
    with problems:
        known = known or kmod.Modules(root, host.kernel.modules_dir, modular=host.kernel.modular)
        modules, warnings = _modules(root, host, known, contributions, omit_modules)
        own += modules
    return Parts(entries=tuple(own), library_dirs=library_dirs, warnings=warnings)


def _programs(root: Root, names: Iterable[str]) -> tuple[list[Entry], tuple[str, ...]]:
    """Return programs with their libraries, and directories of libraries that must be searched besides."""
    binaries = _find_binaries(root, names)
    closure = ldso.closure(root, binaries.values())
    programs = [_program(root, path, f"program {name}") for name, path in binaries.items()]
    libraries = [_program(root, path, f"needed by {users[0]}") for path, users in closure.files.items()]
    return [*programs, *libraries], closure.library_dirs


def _find_binaries(root: Root, names: Iterable[str]) -> dict[str, str]:
    """Return name -> path in the root; all that are missing are raised together."""
    found = {name: tools.find(root, name) for name in names}
    raise_together(
        [
            HostError(f"{name}: no such program", hint="install it, or take it out of image.extra_binaries")
            for name, path in found.items()
            if not path
        ]
    )
    return found


def _program(root: Root, path: str, reason: str) -> File:
    return File(path=path, source=_source(root, path), mode=0o755, reason=reason)


def _source(root: Root, path: str) -> str:
    return root.host(root.resolve(path))


def _modules(
    root: Root, host: HostFacts, known: kmod.Modules, contributions: Sequence[Contribution], omit: Sequence[str]
) -> tuple[list[Entry], tuple[str, ...]]:
    wanted = _wanted(known, host, contributions, omit)
    driver_sets = [each.drivers for each in contributions if each.drivers]
    choice = drivers.choose(known, driver_sets, omit=omit)
    names = {module.name for module in wanted}
    further = [module for module in choice.modules if module.name not in names]
    firmware, warnings = known.firmware(wanted)
    # What a driver of hardware that may not be there would like to have is worth no warning.
    further_firmware, _ = known.firmware(further)
    directory = f"/lib/modules/{host.kernel.release}"
    modules = [_module(root, directory, module) for module in (*wanted, *further)]
    files = {
        file.path: File(path=file.path, source=_source(root, file.path), reason=f"firmware of {file.module}")
        for file in (*further_firmware, *firmware)
    }
    paths = "".join(f"{entry.path}\n" for entry in modules[: len(wanted)])
    order = Text(path="/etc/kdump/modules", content=paths, reason="modules in load order")
    tables = _driver_tables(choice, directory) if driver_sets else ()
    parameters = _parameters(known, (*wanted, *further))
    asked = requests.tables(known, (*wanted, *further), choice.order, directory)
    warnings = (*dict.fromkeys(known.warnings), *warnings)
    return [*modules, *files.values(), order, *parameters, *tables, *asked], warnings


def _wanted(
    known: kmod.Modules, host: HostFacts, contributions: Sequence[Contribution], omit: Sequence[str]
) -> tuple[kmod.Module, ...]:
    """Return the modules that are loaded at boot: those of the hooks, then what the running kernel uses besides."""
    asked = [(each.modules, each.modaliases) for each in contributions]
    explained = known.resolve_in_turn(asked, omit=omit)
    further = loaded.unexplained(host, known, {module.name for module in explained})
    if not further:
        return explained
    every = known.resolve_in_turn([*asked, (further, ())], omit=omit)
    return tuple(structs.replace(each, reason=loaded.REASON) if each.name in further else each for each in every)


def _parameters(known: kmod.Modules, modules: Iterable[kmod.Module]) -> list[Text]:
    """Return the file of the parameters that modprobe.d has for modules, `NAME PARAMETERS` a line, if there are any."""
    given = {module.name: known.parameters(module.name) for module in modules}
    text = "".join(f"{name} {parameters}\n" for name, parameters in given.items() if parameters)
    return [Text(path="/etc/kdump/parameters", content=text, reason="options of modprobe.d")] if text else []


def _module(root: Root, directory: str, module: kmod.Module) -> Module:
    return Module(
        path=f"{directory}/{module.name}.ko",
        source=_source(root, module.path),
        reason=f"module {module.name}: {module.reason}",
    )


def _driver_tables(choice: drivers.Drivers, directory: str) -> tuple[Text, ...]:
    aliases, order = drivers.alias_script(choice.aliases), drivers.order_text(choice, directory)
    return (
        Text(path=drivers.ALIASES, content=aliases, reason="which driver answers to which device"),
        Text(path=drivers.ORDER, content=order, reason="what to load for each driver"),
    )


def _check_files(files: Iterable[File]) -> None:
    missing: list[KdumpError] = [
        HostError(f"{file.path}: no such file", hint=f"put it there, or mend what names it: {file.reason}")
        for file in files
        if not os.path.isfile(file.source)
    ]
    raise_together(missing)


def _compression(config: Config, kernel: Kernel) -> str:
    """Return the configured compression, or the best that this kernel is known to unpack."""
    able = kernel.initramfs_compressions
    wanted = config.image.compression
    if wanted == "auto":
        if able is None:
            return "gzip"
        return next((kind for kind in _COMPRESSIONS if kind in able), "none")
    if wanted != "none" and able is not None and wanted not in able:
        raise HostError(
            f"kernel {kernel.release}: cannot unpack {wanted} (CONFIG_RD_{wanted.upper()}), as image.compression wants",
            hint=f"it can unpack: {', '.join(able) or 'nothing'}; or leave image.compression at auto",
        )
    return wanted


def as_list(plan: Plan, *, reasons: bool = False) -> str:
    """Return the plan as gen_init_cpio reads it; with `reasons`, each after its entry as a comment."""
    lines: list[str] = []
    for entry in plan.entries:
        lines.append(_line(entry))
        if reasons and entry.reason:
            lines.append(f"#   {entry.reason}")
    return "".join(f"{plaintext.shown(line)}\n" for line in lines)


def _line(entry: Entry) -> str:
    match entry:
        case Dir():
            return f"dir {entry.path} {entry.mode:o} 0 0"
        case File() | Module():
            return f"file {entry.path} {entry.source} {entry.mode:o} 0 0"
        case Text():
            return f"file {entry.path} <made> {entry.mode:o} 0 0"
        case Link():
            return f"slink {entry.path} {entry.target} 777 0 0"
        case Node():
            return f"nod {entry.path} {entry.mode:o} 0 0 {entry.kind} {entry.major} {entry.minor}"
        case _:
            assert_never(entry)
