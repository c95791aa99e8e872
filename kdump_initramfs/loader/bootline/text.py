"""Files in which a command line stands as it is: alone, or on lines that begin with a word for it."""

import re
from collections.abc import Callable, Iterator, Sequence

from msgspec import Struct

from kdump_initramfs.loader.bootline import words
from kdump_initramfs.loader.bootline.source import Change, Evaluate, Files, Propose, UnclearError


class Slot(Struct, frozen=True, kw_only=True):
    """Where parameters stand: on one line of a file."""

    file: str
    number: int
    before: str
    value: str
    after: str = ""
    # The mark around the parameters, and what the mark itself is inside of it; "" for none.
    mark: str = ""
    escaped: str = ""
    # Which entry of a menu it belongs to; "" for those that have none of their own.
    entry: str = ""

    @property
    def words(self) -> tuple[str, ...]:
        value = self.value.replace(self.escaped, self.mark) if self.escaped else self.value
        return words.split(value)

    def with_words(self, found: Sequence[str]) -> str:
        before = " " if self.value[:1].isspace() else ""
        value = f"{before}{' '.join(found)}"
        if self.mark and self.mark in value:
            value = value.replace(self.mark, self.escaped or self.mark)
        return f"{self.before}{self.mark}{value}{self.mark}{self.after}"


class Format(Struct, frozen=True, kw_only=True):
    """How lines with parameters look, as regular expressions that are matched at the beginning of a line."""

    # What precedes the parameters, as the only group.
    key: str
    # What begins an entry, with its name as the only group; "" where a file is one entry.
    entry: str = ""
    # Each line with parameters is an entry of its own.
    is_entry: bool = False
    # The mark that may be around parameters (or a single quote), and how it is written inside of itself.
    mark: str = ""
    escaped: str = ""
    # What may follow parameters that are not in quotes.
    after: str = r"[ \t]*"
    # What a line begins with that is not there yet; None where none can be added.
    new: str | None = None
    # The tool reads no further than the first line.
    is_first_line: bool = False


# A file that holds nothing else, as /etc/kernel/cmdline; and one in which lines can be comments.
WHOLE = Format(key=r"(\s*)(?=\S)", new="")
COMMENTED = Format(key=r"(\s*)(?=[^\s#])", new="")


# What stands between double quotes, by how a quote is written there.
_INNER = {"": r'[^"]*', '""': r'(?:[^"]|"")*', r"\"": r'(?:[^"\\]|\\.)*'}


def slots(files: Files, form: Format) -> list[Slot]:
    """Return where parameters stand in the files."""
    return [slot for file, text in files.items() for slot in _slots(file, text, form)]


def _slots(file: str, text: str, form: Format) -> Iterator[Slot]:
    entry = ""
    lines = text.split("\n")[: 1 if form.is_first_line else None]
    for number, line in enumerate(lines, 1):
        if form.entry and (match := re.match(form.entry, line)):
            entry = match[1]
        elif match := re.match(form.key, line):
            yield _slot(form, file, line, match.end(1), number, str(number) if form.is_entry else entry)


def _slot(form: Format, file: str, line: str, start: int, number: int, entry: str) -> Slot:
    rest = line[start:]
    inner = _INNER[form.escaped]
    quoted = re.match(rf'(?:(?P<mark>")(?P<value>{inner})")(?P<after>(?:\s.*)?)$', rest, re.DOTALL)
    single = re.match(r"(?:(?P<mark>')(?P<value>[^']*)')(?P<after>(?:\s.*)?)$", rest, re.DOTALL)
    match = (quoted or single) if form.mark else None
    ends = re.search(rf"(?:{form.after})\r?$", rest)
    end = ends.start() if ends else len(rest)
    mark, value, after = match.group("mark", "value", "after") if match else ("", rest[:end], rest[end:])
    return Slot(
        file=file,
        number=number,
        before=line[:start],
        value=value,
        after=after.rstrip("\r"),
        mark=mark,
        escaped=form.escaped if mark != "'" else "",
        entry=entry,
    )


def entries(files: Files, form: Format) -> list[str]:
    """Return the names of the entries that have parameters, of their own or those of all."""
    return list(dict.fromkeys(slot.entry for slot in slots(files, form)))


def _of_entry(files: Files, form: Format, entry: str) -> list[Slot]:
    """Return what gives the parameters of an entry: its own, or what stands before the first entry."""
    found = slots(files, form)
    return [slot for slot in found if slot.entry == entry] or [slot for slot in found if not slot.entry]


def evaluate(form: Format, entry: str = "", variables: Callable[[], dict[str, str]] = dict) -> Evaluate:
    """Return what gives the parameters of an entry, with $NAME in them replaced as GRUB does."""

    def given(files: Files) -> tuple[str, ...]:
        found = tuple(word for slot in _of_entry(files, form, entry) for word in slot.words)
        if not any(word.startswith("$") for word in found):
            return found
        known = variables()
        text = re.sub(r"(?<!\S)\$\{?(\w+)\}?(?!\S)", lambda match: known.get(match[1], ""), " ".join(found))
        if "$" in text:
            raise UnclearError(f"{next(iter(files))}: {text} cannot be resolved")
        return words.split(text)

    return given


def proposals(form: Format, entry: str = "") -> Propose:
    """Return what proposes edits of an entry."""

    def propose(files: Files, wanted: Sequence[str]) -> Iterator[tuple[Change, ...]]:
        found = _of_entry(files, form, entry)
        held = [slot for slot in found if words.names(slot.words) & words.names(wanted)]
        for place in (*reversed(held), *found[-1:]):
            change = _change(place, words.replaced(place.words, wanted), found)
            yield (change,)
            kept = ((slot, words.without(slot.words, words.names(wanted))) for slot in held if slot is not place)
            yield (change, *(_change(slot, each, found) for slot, each in kept))
        file = next(iter(files), "")
        if not found and file and form.new is not None:
            yield (Change(file=file, line=f"{form.new}{form.mark}{' '.join(wanted)}{form.mark}"),)

    return propose


def filling(now: Sequence[str], written: str = "{}", file: str = "", write: Callable[[str], str] = str) -> Propose:
    """Return what proposes a file that is not there yet: it must hold all that is given without it."""

    def propose(files: Files, wanted: Sequence[str]) -> Iterator[tuple[Change, ...]]:
        line = written.format(write(" ".join(words.replaced(now, wanted))))
        place = file or next(iter(files))
        yield (Change(file=place, line=line, is_new=not files.get(place)),)

    return propose


def _change(place: Slot, found: Sequence[str], around: Sequence[Slot]) -> Change:
    same = [slot for slot in around if slot.file == place.file]
    return Change(
        file=place.file,
        line=place.with_words(found),
        first=place.number,
        last=place.number,
        is_ambiguous=len(same) > 1,
    )
