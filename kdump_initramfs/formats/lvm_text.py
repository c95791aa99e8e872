"""LVM's text format (lib/config/config.c of LVM2): sections, and keys with numbers, strings or lists of them."""

import re
from collections.abc import Iterator

Value = int | str | list[int | str]
Section = dict[str, "Value | Section"]

_TOKEN = re.compile(
    r"""
    \s+ | \#[^\n]*
    | (?P<string> "(?:[^"\\]|\\.)*" )
    | (?P<number> [+-]?[0-9]+ (?![A-Za-z0-9_.+-]) )
    | (?P<name> [A-Za-z0-9_.+-]+ )
    | (?P<mark> [{}\[\]=,] )
    """,
    re.VERBOSE,
)
_ESCAPED = re.compile(r"\\(.)")
# LVM's own has five.
_MAX_DEPTH = 16


class LvmTextError(Exception):
    """The text is not of this format."""


def parse(text: str) -> Section:
    """Return what the text says; LvmTextError where it says it in another format."""
    reader = _Reader(text)
    section = reader.section(0)
    if reader.next() != ("", ""):
        raise LvmTextError("a bracket too much")
    return section


def section(parent: Section, name: str) -> Section:
    """Return the section of that name; an empty one if there is none."""
    found = parent.get(name)
    return found if isinstance(found, dict) else {}


def text(parent: Section, name: str) -> str:
    """Return the string of that name; "" if there is none."""
    found = parent.get(name)
    return found if isinstance(found, str) else ""


def number(parent: Section, name: str) -> int:
    """Return the number of that name; 0 if there is none."""
    found = parent.get(name)
    return found if isinstance(found, int) else 0


def strings(parent: Section, name: str) -> list[str]:
    """Return the strings of the list of that name."""
    found = parent.get(name)
    return [each for each in found if isinstance(each, str)] if isinstance(found, list) else []


class _Reader:
    def __init__(self, text: str) -> None:
        self._tokens = _tokens(text)
        self._ahead: tuple[str, str] | None = None

    def next(self) -> tuple[str, str]:
        """Return kind and text of the next token; ("", "") at the end."""
        token = self._ahead or next(self._tokens, ("", ""))
        self._ahead = None
        return token

    def section(self, depth: int) -> Section:
        if depth > _MAX_DEPTH:
            raise LvmTextError("sections too deep in each other")
        found: Section = {}
        while True:
            kind, name = self.next()
            if kind not in {"name", "number", "string"}:
                self._ahead = (kind, name)
                return found
            kind, mark = self.next()
            if mark == "{" and kind == "mark":
                found[name] = self.section(depth + 1)
                if self.next() != ("mark", "}"):
                    raise LvmTextError(f"{name}: no end")
            elif mark == "=" and kind == "mark":
                found[name] = self._value(name)
            else:
                raise LvmTextError(f"{name}: neither a section nor a value")

    def _value(self, name: str) -> Value:
        token = self.next()
        if token != ("mark", "["):
            return self._scalar(name, token)
        values: list[int | str] = []
        while (token := self.next()) != ("mark", "]"):
            if token != ("mark", ","):
                values.append(self._scalar(name, token))
        return values

    def _scalar(self, name: str, token: tuple[str, str]) -> int | str:
        kind, text = token
        if kind == "number":
            return int(text)
        if kind == "string":
            return _ESCAPED.sub(r"\1", text[1:-1])
        raise LvmTextError(f"{name}: no value")


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise LvmTextError(f"cannot be read from {text[position : position + 10]!r} on")
        position = match.end()
        if match.lastgroup:
            yield match.lastgroup, match[0]
