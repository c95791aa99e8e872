"""What the dynamic linker will open for a program: its libraries, looked up below a root as ld.so(8) looks them up.

The capture image carries no ld.so.cache. So what a library directory owes to /etc/ld.so.conf alone, and not to the
dynamic linker's own list, is told apart: such directories must be named in LD_LIBRARY_PATH there.
"""

import fnmatch
import os
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from itertools import takewhile
from typing import BinaryIO

from msgspec import Struct

from kdump_initramfs.errors import HostError, KdumpError, raise_together
from kdump_initramfs.formats import elf
from kdump_initramfs.host.root import Root

# BINPRM_BUF_SIZE, include/uapi/linux/binfmts.h: as much as the kernel reads of a script.
_SHEBANG_BYTES = 256
# Where env(1) looks, as the capture environment sets PATH.
_PROGRAM_DIRS = ("/usr/sbin", "/usr/bin", "/sbin", "/bin")
# One entry of glibc's compiled-in list (elf/dl-load.c: system_dirs), and more than the length of all of it.
_find_system_dir = re.compile(rb"/lib\w*/\0").search
_SYSTEM_DIRS_BYTES = 4096
# musl, ldso/dynlink.c: the list that holds without /etc/ld-musl-ARCH.path, and the names that libc itself answers to.
_MUSL_DIRS = ("/lib", "/usr/local/lib", "/usr/lib")
_is_musl_libc = re.compile(r"lib(?:c|pthread|rt|m|dl|util|xnet)\.").match
# What a library opens by name when it runs, and no ELF header names: the threads of Argon2 end by pthread_exit(3), for
# which glibc opens this one, or aborts.
OPENED_LATER = {"libcryptsetup.so.12": ("libgcc_s.so.1",)}
_find_tokens = re.compile(r"\$(?:\{(ORIGIN|LIB|PLATFORM)\}|(ORIGIN|LIB|PLATFORM))")


class Closure(Struct, frozen=True, kw_only=True):
    """What programs need at run time, beside themselves."""

    # Dynamic linkers, libraries and script interpreters, by the path under which they are looked up (links in it not
    # resolved), each with the files that need it.
    files: Mapping[str, tuple[str, ...]]
    # Directories of libraries that are known from ld.so.conf (or ld-musl-ARCH.path) only, in its order: the
    # LD_LIBRARY_PATH for an image that has no ld.so.cache.
    library_dirs: tuple[str, ...]


class _Linker(Struct, frozen=True, kw_only=True):
    """One dynamic linker: where it looks without being told by the program."""

    path: str
    # From ld.so.conf or ld-musl-ARCH.path.
    configured: tuple[str, ...]
    # Compiled in.
    default: tuple[str, ...]
    # The value of $LIB: lib, lib64 or lib/TRIPLET.
    lib: str = "lib"
    is_musl: bool = False

    @property
    def search(self) -> tuple[str, ...]:
        if self.is_musl:
            return self.configured or self.default
        return self.configured + self.default


class _Object(Struct, frozen=True, kw_only=True):
    """A loaded program or library."""

    path: str
    file: elf.ElfFile
    # What it is searched for by: the object whose DT_NEEDED named it.
    loader: "_Object | None" = None


def closure(root: Root, binaries: Iterable[str]) -> Closure:
    """Return what `binaries` (absolute paths of programs, libraries or scripts in `root`) need at run time.

    Whatever is missing is gathered and raised together.
    """
    walk = _Walk(root)
    walk.run(binaries)
    raise_together(walk.problems)
    return Closure(
        files={path: tuple(needed_by) for path, needed_by in walk.files.items()},
        library_dirs=tuple(walk.library_dirs()),
    )


class _Walk:
    """The search for all programs; what it has read and found is shared between them."""

    def __init__(self, root: Root) -> None:
        self.root = root
        self.problems: list[KdumpError] = []
        # Path -> who needs it; the values are ordered sets.
        self.files: dict[str, dict[str, None]] = {}
        self._elf: dict[str, elf.ElfFile | None] = {}
        self._linkers: dict[str, _Linker] = {}
        self._real: dict[str, str] = {}
        self._configured: tuple[str, ...] | None = None
        self._beside_defaults: set[str] = set()
        self._found: dict[tuple[str, str, str, int], str | None] = {}

    def run(self, binaries: Iterable[str]) -> None:
        programs = deque(binaries)
        done: set[str] = set()
        while programs:
            path = programs.popleft()
            if path in done:
                continue
            done.add(path)
            try:
                programs.extend(self._program(path))
            except HostError as error:
                self.problems.append(error)

    def library_dirs(self) -> Iterator[str]:
        """Yield the directories, of those that libraries were found in, which no linker searches by itself."""
        configured = (directory for linker in self._linkers.values() for directory in linker.configured)
        return (directory for directory in dict.fromkeys(configured) if directory in self._beside_defaults)

    # --- programs ------------------------------------------------------------------------------------------------

    def _program(self, path: str) -> list[str]:
        """Record what one program needs; return further programs to look at (interpreters of scripts)."""
        file = self._read(path)
        if file is None:
            return self._script(path)
        self._libraries(_Object(path=self.root.resolve(path), file=file), path)
        return []

    def _script(self, path: str) -> list[str]:
        words = self._shebang(path)
        programs = [words[0]]
        if os.path.basename(words[0]) == "env":
            programs += [word for word in words[1:] if not word.startswith("-") and "=" not in word][:1]
        found = []
        for program in programs:
            place = program if program.startswith("/") else self._which(program)
            if not self.root.is_file(place):
                raise HostError(f"{path}: its interpreter {program} is missing", hint=f"install {program}")
            self._need(place, path)
            found.append(place)
        return found

    def _shebang(self, path: str) -> list[str]:
        """Return the words of the first line of a script, without the #!."""
        try:
            with open(self.root.host(path), "rb", buffering=0) as stream:
                start = stream.read(_SHEBANG_BYTES)
        except OSError as error:
            raise HostError(f"{path}: {error.strerror}") from None
        words = start[2:].partition(b"\n")[0].decode("utf-8", "surrogateescape").split()
        if not start.startswith(b"#!") or not words:
            raise HostError(f"{path}: neither an ELF file nor a script that begins with #! and its interpreter")
        return words

    def _which(self, program: str) -> str:
        places = [f"{directory}/{program}" for directory in _PROGRAM_DIRS]
        return next((place for place in places if self.root.is_file(place)), places[0])

    def _need(self, path: str, needed_by: str) -> None:
        self.files.setdefault(path, {})[needed_by] = None

    def _read(self, path: str) -> elf.ElfFile | None:
        """Return the facts of an ELF file, or None where there is none."""
        if path not in self._elf:
            self._elf[path] = _read_elf(self.root, path)
        return self._elf[path]

    # --- libraries -----------------------------------------------------------------------------------------------

    def _libraries(self, program: _Object, name: str) -> None:
        """Record the linker of a program and all libraries, breadth first as ld.so loads them.

        A library that is loaded already, by its name or soname, is not searched again, so what another object's
        RUNPATH would find does not count.
        """
        linker = self._linker(program.file, name)
        loaded = {os.path.basename(linker.path)}
        queue = deque([program])
        while queue:
            loader = queue.popleft()
            for needed in (*loader.file.needed, *_opened_later(loader, linker)):
                if needed in loaded or (linker.is_musl and _is_musl_libc(needed)):
                    continue
                loaded.add(needed)
                path = self._find(needed, loader, linker)
                file = None if path is None else self._read(path)
                if path is None or file is None:
                    self._missing(needed, name if loader is program else loader.path)
                    continue
                self._need(path, name if loader is program else loader.path)
                loaded.add(file.soname)
                queue.append(_Object(path=path, file=file, loader=loader))

    def _missing(self, library: str, needed_by: str) -> None:
        message = f"{needed_by}: needs the library {library}, which is not there"
        if all(str(problem) != message for problem in self.problems):
            self.problems.append(HostError(message, hint=f"install the package that holds {library}"))

    def _find(self, needed: str, loader: _Object, linker: _Linker) -> str | None:
        """Return where the linker finds a library, in the order of ld.so(8)."""
        fits = partial(self._fits, like=loader.file)
        if "/" in needed:
            path = _expand(needed, loader, linker)
            return path if path.startswith("/") and fits(path) else None
        for directory in _own_dirs(loader, linker):
            if fits(path := f"{self._normal(directory)}/{needed}"):
                return path
        key = (needed, linker.path, loader.file.machine, loader.file.bits)
        if key not in self._found:
            self._found[key] = self._find_system(needed, linker, loader.file)
        return self._found[key]

    def _find_system(self, needed: str, linker: _Linker, like: elf.ElfFile) -> str | None:
        """Return where a library lies in the directories of the system, and note if they are configured only."""
        default = {self._resolve(directory) for directory in linker.default}
        for directory in linker.search:
            if self._fits(path := f"{directory}/{needed}", like=like):
                if self._resolve(directory) not in default:
                    self._beside_defaults.add(directory)
                return path
        return None

    def _fits(self, path: str, *, like: elf.ElfFile) -> bool:
        """Whether there is a library for the same machine: ld.so passes over those of another class."""
        file = self._read(path)
        return file is not None and (file.machine, file.bits, file.endianness) == (
            like.machine,
            like.bits,
            like.endianness,
        )

    def _resolve(self, directory: str) -> str:
        if directory not in self._real:
            self._real[directory] = self.root.resolve(directory)
        return self._real[directory]

    def _normal(self, directory: str) -> str:
        """Return the directory without `..`, which means what the links on the way make of it."""
        return self._resolve(directory) if ".." in directory else directory.rstrip("/")

    # --- linkers -------------------------------------------------------------------------------------------------

    def _linker(self, file: elf.ElfFile, name: str) -> _Linker:
        interpreter = file.interpreter
        if interpreter:
            if not self.root.is_file(interpreter):
                raise HostError(f"{name}: its dynamic linker {interpreter} is missing", hint="install the C library")
            self._need(interpreter, name)
        if interpreter not in self._linkers:
            self._linkers[interpreter] = self._new_linker(interpreter)
        return self._linkers[interpreter]

    def _new_linker(self, interpreter: str) -> _Linker:
        musl = re.fullmatch(r"(.*)/lib/ld-musl-(.+)\.so\.1", interpreter)
        if musl:
            listed = self.root.read_text(f"{musl[1]}/etc/ld-musl-{musl[2]}.path") or ""
            configured = tuple(part for part in re.split(r"[:\n]", listed) if part.startswith("/"))
            return _Linker(path=interpreter, configured=configured, default=_MUSL_DIRS, is_musl=True)
        if self._configured is None:
            self._configured = tuple(_configured_dirs(self.root))
        compiled_in = _compiled_in(self.root, interpreter)
        default = compiled_in or tuple(_usual_dirs(self.root))
        lib = compiled_in[0].removeprefix("/usr").strip("/") if compiled_in else "lib"
        return _Linker(path=interpreter, configured=self._configured, default=default, lib=lib)


def _read_elf(root: Root, path: str) -> elf.ElfFile | None:
    """Return the facts of an ELF file; None where there is no file or another one, such as a linker script."""
    try:
        stream: BinaryIO = open(root.host(path), "rb")  # noqa: SIM115 - only opening may fail with OSError
    except OSError:
        return None
    with stream:
        if stream.read(len(elf.MAGIC)) != elf.MAGIC:
            return None
        return elf.read(stream, path)


def _opened_later(loader: _Object, linker: _Linker) -> tuple[str, ...]:
    return () if linker.is_musl else OPENED_LATER.get(loader.file.soname, ())


def _own_dirs(loader: _Object, linker: _Linker) -> Iterator[str]:
    """Yield what RPATH and RUNPATH say, of the object itself and of those that loaded it.

    glibc: RPATH counts unless the object has a RUNPATH, and is inherited; RUNPATH is for the object's own needs.
    musl knows no difference between the two, and inherits both.
    """
    if linker.is_musl or not loader.file.runpath:
        each: _Object | None = loader
        while each:
            paths = each.file.runpath or each.file.rpath if linker.is_musl else _rpath(each)
            yield from _expanded(paths, each, linker)
            each = each.loader
    if not linker.is_musl:
        yield from _expanded(loader.file.runpath, loader, linker)


def _rpath(each: _Object) -> tuple[str, ...]:
    return () if each.file.runpath else each.file.rpath


def _expanded(paths: tuple[str, ...], each: _Object, linker: _Linker) -> Iterator[str]:
    """Yield the absolute paths: a relative one would depend on the directory that a program is started in."""
    for path in paths:
        if (expanded := _expand(path, each, linker)).startswith("/"):
            yield expanded


def _expand(path: str, each: _Object, linker: _Linker) -> str:
    """Replace the dynamic string tokens of ld.so(8)."""
    values = {"ORIGIN": os.path.dirname(each.path), "LIB": linker.lib, "PLATFORM": each.file.machine}
    return _find_tokens.sub(lambda match: values[match[1] or match[2]], path)


def _compiled_in(root: Root, interpreter: str) -> tuple[str, ...]:
    """Return the directories that glibc's dynamic linker searches by itself, as its distribution compiled them in.

    They are NUL-terminated strings that end in a slash, one after the other.
    """
    data = (root.read_bytes(interpreter) or b"") if interpreter else b""
    match = _find_system_dir(data)
    if match is None:
        return ()
    before = data[max(0, match.start() - _SYSTEM_DIRS_BYTES) : match.end() - 1].split(b"\0")
    after = data[match.end() : match.end() + _SYSTEM_DIRS_BYTES].split(b"\0")
    found = [*reversed(list(takewhile(_is_directory, reversed(before)))), *takewhile(_is_directory, after)]
    return tuple(each.decode("utf-8", "surrogateescape").rstrip("/") for each in found)


def _is_directory(string: bytes) -> bool:
    return len(string) > 1 and string.startswith(b"/") and string.endswith(b"/")


def _usual_dirs(root: Root) -> Iterator[str]:
    """Yield the usual directories, for a library on its own that names no dynamic linker."""
    for directory in ("/lib", "/usr/lib"):
        yield from (f"{directory}/{name}" for name in root.list(directory) if "-linux-" in name)
    yield from ("/lib64", "/usr/lib64", "/lib", "/usr/lib")


def _configured_dirs(root: Root) -> Iterator[str]:
    """Yield the directories of /etc/ld.so.conf and what it includes (ldconfig(8); glibc, elf/ldconfig.c)."""
    lines = _config_lines(root, "/etc/ld.so.conf")
    seen: set[str] = set()
    while lines:
        line = lines.popleft()
        words = line.split()
        if words[0] == "include":
            files = [path for pattern in words[1:] for path in _glob(root, pattern)]
            for path in reversed([path for path in files if path not in seen]):
                seen.add(path)
                lines.extendleft(reversed(_config_lines(root, path)))
        elif line.startswith("/"):
            yield line.partition("=")[0].rstrip().rstrip("/")  # "=TYPE" names the kind of C library


def _config_lines(root: Root, path: str) -> deque[str]:
    lines = (line.partition("#")[0].strip() for line in (root.read_text(path) or "").splitlines())
    return deque(line for line in lines if line)


def _glob(root: Root, pattern: str) -> Iterator[str]:
    """Yield the files that a pattern of ld.so.conf names; only its last part may have wildcards."""
    directory, name = os.path.split(pattern if pattern.startswith("/") else f"/etc/{pattern}")
    for each in root.list(directory):
        if fnmatch.fnmatchcase(each, name) and not each.startswith("."):
            yield f"{directory}/{each}"
