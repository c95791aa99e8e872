"""Fake machines as text: tests/hosts/NAME.tree, unpacked into a root directory when a test asks for it.

One directive per line; `| TEXT` lines after one are its content, `#` begins a comment, PATH is absolute:

    include PART              the directives of tests/hosts/parts/PART.tree
    dir PATH                  a directory
    file PATH [TEXT]          a file of one line, or of the lines that follow
    gzip PATH                 the lines that follow, compressed
    link PATH TARGET          a symbolic link; what an included part had at PATH is replaced
    remove PATH               nothing, whatever an included part had there
    elf PATH [needed=A,B] [interp=PATH] [soname=NAME] [machine=NAME] [holds=TEXT]
    busybox PATH [without=A,B] [needed=A,B] [interp=PATH] [machine=NAME]
    kernel PATH RELEASE [FORMAT]    a kernel image of that release: bzimage, uki, or another FORMAT of below
    modules DIR               modules.dep of the lines that follow, and a tiny module for each of them
    module PATH [calls=A,B] [KEY=VALUE]    one module with these lines of modinfo, which calls these functions
    device PATH TYPE UUID     the head of a block device with a file system (ext4, xfs)
"""

import gzip
import lzma
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import zstandard
from msgspec import Struct

from kdump_initramfs.formats import superblock
from tests import elfmaker, kernelmaker

HOSTS = Path(__file__).parent / "hosts"

_MACHINES = {"x86_64": elfmaker.X86_64, "aarch64": elfmaker.AARCH64, "s390x": elfmaker.S390X}


class Directive(Struct, frozen=True):
    verb: str
    path: str
    words: tuple[str, ...]
    lines: tuple[str, ...]

    @property
    def options(self) -> dict[str, str]:
        """Return the words that are KEY=VALUE."""
        return dict(word.split("=", 1) for word in self.words)

    @property
    def text(self) -> str:
        """Return the content of a file."""
        first = (" ".join(self.words),) if self.words else ()
        return "".join(f"{line}\n" for line in (*first, *self.lines))


def names() -> list[str]:
    """Return the names of all fake machines."""
    return sorted(path.stem for path in HOSTS.glob("*.tree"))


def unpack(name: str, directory: Path) -> None:
    """Make the tree of a fake machine below `directory`."""
    make((HOSTS / f"{name}.tree").read_text(), directory)


def make(text: str, directory: Path) -> None:
    """Make the tree that `text` describes below `directory`."""
    for directive in parse(text):
        place = directory / directive.path.lstrip("/")
        if directive.verb not in ("dir", "modules"):
            _remove(place)
        if directive.verb != "remove":
            place.parent.mkdir(parents=True, exist_ok=True)
            _MAKERS[directive.verb](directive, place)


def parse(text: str) -> Iterator[Directive]:
    """Yield the directives of a tree, those of included parts in their place."""
    blocks: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        if line.startswith("|"):
            blocks[-1][1].append(line[2:])
        elif line and not line.startswith("#"):
            blocks.append((line, []))
    for head, lines in blocks:
        verb, path, *words = head.split(" ")
        if verb == "include":
            yield from parse((HOSTS / "parts" / f"{path}.tree").read_text())
        else:
            yield Directive(verb, path, tuple(words), tuple(lines))


def _remove(place: Path) -> None:
    if place.is_symlink() or place.is_file():
        place.unlink()
    elif place.is_dir():
        shutil.rmtree(place)


def _make_directory(directive: Directive, place: Path) -> None:
    place.mkdir(exist_ok=True)


def _make_file(directive: Directive, place: Path) -> None:
    place.write_text(directive.text)


def _make_gzip(directive: Directive, place: Path) -> None:
    place.write_bytes(gzip.compress(directive.text.encode(), mtime=0))


def _make_link(directive: Directive, place: Path) -> None:
    place.symlink_to(directive.words[0])


def _make_elf(directive: Directive, place: Path) -> None:
    place.write_bytes(_elf(directive.options) + directive.options.get("holds", "").encode())
    place.chmod(0o755)


def _elf(options: dict[str, str]) -> bytes:
    return elfmaker.program(
        needed=options["needed"].split(",") if "needed" in options else (),
        interpreter=options.get("interp", ""),
        soname=options.get("soname", ""),
        machine=_MACHINES[options.get("machine", "x86_64")],
    )


def _make_busybox(directive: Directive, place: Path) -> None:
    without = directive.options.get("without", "").split(",")
    applets = [name for name in (HOSTS / "busybox-applets").read_text().split() if name not in without]
    place.write_bytes(_elf(directive.options) + b"\0" + "\0".join(applets).encode() + b"\0\0\1\2")
    place.chmod(0o755)


def _make_kernel(directive: Directive, place: Path) -> None:
    release, *form = directive.words
    place.write_bytes(_KERNELS[form[0] if form else "bzimage"](release))


_KERNELS: dict[str, Callable[[str], bytes]] = {
    "bzimage": kernelmaker.bzimage,
    "uki": lambda release: kernelmaker.uki(kernelmaker.bzimage(release), uname=release),
    "arm64": lambda release: kernelmaker.image("aarch64", kernelmaker.kernel(release)),
    "arm64-gzip": lambda release: kernelmaker.pack("gzip", kernelmaker.image("aarch64", kernelmaker.kernel(release))),
    "arm64-zboot": lambda release: kernelmaker.zboot(
        "aarch64", "gzip", kernelmaker.image("aarch64", kernelmaker.kernel(release))
    ),
    "s390": kernelmaker.s390,
    "vmlinux-ppc64le": lambda release: kernelmaker.vmlinux(elfmaker.PPC64LE, kernelmaker.kernel(release)),
}


def _make_modules(directive: Directive, place: Path) -> None:
    place.mkdir(exist_ok=True)
    (place / "modules.dep").write_text(directive.text)
    for line in directive.lines:
        module = place / line.partition(":")[0]
        module.parent.mkdir(parents=True, exist_ok=True)
        module.write_bytes(_packed(module.name, elfmaker.module(("name", module.name.partition(".")[0]))))


def _make_module(directive: Directive, place: Path) -> None:
    options = directive.options
    calls = options.pop("calls", "").split(",")
    pairs: Sequence[tuple[str, str]] = list(options.items())
    place.write_bytes(_packed(place.name, elfmaker.calling(*calls, pairs=pairs)))


def _packed(name: str, content: bytes) -> bytes:
    match os.path.splitext(name)[1]:
        case ".xz":
            return lzma.compress(content, check=lzma.CHECK_CRC32)
        case ".zst":
            return zstandard.ZstdCompressor().compress(content)
        case _:
            return content


def _make_device(directive: Directive, place: Path) -> None:
    family, uuid = directive.words
    layout = superblock.layouts(family)[0]
    head = bytearray(superblock.HEAD_BYTES)
    head[layout.magic_offset : layout.magic_offset + len(layout.magic)] = layout.magic
    head[layout.uuid_offset : layout.uuid_offset + layout.uuid_bytes] = bytes.fromhex(uuid.replace("-", ""))
    place.write_bytes(bytes(head))


_MAKERS: dict[str, Callable[[Directive, Path], None]] = {
    "dir": _make_directory,
    "file": _make_file,
    "gzip": _make_gzip,
    "link": _make_link,
    "elf": _make_elf,
    "busybox": _make_busybox,
    "kernel": _make_kernel,
    "modules": _make_modules,
    "module": _make_module,
    "device": _make_device,
}
