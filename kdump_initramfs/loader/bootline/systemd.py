"""What kernel-install(8) and tools like it make: entries of the Boot Loader Specification, unified kernel images.

systemd's 90-loaderentry.install and 60-ukify.install, ukify(1); mkinitcpio(8); dracut.conf(5); openSUSE's sdbootutil;
proxmox-boot-tool; kernelstub(8) of Pop!_OS; clr-boot-manager(1).
"""

import re
from collections.abc import Iterator, Sequence

from msgspec import Struct

from kdump_initramfs.loader.bootline import grub, shell, text, words
from kdump_initramfs.loader.bootline.source import BASES, Evaluate, Files, Propose, Reader, Source, unclear

CMDLINE = "/etc/kernel/cmdline"
# The one of the distribution, which that of the administrator replaces.
_SHIPPED = "/usr/lib/kernel/cmdline"
# 90-loaderentry.install adds the machine ID, systemd-boot and the EFI stub initrd=.
_ADDED = (*grub.BY_LOADER, "systemd.machine_id")
_INFO = "systemd-boot"
_DRACUT = ("/etc/dracut.conf", "/usr/lib/dracut/dracut.conf.d", "/etc/dracut.conf.d")
# How the names of kernel-install's entries begin unless there is a token, and what is in them.
_MACHINE = r"[0-9a-f]{32}-"
_MADE = r"^#.*loaderentry|^linux[ \t]+/[^/\s]+/[^/\s]+/linux[ \t]*$"
_DRACUT_CMDLINE = "kernel_cmdline"
_SETS_CMDLINE = re.compile(rf"^[ \t]*{_DRACUT_CMDLINE}\+?=", re.MULTILINE)
_MAKES_UKI = re.compile(r"^[ \t]*uefi=[\"']?yes", re.MULTILINE)
# Of mkinitcpio: what makes a unified image, in a preset.
_PRESET = r"^[ \t]*\w+_(?:uki|efi_image)=|^[ \t]*\w+_options=.*(?:--uki|-U )"
_DROP_INS = "/etc/cmdline.d"
_UKI = text.Format(key=r"(Cmdline[ \t]*=[ \t]*)(?!@)")


class Maker(Struct, frozen=True, kw_only=True):
    """A tool that makes what is booted from /etc/kernel/cmdline."""

    loader: str
    command: str
    # The tool that must be there, and a file beside it.
    tool: str
    file: str = ""
    added: tuple[str, ...] = _ADDED


MAKERS = (
    # Sets root=, the subvolume of the snapshot and the machine ID itself.
    Maker(
        loader="sdbootutil",
        command="sdbootutil update-all-entries",
        tool="sdbootutil",
        added=(*_ADDED, "root", "rootflags"),
    ),
    Maker(
        loader="Proxmox",
        command="proxmox-boot-tool refresh",
        tool="proxmox-boot-tool",
        file="/etc/kernel/proxmox-boot-uuids",
        # Where the machine boots by GRUB there is BOOT_IMAGE=, and /etc/default/grub counts.
        added=("initrd",),
    ),
)


def sources(reader: Reader, effect: Sequence[str] | None) -> Iterator[Source]:
    is_unified = False
    for source in _unified(reader, effect):
        is_unified = True
        yield source
    yield from _kernelstub(reader)
    yield from _clear(reader)
    shipped = _shipped_images(reader)
    if shipped:
        reason = f"{shipped[0]} contains its command line, which is signed with it; an addon can add to it"
        yield Source(loader="unified kernel image", info=_INFO, files={}, evaluate=unclear(reason))
    elif _is_used(reader):
        # What other tools make is not replaced by a file for this one.
        yield from _kernel_install(reader, None if is_unified else effect)
    yield from _entries(reader)


def makers(reader: Reader, effect: Sequence[str] | None) -> Iterator[Source]:
    """Yield what tools of a distribution make, which are there only where they are used."""
    for maker in MAKERS:
        if reader.has(maker.tool) and (not maker.file or reader.is_file(maker.file)):
            yield from cmdline(reader, effect, maker)


def _is_used(reader: Reader) -> bool:
    """Tell whether kernel-install makes what is booted: systemd brings it along where it makes nothing."""
    has_loader = _has_loader(reader)
    by_hand = [path for path in grub.entry_files(reader, BASES) if not _is_made(reader, path)]
    if reader.is_file(CMDLINE):
        return has_loader or bool(unified(reader)) or reader.has("kernel-install")
    return reader.has("kernel-install") and not by_hand and (has_loader or bool(unified(reader)))


def _is_made(reader: Reader, path: str) -> bool:
    """Tell whether an entry is one of kernel-install: it says so, or is named by a machine and a release."""
    entry, name = reader.text(path) or "", path.rpartition("/")[2]
    token = reader.word("/etc/kernel/entry-token") or reader.word("/etc/machine-id")
    is_named = bool(token) and name.startswith(f"{token}-")
    return is_named or bool(re.match(_MACHINE, name) or re.search(_MADE, entry, re.MULTILINE))


def _shipped_images(reader: Reader) -> list[str]:
    """Return unified images that the distribution has built (kernel-uki-virt): kernel-install only copies them."""
    release = reader.word("/proc/sys/kernel/osrelease")
    return list(reader.matching(f"/lib/modules/{release}", ".efi")) if release and unified(reader) else []


def unified(reader: Reader) -> list[str]:
    return [path for base in BASES for path in reader.matching(f"{base}/EFI/Linux", ".efi")]


# --- kernel-install ----------------------------------------------------------------------------------------------


def _kernel_install(reader: Reader, effect: Sequence[str] | None) -> Iterator[Source]:
    maker = Maker(loader="systemd-boot", command=_install(reader), tool="kernel-install")
    yield from cmdline(reader, effect, maker)


def _install(reader: Reader) -> str:
    release = reader.word("/proc/sys/kernel/osrelease")
    beside, boot = f"/lib/modules/{release}/vmlinuz", f"/boot/vmlinuz-{release}"
    is_in_boot = reader.is_file(boot) and not reader.is_file(beside)
    image = "/boot/vmlinuz-$(uname -r)" if is_in_boot else "/lib/modules/$(uname -r)/vmlinuz"
    return f"kernel-install add $(uname -r) {image}"


def cmdline(reader: Reader, effect: Sequence[str] | None, maker: Maker) -> Iterator[Source]:
    """Yield /etc/kernel/cmdline; where it is not there, what is written to it must be the whole line.

    The tools take the one of the distribution then, or the line of the running kernel: a file with one parameter alone
    would replace all of it.
    """
    there = reader.text(CMDLINE)
    info = "" if maker.tool == "sdbootutil" else _INFO
    if there is not None:
        yield _whole(maker, info, {CMDLINE: there})
        return
    if reader.unreadable:
        return
    shipped = words.split(reader.text(_SHIPPED) or "")
    running = words.without(effect or (), ("BOOT_IMAGE", "initrd"))
    for now in (shipped, running):
        if now:
            yield _whole(maker, info, {CMDLINE: ""}, now)


def _whole(maker: Maker, info: str, files: Files, now: Sequence[str] = ()) -> Source:
    return Source(
        loader=maker.loader,
        is_first=maker in MAKERS,
        is_running=bool(now) and maker.tool == "kernel-install",
        info=info,
        files=files,
        evaluate=_or(now),
        propose=text.proposals(text.WHOLE) if not now else text.filling(now),
        command=maker.command,
        added=maker.added,
    )


def _or(now: Sequence[str]) -> Evaluate:
    """Return what gives the words of a file, or those that the tool takes where it is not there."""
    given = text.evaluate(text.WHOLE)
    return lambda files: given(files) or tuple(now)


# --- unified kernel images ---------------------------------------------------------------------------------------


def _unified(reader: Reader, effect: Sequence[str] | None) -> Iterator[Source]:
    if _presets(reader):
        yield from _mkinitcpio(reader, effect)
    if reader.has("dracut"):
        yield from _dracut(reader, effect)
    uki = reader.texts(["/etc/kernel/uki.conf"])
    if text.slots(uki, _UKI):
        yield Source(
            loader="ukify",
            info=_INFO,
            files=uki,
            evaluate=text.evaluate(_UKI),
            propose=text.proposals(_UKI),
            command=_install(reader),
            added=_ADDED,
        )


def _presets(reader: Reader) -> bool:
    presets = reader.texts(reader.matching("/etc/mkinitcpio.d", ".preset"))
    is_preset = any(re.search(_PRESET, preset, re.MULTILINE) for preset in presets.values())
    return is_preset or bool(reader.has("mkinitcpio") and unified(reader) and reader.is_dir(_DROP_INS))


def _mkinitcpio(reader: Reader, effect: Sequence[str] | None) -> Iterator[Source]:
    """Yield what mkinitcpio takes: /etc/kernel/cmdline, or all of /etc/cmdline.d, without lines that are comments."""
    found = [reader.texts(paths) for paths in ((CMDLINE,), reader.matching(_DROP_INS, ".conf"))]
    for files in filter(None, found):
        yield Source(
            loader="mkinitcpio",
            info=_INFO,
            files=files,
            evaluate=text.evaluate(text.COMMENTED),
            propose=text.proposals(text.COMMENTED),
            command="mkinitcpio -P",
            added=_ADDED,
        )
    if not any(found):
        yield from cmdline(reader, effect, Maker(loader="mkinitcpio", command="mkinitcpio -P", tool="mkinitcpio"))


def _dracut(reader: Reader, effect: Sequence[str] | None) -> Iterator[Source]:
    """Yield dracut's configuration, where it sets a command line for unified images, or makes such images."""
    first, *directories = _DRACUT
    drop_ins = {path.rpartition("/")[2]: path for each in directories for path in reader.matching(each, ".conf")}
    files = reader.texts([first, *(drop_ins[name] for name in sorted(drop_ins))])
    if any(_SETS_CMDLINE.search(content) for content in files.values()):
        yield _dracut_source(files, _dracut_cmdline, shell.proposals((_DRACUT_CMDLINE,)))
        return
    installed = reader.texts(reader.matching(_DROP_INS, ".conf"))
    if installed and unified(reader) and not _presets(reader):
        # What install_items takes along is the line of the image.
        yield _dracut_source(installed, text.evaluate(text.WHOLE), text.proposals(text.WHOLE))
        return
    running = words.without(effect or (), ("initrd",))
    if running and "BOOT_IMAGE" not in words.names(running) and any(map(_MAKES_UKI.search, files.values())):
        place = "/etc/dracut.conf.d/kernel-cmdline.conf"
        new = text.filling(running, written='kernel_cmdline="{}"', write=shell.escaped, file=place)
        yield _dracut_source(files, lambda files: _dracut_cmdline(files) or running, new)


def _dracut_source(files: Files, evaluate: Evaluate, propose: Propose) -> Source:
    return Source(
        loader="dracut",
        info=_INFO,
        files=files,
        evaluate=evaluate,
        propose=propose,
        command="dracut --force --regenerate-all",
        added=_ADDED,
    )


def _dracut_cmdline(files: Files) -> tuple[str, ...]:
    return words.split(shell.values(files, (_DRACUT_CMDLINE,), can_append=True).get(_DRACUT_CMDLINE, ""))


# --- others that make entries ------------------------------------------------------------------------------------


def _kernelstub(reader: Reader) -> Iterator[Source]:
    if not reader.has("kernelstub"):
        return
    for path in grub.entry_files(reader, BASES):
        yield Source(
            loader="kernelstub",
            info=_INFO,
            files=reader.texts([path]),
            evaluate=text.evaluate(grub.ENTRY),
            make=_stub_command,
            added=grub.BY_LOADER,
        )


def _stub_command(wanted: Sequence[str], given: Sequence[str]) -> str:
    old = [word for word in given if words.name(word) in words.names(wanted)]
    delete = f"kernelstub --delete-options {grub.quoted(old)} && " if old else ""
    return f"{delete}kernelstub --add-options {grub.quoted(wanted)}"


def _clear(reader: Reader) -> Iterator[Source]:
    """Yield what clr-boot-manager adds to the line of the distribution (Clear Linux, Solus)."""
    files = reader.texts((CMDLINE, *reader.matching("/etc/kernel/cmdline.d", ".conf")))
    if files and reader.has("clr-boot-manager"):
        yield Source(
            loader="clr-boot-manager",
            info=_INFO,
            files=files,
            evaluate=text.evaluate(text.COMMENTED),
            propose=text.proposals(text.COMMENTED),
            command="clr-boot-manager update",
            adds_more=True,
        )


def _has_loader(reader: Reader) -> bool:
    """Whether systemd-boot is configured."""
    return any(reader.is_file(f"{base}/loader/loader.conf") for base in BASES)


def _entries(reader: Reader) -> Iterator[Source]:
    """Yield entries that are kept by hand."""
    has_loader = _has_loader(reader)
    for path in grub.entry_files(reader, BASES):
        if reader.has("grubby") and path.startswith("/boot/loader/"):
            continue
        yield Source(
            loader=_INFO if has_loader else "entry of the boot loader",
            info=_INFO,
            files=reader.texts([path]),
            evaluate=text.evaluate(grub.ENTRY, variables=lambda: grub.environment(reader)),
            propose=text.proposals(grub.ENTRY),
            added=grub.BY_LOADER,
        )
