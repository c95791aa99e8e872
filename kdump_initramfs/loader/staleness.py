"""Why an image is not what would be built now: every input compared by its content, never by its time.

Each reason is one line that names what has changed and how it was.
"""

import os
from collections.abc import Iterator

import msgspec
from msgspec.structs import replace

from kdump_initramfs import __version__, resources
from kdump_initramfs.config import Config
from kdump_initramfs.errors import ImageError, KdumpError, SeveralProblemsError
from kdump_initramfs.formats import plaintext
from kdump_initramfs.formats.depmod import module_name
from kdump_initramfs.formats.modprobe_conf import ModuleSettings
from kdump_initramfs.host import probe
from kdump_initramfs.host.root import Root
from kdump_initramfs.image import basis, record
from kdump_initramfs.loader import identity
from kdump_initramfs.model import Basis, HostFacts, ImageRecord, Input

# Keys that change nothing in an image: where it is written, for which kernel, and what `load` does with it.
_NOT_OF_THE_IMAGE = ("image.output", "kernel.version", "kernel.image", "kernel.remove", "kernel.append")
_SECTIONS_OF_LOAD = ("kexec.",)
_LONGEST_VALUE = 40


def reasons(root: Root, config: Config, described: ImageRecord) -> tuple[str, ...]:
    """Return why the image would be another one if it were built now for the same kernel; nothing if it would not."""
    manifest = described.manifest
    found = [*_kernel(root, config, described), *_files(root, manifest.inputs)]
    if described.basis is None:
        return (*found, f"{manifest.tool}: did not record what it decided from")
    found += _configuration(described.basis.config, config)
    found += _facts(root, config, described, described.basis)
    found += _sources(root, described.basis.sources, manifest.kernel.modules_dir)
    if manifest.tool != (current := f"kdump-initramfs {__version__}"):
        found.append(f"{current}: the image was built by {manifest.tool}")
    return tuple(found)


def _is_away(root: Root, described: ImageRecord) -> bool:
    """Whether the kernel need not be there: it has a copy, because its file system is mounted on demand."""
    return bool(described.kernel_copy) and not root.is_file(described.manifest.kernel.image)


def _kernel(root: Root, config: Config, described: ImageRecord) -> Iterator[str]:
    kernel = described.manifest.kernel
    wanted = config.kernel.image
    if wanted and wanted != kernel.image:
        yield f"kernel.image: is {wanted}, the image was built for {kernel.image}"
        return
    known = Input(path=kernel.image, sha256=described.manifest.kernel_sha256)
    if not _is_away(root, described) and _has_changed(root, known):
        yield f"kernel {kernel.image}: has changed since the image was built"


# --- files -------------------------------------------------------------------------------------------------------


def _files(root: Root, inputs: tuple[Input, ...]) -> Iterator[str]:
    for known in inputs:
        if not _is_shipped(known.path) and _has_changed(root, known):
            yield f"{_kind(known.path)} {known.path}: has changed since the image was built"


def _is_shipped(path: str) -> bool:
    """Whether a file is a hook of ours, which is known among the sources by its name."""
    directory, file = os.path.split(path)
    return directory.endswith("/hooks") and os.path.isfile(os.path.join(resources.directory("hooks"), file))


def _kind(path: str) -> str:
    """Return what a file of the host is, as far as its path tells."""
    directory, name = os.path.split(path)
    if ".so" in name:
        return "library"
    if "/firmware/" in path:
        return "firmware"
    if "/modules/" in path:
        return "module"
    if directory.endswith("/hooks"):
        return "hook"
    return "program" if directory.endswith(("bin", "/sbin")) else "file"


def _has_changed(root: Root, known: Input) -> bool:
    try:
        return record.sha256_of(root.host(known.path)) != known.sha256
    except ImageError:
        return True


def _sources(root: Root, known: tuple[Input, ...], modules_dir: str) -> Iterator[str]:
    before = {source.path: source.sha256 for source in known}
    now = {source.path: source.sha256 for source in basis.sources(root, modules_dir=modules_dir)}
    for path in sorted(before.keys() | now.keys()):
        if path not in now:
            yield f"{_kind_of_source(path)} {path}: is gone since the image was built"
        elif path not in before:
            yield f"{_kind_of_source(path)} {path}: is new since the image was built"
        elif before[path] != now[path]:
            yield f"{_kind_of_source(path)} {path}: has changed since the image was built"


def _kind_of_source(path: str) -> str:
    if path.endswith("/modules.dep"):
        return "list of modules"
    return "template" if path.startswith("templates/") else "hook"


# --- what was decided from ---------------------------------------------------------------------------------------


def _configuration(before: Config, now: Config) -> Iterator[str]:
    old, new = _flat(before), _flat(now)
    for key in sorted(old.keys() | new.keys()):
        if key in _NOT_OF_THE_IMAGE or key.startswith(_SECTIONS_OF_LOAD):
            continue
        if old.get(key) != new.get(key):
            yield f"configuration {key}: {_change(old.get(key), new.get(key))}"


def _flat(config: Config) -> dict[str, object]:
    """Return key -> value; a list is one value."""
    tables = msgspec.to_builtins(config)
    return {
        f"{section}.{key}" if isinstance(table, dict) else section: value
        for section, table in tables.items()
        for key, value in (table.items() if isinstance(table, dict) else [("", table)])
    }


def _change(before: object, now: object) -> str:
    texts = [plaintext.encode(value).decode() for value in (before, now)]
    if max(map(len, texts)) > _LONGEST_VALUE:
        return "has changed since the image was built"
    return f"was {texts[0]}, is {texts[1]}"


def _facts(root: Root, config: Config, described: ImageRecord, known: Basis) -> Iterator[str]:
    kernel = described.manifest.kernel
    same_kernel = replace(
        config.kernel, version=kernel.release, image=kernel.image, modules_dir=config.kernel.modules_dir
    )
    try:
        known_kernel = kernel if _is_away(root, described) else None
        now = probe.read(root, replace(config, kernel=same_kernel), known_kernel=known_kernel)
    except KdumpError as error:
        each = error.errors if isinstance(error, SeveralProblemsError) else (error,)
        yield from (f"cannot be built now: {one}" for one in each)
        return
    named = {each.path for each in described.manifest.inputs}
    if root.read_word("/etc/hostname") and known.host.hostname != now.hostname:  # others come with the network
        yield f"host name: {_change(known.host.hostname, now.hostname)}"
    yield from _host(known.host, basis.essential(now), named)
    is_generic = config.image.mode == "generic"
    yield from identity.reasons(described.manifest.targets, now.targets, generic=is_generic)
    yield from identity.crypttab_reasons(described.manifest.targets, known.host.crypttab, now.crypttab)


def _host(before: HostFacts, now: HostFacts, named: set[str]) -> Iterator[str]:
    """Yield what is different about the machine; a program that is gone is `named` already, if it was in the image."""
    old, new = basis.programs(before.tools), basis.programs(now.tools)
    for name in old:
        if old[name] != new[name] and (new[name] or old[name] not in named):
            yield f"program {name}: {_change(old[name], new[name])}"
    yield from _module_settings(before.module_settings, now.module_settings, named)
    # Early at boot one may not be active yet that was when the image was built.
    for watchdog in now.watchdogs:
        if watchdog not in before.watchdogs:
            yield f"watchdog {watchdog.identity}: is active, and the image does not know it"
    for what, scripts, others in (
        ("pre", before.pre_scripts, now.pre_scripts),
        ("post", before.post_scripts, now.post_scripts),
    ):
        for path in sorted({each.path for each in scripts} ^ {each.path for each in others}):
            yield f"script {path} of {what}.d: has come or gone since the image was built"


def _module_settings(before: ModuleSettings, now: ModuleSettings, named: set[str]) -> Iterator[str]:
    """Yield what modprobe.d says otherwise of the modules in the image than it did."""
    modules = {module_name(path) for path in named if ".ko" in path}
    for name in sorted(modules):
        old, new = (" ".join(given for module, given in each.options if module == name) for each in (before, now))
        if old != new:
            yield f"options of module {name}: {_change(old, new)}"
    old_names, new_names = ({*each.blacklist, *dict(each.disabled)} for each in (before, now))
    for name in sorted((new_names - old_names) & modules):
        yield f"module {name}: is blacklisted or disabled by modprobe.d since the image was built"
