"""What a source of a command line is: files, what they give, and the changes that might add a parameter to it."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TypeVar

from msgspec import Struct

from kdump_initramfs.errors import HostError
from kdump_initramfs.host import tools
from kdump_initramfs.host.root import Root
from kdump_initramfs.loader.bootline import words

_T = TypeVar("_T")
# Where the file systems that boot loaders read are mounted.
BASES = ("/boot", "/efi", "/boot/efi")
# Path -> text, in the order in which the tool reads them.
Files = Mapping[str, str]


class UnclearError(Exception):
    """What the tool makes of its files cannot be told from here: why."""


class Change(Struct, frozen=True, kw_only=True):
    """One edit of a file: some of its lines, or none, become one line."""

    file: str
    line: str
    # Numbers of the first and the last line that are replaced; 0 where the line comes at the end.
    first: int = 0
    last: int = 0
    # The file is not there yet, or is empty.
    is_new: bool = False
    # Another line looks as if it were the one.
    is_ambiguous: bool = False

    def applied(self, text: str) -> str:
        lines = text.split("\n")
        if self.first:
            lines[self.first - 1 : self.last] = [self.line]
        elif lines[-1]:
            lines += [self.line, ""]
        else:
            lines[-1:] = [self.line, ""]
        return "\n".join(lines)

    def __str__(self) -> str:
        if self.is_new:
            return f"make {self.file}, with the line: {self.line}"
        if not self.first:
            return f"at the end of {self.file}, add the line: {self.line}"
        if self.first != self.last:
            return f"in {self.file}, in place of lines {self.first} to {self.last}, make the line: {self.line}"
        if self.is_ambiguous:
            return f"in {self.file}, in place of line {self.first}, make the line: {self.line}"
        return f"in {self.file}, make the line: {self.line}"


Evaluate = Callable[[Files], tuple[str, ...]]
# Ways to put words onto the line, the best first; each is a whole way, of one change or of several.
Propose = Callable[[Files, Sequence[str]], Iterator[tuple[Change, ...]]]


def unclear(reason: str) -> Evaluate:
    """Return what gives nothing, and says why."""

    def fail(_: Files) -> tuple[str, ...]:
        raise UnclearError(reason)

    return fail


class Source(Struct, frozen=True, kw_only=True):
    """One place that a command line may come from."""

    # Its name in messages: GRUB, systemd-boot, …
    loader: str
    # If it is there, it is in use, whatever boot loader it works for.
    is_first: bool = False
    # What LoaderInfo begins with where this loader has booted; "" where none of these does.
    info: str = ""
    files: Files
    evaluate: Evaluate
    propose: Propose | None = None
    # What is run after the change. Where there is no change: what makes it, of words and of what is given now.
    command: str = ""
    make: Callable[[Sequence[str], Sequence[str]], str] | None = None
    # In place of a command, where a person must do it.
    advise: Callable[[Sequence[str]], str] | None = None
    # Names of parameters that the loader or its tool adds by itself, whatever the files say.
    added: Collection[str] = ()
    # It gives the line in effect because its tool takes that where nothing is set: no evidence that it is in use.
    is_running: bool = False
    # The firmware or a boot script adds parameters that no file shows.
    adds_more: bool = False

    @property
    def place(self) -> str:
        """Return what to call it in a message."""
        return ", ".join(self.files) or self.loader


# A grub.cfg with a dozen of kernels has some 30,000; a hostile file must not keep `check` busy.
_MAX_CHARACTERS = 1 << 19


class Reader:
    """Reads files of a root, and notes those that cannot be read: not everybody may read what is in /boot."""

    def __init__(self, root: Root) -> None:
        self.root = root
        self.unreadable: list[str] = []

    def text(self, path: str) -> str | None:
        return self._noted(lambda: self._text(path) if self.root.is_file(path) else None)

    def _text(self, path: str) -> str | None:
        text = self.root.read_text(path)
        if text is not None and len(text) > _MAX_CHARACTERS:
            raise HostError(f"{path}: is too large for a boot loader's configuration")
        return text

    def bytes(self, path: str) -> bytes:
        return self._noted(lambda: self.root.read_bytes(path)) or b""

    def is_file(self, path: str) -> bool:
        return bool(self._noted(lambda: self.root.is_file(path)))

    def exists(self, path: str) -> bool:
        return bool(self._noted(lambda: self.root.exists(path)))

    def is_dir(self, path: str) -> bool:
        return bool(self._noted(lambda: self.root.is_dir(path)))

    def resolve(self, path: str) -> str:
        return self._noted(lambda: self.root.resolve(path)) or path

    def has(self, tool: str) -> bool:
        return bool(self._noted(lambda: tools.find(self.root, tool)))

    def word(self, path: str) -> str:
        return (self.text(path) or "").strip()

    def _noted(self, read: Callable[[], _T]) -> _T | None:
        try:
            return read()
        except HostError as error:
            self.unreadable.append(str(error))
            return None

    def list(self, path: str) -> tuple[str, ...]:
        try:
            return self._noted(lambda: tuple(self.root.list(path))) or ()
        except OSError as error:
            self.unreadable.append(f"{path}: {error.strerror}")
            return ()

    def matching(self, directory: str, ending: str) -> tuple[str, ...]:
        """Return the paths in a directory that end so, sorted as a shell sorts them, without hidden ones."""
        names = (name for name in self.list(directory) if name.endswith(ending) and not name.startswith("."))
        return tuple(f"{directory}/{name}" for name in names)

    def texts(self, paths: Sequence[str]) -> dict[str, str]:
        """Return the texts of those of the files that are there."""
        found = ((path, self.text(path)) for path in dict.fromkeys(paths))
        return {path: text for path, text in found if text is not None}


def proved(source: Source, given: Sequence[str], wanted: Sequence[str]) -> tuple[Change, ...]:
    """Return the first of the proposed ways after which the files give what they gave and what is wanted; () for none.

    This is what keeps an edit from losing a parameter: it is made, and the files are evaluated again.
    """
    expected = words.replaced(given, wanted)
    for way in source.propose(source.files, wanted) if source.propose else ():
        if all(_is_printable(change.line) for change in way) and _gives(source, way, expected):
            return way
    return ()


def _gives(source: Source, way: Sequence[Change], expected: Sequence[str]) -> bool:
    files = dict(source.files)
    # From the end of a file on, so that the numbers of lines stay true.
    for change in sorted(way, key=lambda change: -change.first or -(1 << 60)):
        files[change.file] = change.applied(files.get(change.file, ""))
    try:
        return words.is_same(source.evaluate(files), expected)
    except UnclearError:
        return False


def _is_printable(line: str) -> bool:
    """Tell whether a line can be copied from a terminal as it is."""
    return line.replace("\t", " ").isprintable()
