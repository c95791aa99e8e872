"""Files that a shell sources, such as /etc/default/grub: what they assign to a variable, and how that is edited.

As much of the language as such files are written in (POSIX.1-2017, 2.2, 2.6, 2.9.1): assignments in a row, quotes,
escapes, continued lines, comments and expansions of variables. What depends on anything else is said to be unclear.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence

from msgspec import Struct

from kdump_initramfs.loader.bootline import words
from kdump_initramfs.loader.bootline.source import Change, Files, Propose, UnclearError

_START = re.compile(r"(?:(?:export|readonly|declare|typeset)[ \t]+(?:-\w+[ \t]+)*)?([A-Za-z_]\w*)(\+?)=")
_KEYWORD = re.compile(r"(?:then|do|else|elif|!)(?=[\s;])")
_OPENS = re.compile(r"(?:if|for|while|until|case|select|function|\{|\()(?=[\s(]|$)|\w+[ \t]*\(\)")
_CLOSES = re.compile(r"(?:fi|done|esac|\}|\))(?=[\s;&|#]|$)")
_READS_MORE = re.compile(r"(?:^|[;&|(]\s*)(?:\.|source|eval|read|unset|exit|return|exec)(?=\s|$)")
_PARAMETER = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)(?::?-([^{}$`\"'\\]*))?\})")
# ${NAME:+$NAME }, by which tuned and others append to what may be empty.
_ALTERNATIVE = re.compile(r"\$\{([A-Za-z_]\w*):\+((?:[^{}$`\"'\\]|\$[A-Za-z_]\w*)*)\}")
_BLANK = " \t\n"
_ENDS_WORD = " \t\n;&|<>()"


class Piece(Struct, frozen=True):
    """A part of a value: text, or an expansion as it is written."""

    text: str
    is_code: bool = False


class Assignment(Struct, frozen=True, kw_only=True):
    file: str
    name: str
    # With += (which is not POSIX).
    appends: bool
    pieces: tuple[Piece, ...]
    # Where the value lies in the text of the file.
    start: int
    end: int
    # It may not be made: it stands behind an `if`, or in a function.
    is_conditional: bool


class _Scanner:
    """Goes through the text of one file, command by command."""

    def __init__(self, file: str, text: str) -> None:
        self.file, self.text, self.at, self.depth = file, text, 0, 0

    def assignments(self) -> Iterator[Assignment | str]:
        """Yield the assignments; any other command as its text."""
        while self._skip_to_command():
            if match := _KEYWORD.match(self.text, self.at):
                self.at = match.end()
            elif match := _CLOSES.match(self.text, self.at):
                self.depth -= 1
                self.at = match.end()
            elif match := _START.match(self.text, self.at):
                yield from self._assignment(match)
            else:
                if _OPENS.match(self.text, self.at):
                    self.depth += 1
                yield self._command()

    def _skip_to_command(self) -> bool:
        while self.at < len(self.text):
            if self.text[self.at] == "#":
                self._skip_comment()
            elif self.text[self.at] in " \t\r\n;":
                self.at += 1
            elif self.text.startswith("\\\n", self.at):
                self.at += 2
            else:
                return True
        return False

    def _skip_comment(self) -> None:
        end = self.text.find("\n", self.at)
        self.at = len(self.text) if end < 0 else end

    def _assignment(self, match: re.Match[str]) -> Iterator[Assignment | str]:
        begin, self.at = self.at, match.end()
        start = self.at
        pieces = tuple(self._word())
        end = self.at
        while self.text.startswith((" ", "\t", "\\\n"), self.at):
            self.at += 2 if self.text[self.at] == "\\" else 1
        following = self.text[self.at : self.at + 1]
        if following not in ("", "\n", "\r", ";", "#") and not _START.match(self.text, self.at):
            # What is assigned before a command is for this command alone.
            self._command()
            yield self.text[begin : self.at]
            return
        yield Assignment(
            file=self.file,
            name=match[1],
            appends=bool(match[2]),
            pieces=pieces,
            start=start,
            end=end,
            is_conditional=self.depth > 0,
        )

    def _command(self) -> str:
        """Skip a command to its end, and return its text."""
        begin = self.at
        while self.at < len(self.text) and self.text[self.at] not in "\n;":
            if self.text[self.at] == "#" and self.text[self.at - 1] in _BLANK:
                break
            before = self.at
            for _ in self._word():
                pass
            if self.at == before:
                self.at += 1
        return self.text[begin : self.at]

    # --- words ---

    def _word(self) -> Iterator[Piece]:
        while self.at < len(self.text) and self.text[self.at] not in _ENDS_WORD:
            char = self.text[self.at]
            if char == "'":
                yield Piece(self._until("'"))
            elif char == '"':
                yield from self._double()
            elif char == "\\":
                yield from self._escape(" ", is_quoted=False)
            elif char in "$`":
                yield self._expansion()
            else:
                self.at += 1
                yield Piece(char)

    def _until(self, mark: str) -> str:
        end = self.text.find(mark, self.at + 1)
        if end < 0:
            raise self._unclear("a quote is not closed")
        found, self.at = self.text[self.at + 1 : end], end + 1
        return found

    def _double(self) -> Iterator[Piece]:
        opened = self.at
        self.at += 1
        while self.at < len(self.text):
            char = self.text[self.at]
            if char == '"':
                self.at += 1
                return
            if char == "\\":
                yield from self._escape('$`"\\', is_quoted=True)
            elif char in "$`":
                yield self._expansion()
            else:
                self.at += 1
                yield Piece(char)
        self.at = opened
        raise self._unclear("a quote is not closed")

    def _escape(self, special: str, *, is_quoted: bool) -> Iterator[Piece]:
        char = self.text[self.at + 1 : self.at + 2]
        self.at += 2
        if char == "\n":
            return
        yield Piece(char if not is_quoted or char in special else f"\\{char}")

    def _expansion(self) -> Piece:
        begin = self.at
        match = _PARAMETER.match(self.text, self.at) or _ALTERNATIVE.match(self.text, self.at)
        if match:
            self.at = match.end()
        elif self.text[self.at] == "`":
            self._until("`")
        elif self.text.startswith(("$(", "${"), self.at):
            self._skip_brackets()
        else:
            self.at += 1
            # A $ that begins nothing is itself.
            if not re.match(r"[\w@*#?$!-]", self.text[self.at : self.at + 1]):
                return Piece("$")
            self.at += 1
        return Piece(self.text[begin : self.at], is_code=True)

    def _skip_brackets(self) -> None:
        opening, depth, begin = self.text[self.at + 1], 0, self.at
        closing = {"(": ")", "{": "}"}[opening]
        for position in range(self.at, len(self.text)):
            depth += {opening: 1, closing: -1}.get(self.text[position], 0)
            if depth == 0 and position > begin:
                self.at = position + 1
                return
        raise self._unclear(f"a {opening} is not closed")

    def _unclear(self, reason: str) -> UnclearError:
        return UnclearError(f"{self.file}: line {self.text.count(chr(10), 0, self.at) + 1}: {reason}")


def scan(files: Files, targets: Collection[str]) -> list[Assignment]:
    """Return the assignments of all files in their order; raise UnclearError where others may set the targets."""
    found: list[Assignment] = []
    for file, text in files.items():
        for each in _Scanner(file, text).assignments():
            if isinstance(each, Assignment):
                found.append(each)
            elif _READS_MORE.search(each) or _mentions(each, targets):
                raise UnclearError(f"{file}: cannot evaluate `{each.split(chr(10))[0].strip()}`")
    return found


def _mentions(command: str, targets: Collection[str]) -> bool:
    return "<<" in command or any(re.search(rf"\b{re.escape(target)}\+?=", command) for target in targets)


def conditions(files: Files, targets: Collection[str]) -> int:
    """Return how many assignments to the targets are made under a condition; 0 where that cannot be told."""
    try:
        return sum(each.is_conditional and each.name in targets for each in scan(files, targets))
    except UnclearError:
        return 0


def values(
    files: Files, targets: Collection[str], *, can_append: bool, made: Collection[int] | None = None
) -> dict[str, str]:
    """Return what the targets are set to after all files are read; raise UnclearError where that cannot be told.

    `made` are the numbers of the assignments under a condition that are taken to be made.
    """
    known: dict[str, str | None] = {}
    number = -1
    for each in scan(files, targets):
        is_target = each.name in targets
        if is_target and ((each.is_conditional and made is None) or (each.appends and not can_append)):
            reason = "is set under a condition" if each.is_conditional else "is set by +=, which /bin/sh does not know"
            raise UnclearError(f"{each.file}: {each.name} {reason}")
        number += each.is_conditional and is_target
        if each.is_conditional and is_target and number not in (made or ()):
            continue
        value = None if each.is_conditional and not is_target else _expand(each.pieces, known)
        before = known.get(each.name, "") if each.appends else ""
        known[each.name] = None if value is None or before is None else before + value
    return _known(files, {target: known[target] for target in targets if target in known})


def _known(files: Files, found: Mapping[str, str | None]) -> dict[str, str]:
    unknown = [target for target, value in found.items() if value is None]
    if unknown:
        raise UnclearError(f"{next(iter(files))}: what {unknown[0]} is set to depends on a command")
    return {target: value for target, value in found.items() if value is not None}


def _expand(pieces: Sequence[Piece], known: Mapping[str, str | None]) -> str | None:
    """Return the value, or None where it cannot be told."""
    found = [_value(piece.text, known) if piece.is_code else piece.text for piece in pieces]
    return None if None in found else "".join(value or "" for value in found)


def _value(code: str, known: Mapping[str, str | None]) -> str | None:
    if match := _PARAMETER.fullmatch(code):
        value = known.get(match[1] or match[2], "")
        return value if value is None else value or match[3] or ""
    if match := _ALTERNATIVE.fullmatch(code):
        value = known.get(match[1], "")
        inner = [_value(each, known) if each.startswith("$") else each for each in re.split(r"(\$\w+)", match[2])]
        return value if not value else None if None in inner else "".join(each or "" for each in inner)
    return None


# --- edits -------------------------------------------------------------------------------------------------------


def proposals(targets: Sequence[str], *, keep: str = "") -> Propose:
    """Return what proposes edits of the targets, the first of which is preferred, the last of which is made anew.

    `keep` is what the tool takes where nothing is set.
    """

    def propose(files: Files, wanted: Sequence[str]) -> Iterator[tuple[Change, ...]]:
        try:
            every = scan(files, targets)
        except UnclearError:
            return
        found = [each for each in every if each.name in _used(every, targets)]
        held = [each for each in found if any(_has_name(word, wanted) for word in _split(each.pieces))]
        last = [each for target in targets for each in reversed(found) if each.name == target]
        # Which of several branches is taken may be seen, but not whether it is again: a line behind them all holds.
        places = () if conditions(files, targets) else (*reversed(held), *last)
        for place in places:
            change = _change(files, found, place, wanted, add=True)
            yield (change,)
            others = (_change(files, found, each, wanted, add=False) for each in held if each is not place)
            yield (change, *others)
        yield from _new_line(files, wanted, targets, last[0].name if last else "", keep)
        if last:
            name, words_first = targets[-1], escaped(" ".join(wanted))
            first = Change(file=[*files][-1], line=f'{name}="{words_first} ${name}"')
            yield (first, *(_change(files, found, each, wanted, add=False) for each in held))

    return propose


def _new_line(
    files: Files, wanted: Sequence[str], targets: Sequence[str], name: str, keep: str
) -> Iterator[tuple[Change, ...]]:
    """Yield a line at the end: one that appends to a variable, or sets the one that nothing sets."""
    if name:
        yield (Change(file=[*files][-1], line=f'{name}="${name} {escaped(" ".join(wanted))}"'),)
    elif files:
        value = " ".join(words.replaced(words.split(keep), wanted))
        yield (Change(file=next(iter(files)), line=f'{targets[-1]}="{escaped(value)}"'),)


def _used(every: Sequence[Assignment], targets: Sequence[str]) -> set[str]:
    """Return the targets, and the variables that their values are made of."""
    found = set(targets)
    while True:
        pieces = [piece for each in every if each.name in found for piece in each.pieces if piece.is_code]
        more = {name for piece in pieces for name in re.findall(r"[A-Za-z_]\w*", piece.text)} - found
        if not more:
            return found
        found |= more


def _change(
    files: Files, found: Sequence[Assignment], place: Assignment, wanted: Sequence[str], *, add: bool
) -> Change:
    text = files[place.file]
    begin = text.rfind("\n", 0, place.start) + 1
    end = text.find("\n", place.end)
    end = len(text) if end < 0 else end
    value = _edited(place, text[place.start : place.end], wanted, add=add)
    return Change(
        file=place.file,
        line=text[begin : place.start] + value + text[place.end : end].rstrip("\r"),
        first=text.count("\n", 0, begin) + 1,
        last=text.count("\n", 0, place.end) + 1,
        is_ambiguous=sum(each.name == place.name and each.file == place.file for each in found) > 1,
    )


def _edited(place: Assignment, raw: str, wanted: Sequence[str], *, add: bool) -> str:
    """Return the value as it must be written: the parameters that are there stay as they are, and in their quotes."""
    kept = [word for word in _split(place.pieces) if not _has_name(word, wanted)]
    added = [(Piece(word),) for word in wanted] if add else []
    end = next((number for number, word in enumerate(kept) if _literal(word) == words.END), len(kept))
    text = [*kept[:end], *added, *kept[end:]]
    whole = "".join(piece.text for piece in place.pieces)
    before = " " if text and _is_blank(whole[:1]) else ""
    after = " " if text and _is_blank(whole.rstrip("\r")[-1:]) and len(whole) > 1 else ""
    pieces = [piece for number, word in enumerate(text) for piece in ((Piece(" "),) if number else ()) + tuple(word)]
    if raw.strip("\r").startswith("'") and not any(piece.is_code or "'" in piece.text for piece in pieces):
        return f"'{before}{''.join(piece.text for piece in pieces)}{after}'"
    written = "".join(piece.text if piece.is_code else escaped(piece.text) for piece in pieces)
    return f'"{before}{written}{after}"'


def escaped(text: str) -> str:
    """Return text as it is written between double quotes."""
    return re.sub(r'([\\"$`])', r"\\\1", text)


def _is_blank(text: str) -> bool:
    return bool(text) and text in _BLANK


def _split(pieces: Sequence[Piece]) -> list[tuple[Piece, ...]]:
    """Return the parameters in a value, each with the expansions that it is made of."""
    found: list[list[Piece]] = [[]]
    is_quoted = False
    for piece in pieces:
        if piece.is_code:
            found[-1].append(piece)
            continue
        for char in piece.text:
            is_quoted ^= char == '"'
            if char.isspace() and not is_quoted:
                found.append([])
            else:
                found[-1].append(Piece(char))
    return [tuple(word) for word in found if word]


def _literal(word: Sequence[Piece]) -> str:
    """Return a parameter as far as it is text from its beginning."""
    text = ""
    for piece in word:
        if piece.is_code:
            break
        text += piece.text
    return text


def _has_name(word: Sequence[Piece], wanted: Sequence[str]) -> bool:
    literal = _literal(word)
    is_whole = "=" in literal or not any(piece.is_code for piece in word)
    return is_whole and words.name(literal) in words.names(wanted)
