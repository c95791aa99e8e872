"""The configuration: these structs are the schema, TOML files and `--set` fill them.

Later sources win, tables merge, arrays append, an empty array resets. A key that is not here is an error.
"""

import glob
import os
import re
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from kdump_initramfs.errors import ConfigError, KdumpError, raise_together

VENDOR_DROPINS = "/usr/lib/kdump-initramfs/conf.d"
MAIN_FILE = "/etc/kdump-initramfs/config.toml"
SITE_DROPINS = "/etc/kdump-initramfs/conf.d"

_MAX_FILE_BYTES = 1 << 20

# The descriptions are what a wrong value is answered with.
AbsolutePath = Annotated[str, Meta(pattern=r"\A/[^\0\n]*\Z", description="an absolute path")]
PathOrNone = Annotated[str, Meta(pattern=r"\A(/[^\0\n]*)?\Z", description="an absolute path")]
Device = Annotated[
    str,
    Meta(
        pattern=r"\A(UUID=[0-9A-Fa-f-]+|PARTUUID=[0-9A-Fa-f-]+|(PART)?LABEL=[^\0\n]+|/dev/[^\0\n]+)\Z",
        description="UUID=…, PARTUUID=…, LABEL=…, PARTLABEL=… or a path below /dev",
    ),
]
PositiveInt = Annotated[int, Meta(ge=1, description="a whole number, 1 or more")]
Count = Annotated[int, Meta(ge=0, description="a whole number, 0 or more")]
DumpLevel = Annotated[
    Literal["auto"] | Annotated[int, Meta(ge=0, le=31)], Meta(description="auto, or a whole number from 0 to 31")
]
Size = Annotated[str, Meta(pattern=r"\A[0-9]+[KMGT]?\Z", description='bytes, or a number with K, M, G or T, as "2G"')]
Recipient = Annotated[
    str,
    Meta(
        pattern=r"\A(age1[0-9a-z]{20,100}|ssh-(ed25519|rsa) [A-Za-z0-9+/=]+( [^\0\n]*)?)\Z",
        description="a public key of age: age1…, or a line of an SSH key: ssh-ed25519 …",
    ),
]
Parameter = Annotated[str, Meta(pattern=r"\A[^\0\n]+\Z", description="a word of a kernel command line")]
FinalAction = Literal["reboot", "poweroff", "halt", "shell"]


class _Section(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class ImageSection(_Section, frozen=True, kw_only=True):
    # "host": the drivers that this machine's targets need; "generic": those of all storage, for any machine.
    mode: Literal["host", "generic"] = "host"
    # Where the image is written; {kernel} becomes the kernel's release.
    output: AbsolutePath = "/var/lib/kdump-initramfs/initrd-{kernel}.img"
    # "auto": the best of zstd, gzip and xz that the kernel's config can unpack.
    compression: Literal["auto", "zstd", "gzip", "xz", "none"] = "auto"
    # Whether a generic image takes along the drivers of network cards as well.
    network_drivers: bool = False
    # Programs to take along, by name or path; libraries follow.
    extra_binaries: tuple[str, ...] = ()
    extra_modules: tuple[str, ...] = ()
    # Modules never to take along, even where something asks for them.
    omit_modules: tuple[str, ...] = ()
    # Files to copy to the same path in the image.
    extra_files: tuple[AbsolutePath, ...] = ()


class KernelSection(_Section, frozen=True, kw_only=True):
    # Release of the capture kernel; "" is the running one.
    version: str = ""
    # Its bootable image; "" searches the usual places.
    image: PathOrNone = ""
    # The directory of its modules, with modules.dep; "" is /lib/modules/VERSION.
    modules_dir: PathOrNone = ""
    # Parameters to remove from, and to append to, the capture kernel's command line, besides the built-in rules.
    remove: tuple[Parameter, ...] = ()
    append: tuple[Parameter, ...] = ()


class KexecSection(_Section, frozen=True, kw_only=True):
    # kexec_file_load(2), kexec_load(2), or the one that this machine's lockdown allows.
    syscall: Literal["auto", "file", "load"] = "auto"
    # Format of the ELF headers that describe the memory of the crashed kernel; "auto": what kexec-tools chooses.
    core_headers: Literal["auto", "elf32", "elf64"] = "auto"
    # Whether a VGA card is reset, and its console used, between the crash and the capture kernel.
    reset_vga: bool = False
    extra_args: tuple[str, ...] = ()


class CaptureSection(_Section, frozen=True, kw_only=True):
    # The whole capture, from the start of /init; then the failure action is taken whatever is going on.
    deadline_s: PositiveInt = 3600
    # How long to wait for the devices of one target.
    device_timeout_s: PositiveInt = 90
    # How long to wait for missing members of an array, or paths to a disk, before it goes on without them.
    degraded_after_s: PositiveInt = 15
    # The most time of a hook that is not the one that saves the vmcore, and of a script of pre and post.
    hook_timeout_s: PositiveInt = 60
    # How long a collector may make no progress before it is ended.
    stall_s: PositiveInt = 120
    # Programs that run before the first target is tried, and at the end; those of /etc/kdump-initramfs/pre.d and post.d
    # follow.
    pre: tuple[AbsolutePath, ...] = ()
    post: tuple[AbsolutePath, ...] = ()
    # CPUs that the capture kernel starts.
    cpus: PositiveInt = 1
    # What follows a saved dump, and what follows when nothing could be saved.
    final_action: FinalAction = "reboot"
    failure_action: FinalAction = "reboot"


class VmcoreSection(_Section, frozen=True, kw_only=True):
    # "auto": makedumpfile where the host has it, else a plain copy.
    collector: Literal["auto", "makedumpfile", "copy", "dmesg"] = "auto"
    # makedumpfile -d: pages to leave out; "auto": all that this makedumpfile can leave out of this kernel without loss.
    dump_level: DumpLevel = "auto"
    # makedumpfile takes lzo, snappy, zstd or zlib (as far as it was built with them), a plain copy zstd or gzip.
    compression: Literal["auto", "none", "lzo", "snappy", "zlib", "zstd", "gzip"] = "auto"
    # Public keys that the vmcore is encrypted to, by age(1); none: it is not.
    encrypt_to: tuple[Recipient, ...] = ()
    # The most that a vmcore may take; "0": what the target has room for.
    size_limit: Size = "0"


class RetentionSection(_Section, frozen=True, kw_only=True):
    # How many dumps of this host a target keeps; 0: all.
    keep: Count = 0
    # How much space they may take together; "0": any.
    max_bytes: Size = "0"
    # How much space is made free for the next dump; "0": none.
    min_free: Size = "0"


class PathTarget(_Section, frozen=True, kw_only=True, tag_field="kind", tag="path"):
    """A directory of the running system, on whatever holds it."""

    path: AbsolutePath = "/var/crash"
    # The most time, in seconds, that this target may take; 0: its share of what is left to the deadline.
    budget_s: Count = 0


class DiskTarget(_Section, frozen=True, kw_only=True, tag_field="kind", tag="disk"):
    """A file system that need not be mounted now."""

    device: Device
    # Directory of the dumps below the root of that file system.
    path: AbsolutePath = "/"
    # Type of the file system, for a generic image where the device is not there to tell.
    fs_type: Annotated[str, Meta(pattern=r"\A[a-z0-9]*\Z", description="a type of file system such as ext4")] = ""
    budget_s: Count = 0


class RawTarget(_Section, frozen=True, kw_only=True, tag_field="kind", tag="raw"):
    """A partition, or another device, that holds nothing but a dump; `dumps recover` takes it from there."""

    device: Device
    budget_s: Count = 0


Target = PathTarget | DiskTarget | RawTarget


class Config(_Section, frozen=True, kw_only=True):
    image: ImageSection = ImageSection()
    kernel: KernelSection = KernelSection()
    kexec: KexecSection = KexecSection()
    capture: CaptureSection = CaptureSection()
    vmcore: VmcoreSection = VmcoreSection()
    retention: RetentionSection = RetentionSection()
    target: tuple[Target, ...] = ()

    @property
    def targets(self) -> tuple[Target, ...]:
        """The targets in the order in which they are tried; with none configured, /var/crash."""
        return self.target or (PathTarget(),)


_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def size_bytes(size: str) -> int:
    """Return a Size as a number of bytes."""
    return int(size[:-1]) * _UNITS[size[-1]] if size[-1] in _UNITS else int(size)


def load(*, root: str = "/", file: str | None = None, overrides: Sequence[str] = ()) -> Config:
    """Return the configuration from the files below `root` (or from `file` alone) and `--set` words.

    Raises ConfigError that names the file and the key, and suggests the key that was meant.
    """
    paths = [file] if file is not None else default_files(root)
    sources = [(path, _read_toml(path)) for path in paths]
    sources += [(f"--set {word}", _parse_override(word)) for word in overrides]
    _check_all(sources)
    merged: dict[str, Any] = {}
    for _, tables in sources:
        merged = merge(merged, tables)
    return _convert("configuration", merged)


def default_files(root: str = "/") -> list[str]:
    """Return the configuration files that exist, in the order in which they are read."""
    base = root.rstrip("/")
    names = sorted(glob.glob(f"{glob.escape(base + VENDOR_DROPINS)}/*.toml"))
    names += [path for path in [base + MAIN_FILE] if os.path.lexists(path)]
    return names + sorted(glob.glob(f"{glob.escape(base + SITE_DROPINS)}/*.toml"))


def merge(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """Return both: tables merge, arrays append, an empty array resets, everything else is replaced."""
    result = dict(lower)
    for key, value in upper.items():
        old = result.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            result[key] = merge(old, value)
        elif isinstance(old, list) and isinstance(value, list) and value:
            result[key] = old + value
        else:
            result[key] = value
    return result


def _read_toml(path: str) -> dict[str, Any]:
    if os.path.exists(path) and not os.path.isfile(path):  # opening a pipe would wait for ever
        raise ConfigError(f"{path}: not a regular file", hint="name a readable TOML file")
    try:
        with open(path, "rb") as stream:
            content = stream.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", hint="name a readable TOML file") from error
    if len(content) > _MAX_FILE_BYTES:
        raise ConfigError(f"{path}: larger than {_MAX_FILE_BYTES} bytes", hint="this is no configuration file")
    import tomllib

    try:
        return tomllib.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # the errors of decoding and of TOML are ValueErrors
        raise ConfigError(f"{path}: {error}", hint="it must be TOML in UTF-8: https://toml.io") from error


def _parse_override(word: str) -> dict[str, Any]:
    key, equals, text = word.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(re.fullmatch(r"[A-Za-z0-9_-]+", part) for part in parts):
        raise ConfigError(f"--set {word}: not KEY=VALUE", hint="for example --set capture.deadline_s=600")
    value: Any = _parse_value(text)
    for part in reversed(parts):
        value = {part: value}
    return dict(value)


def _parse_value(text: str) -> Any:
    import tomllib

    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return parsed["value"] if len(parsed) == 1 else text


def _check_all(sources: Iterable[tuple[str, dict[str, Any]]]) -> None:
    """Check each source by itself, so that a mistake is named with the file that holds it."""
    errors: list[KdumpError] = []
    for name, tables in sources:
        try:
            _convert(name, tables)
        except ConfigError as error:
            errors.append(error)
    raise_together(errors)


def _convert(source: str, tables: dict[str, Any]) -> Config:
    try:
        return msgspec.convert(tables, Config)
    except msgspec.ValidationError as error:
        raise _explain(source, str(error)) from None


# What msgspec.ValidationError says: "what - at `$.section.key`".
_WHERE = re.compile(r"^(?P<what>.*?)(?: - at `\$\.?(?P<where>[^`]*)`)?$", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<key>.*)`")


def _explain(source: str, message: str) -> ConfigError:
    match = _WHERE.match(message)
    what, where = (match["what"], match["where"] or "") if match else (message, "")
    unknown = _UNKNOWN.fullmatch(what)
    if unknown is None:
        return ConfigError(f"{source}: {where}: {what[:1].lower()}{what[1:]}", hint=_expectation(where))
    import difflib

    key = f"{where}.{unknown['key']}" if where else unknown["key"]
    near = difflib.get_close_matches(key.replace("[...]", ""), sorted(known_keys()), n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(sorted(known_keys()))}"
    return ConfigError(f"{source}: {key}: unknown key", hint=hint)


def known_keys() -> dict[str, Any]:
    """Return every key of the schema in dotted form with its type; a key of a target is `target.…`."""
    sections = {name: kind for name, kind in _hints(Config).items() if name != "target"}
    keys: dict[str, Any] = {**sections, "target": None, "target.kind": Literal["path", "disk", "raw"]}
    for name, kind in [*sections.items(), *(("target", kind) for kind in typing.get_args(Target))]:
        keys |= {f"{name}.{key}": hint for key, hint in _hints(kind).items()}
    return keys


def _hints(kind: type[Struct]) -> dict[str, Any]:
    hints = typing.get_type_hints(kind, include_extras=True)
    return {name: hints[name] for name in kind.__struct_fields__}


def _expectation(where: str) -> str | None:
    """Return what the key at `where` takes, as far as its type says so in words."""
    kind = known_keys().get(re.sub(r"\[[^]]*\]", "", where))
    for choice in (kind, *typing.get_args(kind)):
        if typing.get_origin(choice) is Literal:
            return f"one of {', '.join(typing.get_args(choice))}"
        for meta in getattr(choice, "__metadata__", ()):
            return f"give {meta.description}"
    return None
