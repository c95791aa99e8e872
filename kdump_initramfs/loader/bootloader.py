"""Where the command line in effect comes from, and the exact edit that puts a word on it for the next boot.

Nothing is edited here: what is printed is for the administrator. Each source of a command line is evaluated as its tool
does (loader/bootline), and the one counts that gives what is in /proc/cmdline. The edit is made on the text of its
files, and evaluated again: one that loses a parameter is never shown.
"""

from collections.abc import Iterator, Sequence

from msgspec import Struct, structs

from kdump_initramfs.errors import HostError
from kdump_initramfs.host import kernel_config
from kdump_initramfs.host.root import Root
from kdump_initramfs.loader.bootline import declared, grub, others, systemd
from kdump_initramfs.loader.bootline import words as parameters
from kdump_initramfs.loader.bootline.source import Change, Reader, Source, UnclearError, proved, unclear

# "What runs": the vendor GUID is that of systemd, and other loaders set it too (the boot loader interface).
_LOADER_INFO = "/sys/firmware/efi/efivars/LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
_UNKNOWN = "boot loader, which is not known"
# Of what was looked at in vain.
_MOST_REASONS = 4


class Edit(Struct, frozen=True, kw_only=True):
    """How one parameter gets onto the command line of the next boot."""

    # For people: GRUB, systemd-boot, …
    loader: str
    # "" where there is no file.
    file: str = ""
    # The whole line as it must be.
    line: str = ""
    # The line above and where it belongs, then other lines that must change with it.
    changes: tuple[Change, ...] = ()
    # What must be run afterwards; "" for nothing.
    command: str = ""
    # Instead of all these, where nothing can be said exactly.
    advice: str = ""
    # What the source says of the parameter now: the running kernel may not have been started with it yet.
    pending: tuple[str, ...] = ()

    def __str__(self) -> str:
        steps = [*map(str, self.changes), f"run: {self.command}" if self.command else "", self.advice]
        return f"{self.loader}: {'; then '.join(step for step in steps if step)}; then reboot"


def edit(root: Root, *words: str) -> Edit:
    """Return the edit that puts `words` (crashkernel=…) onto the command line, in place of any of the same name."""
    reader = Reader(root)
    effect = _effect(reader)
    sources = _sources(reader, effect)
    for line in _readings(reader, effect):
        for source in sources:
            if found := _edit(source, line, words):
                return found
    return _unexplained(reader, sources, effect, words)


def _effect(reader: Reader) -> tuple[str, ...] | None:
    """Return the command line in effect; None where no kernel runs, and so nothing can be lost but what files say."""
    found = reader.text("/proc/cmdline")
    return None if found is None else parameters.split(found)


def _readings(reader: Reader, effect: tuple[str, ...] | None) -> Iterator[tuple[str, ...] | None]:
    """Yield the command line, then what is left of it without what is built into the kernel (CONFIG_CMDLINE)."""
    yield effect
    try:
        config = kernel_config.running(reader.root) if effect else None
    except HostError as error:
        reader.unreadable.append(str(error))
        return
    built_in = parameters.split((config.options.get("CMDLINE", "") if config else "").strip('"').replace('\\"', '"'))
    if effect and built_in:
        left = list(effect)
        for word in built_in:
            if word in left:
                left.remove(word)
        yield tuple(left)


# --- sources -----------------------------------------------------------------------------------------------------


def _sources(reader: Reader, effect: Sequence[str] | None) -> list[Source]:
    """Return the sources that are there, those first that are more likely to be in use."""
    if found := declared.exclusive(reader, effect):
        return found
    makers = list(systemd.makers(reader, effect))
    menus = list(others.sources(reader, effect))
    zipl = [source for source in menus if source.loader == "zipl"]
    entries = [] if makers else list(systemd.sources(reader, effect))
    rest = [source for source in menus if source.loader != "zipl"]
    stub = list(declared.efi_stub(reader))
    found = [*makers, *zipl, *grub.sources(reader), *entries, *rest, *stub]
    if not found and effect and not _loader_info(reader):
        found = list(declared.unknown_stub(reader, effect))
    info = _loader_info(reader)
    found = [_possible(source, found, info, effect) for source in found]
    return sorted(found, key=lambda source: not (source.is_first or _has_booted(source, info) or not info))


def _has_booted(source: Source, info: str) -> bool:
    return bool(source.info) and info.startswith(source.info)


def _possible(source: Source, every: Sequence[Source], info: str, effect: Sequence[str] | None) -> Source:
    """Return the source, or one that says why it cannot be the one.

    GRUB, syslinux and LILO put BOOT_IMAGE= before all, systemd-boot and the EFI stub do not; and what is left of
    another loader may well give the same line.
    """
    if effect is None or _has_booted(source, info):
        return source
    has_image = "BOOT_IMAGE" in parameters.names(effect)
    if source.is_running and info:
        return structs.replace(source, evaluate=unclear(f"{source.loader} is here, but {info} has booted"))
    if info and not has_image and source.info == "GRUB":
        return structs.replace(source, evaluate=unclear(f"{source.place} belongs to GRUB, but {info} has booted"))
    is_menu = any(grub.DEFAULTS in each.files for each in every)
    if has_image and is_menu and source.info == "systemd-boot":
        return structs.replace(source, evaluate=unclear(f"{source.place} does not belong to GRUB, which has booted"))
    return source


def _loader_info(reader: Reader) -> str:
    """Return what the loader that booted says of itself: four bytes of attributes, then UTF-16."""
    return reader.bytes(_LOADER_INFO)[4:].decode("utf-16-le", "replace").rstrip("\0")


# --- the edit ----------------------------------------------------------------------------------------------------


def _edit(source: Source, effect: Sequence[str] | None, words: Sequence[str]) -> Edit | None:
    """Return the edit of a source, or None where it does not give the line in effect, or cannot be edited safely."""
    try:
        given = source.evaluate(source.files)
    except UnclearError:
        return None
    if effect is not None and _reason(source, given, effect, words):
        return None
    changes = proved(source, given, words)
    command = source.make(words, given) if source.make else source.command
    advice = source.advise(words) if source.advise else ""
    if not changes and not source.make and not advice:
        return None
    return Edit(
        loader=source.loader,
        file=changes[0].file if changes else "",
        line=changes[0].line if changes else "",
        changes=changes,
        command=command,
        advice=advice,
        pending=tuple(word for word in given if parameters.name(word) in parameters.names(words)),
    )


def _reason(source: Source, given: Sequence[str], effect: Sequence[str], words: Sequence[str]) -> str:
    """Return in what a source differs from the line in effect, or "". The words that are to be set do not count."""
    ignored = {*source.added, *parameters.names(words)}
    lacking, beside = parameters.difference(parameters.without(given, ignored), parameters.without(effect, ignored))
    found = []
    if lacking and not source.adds_more:
        found.append(f"does not give {' '.join(lacking)}")
    if beside:
        found.append(f"gives {' '.join(beside)}")
    return ", ".join(found)


def _unexplained(reader: Reader, sources: Sequence[Source], effect: Sequence[str] | None, words: Sequence[str]) -> Edit:
    reasons = list(dict.fromkeys([*_reasons(sources, effect, words), *reader.unreadable]))
    advice = f"add {' '.join(words)} to the kernel's command line"
    if reasons:
        shown = [*reasons[:_MOST_REASONS], *(["…"] if len(reasons) > _MOST_REASONS else [])]
        advice += f" where that is set: no known source gives the command line in effect ({'; '.join(shown)})"
    return Edit(loader=_UNKNOWN, advice=advice)


def _reasons(sources: Sequence[Source], effect: Sequence[str] | None, words: Sequence[str]) -> Iterator[str]:
    for source in sources:
        try:
            given = source.evaluate(source.files)
        except UnclearError as error:
            yield str(error)
            continue
        reason = _reason(source, given, effect, words) if effect is not None else ""
        yield f"{source.place} {reason or 'cannot be edited line by line without a loss'}"
