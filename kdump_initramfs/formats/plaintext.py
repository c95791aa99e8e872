r"""Text that may hold any bytes: names, serial numbers and paths are whatever a machine has, and not always UTF-8.

One rule: inside, a byte that is no UTF-8 is a surrogate, as os.fsdecode() makes it, so that it goes into an image and
to the kernel as it was. JSON has it as \udcHH, which `decode` reads back. A person sees \xHH, as udev spells it, and so
every character that a terminal would obey.
"""

import re
from typing import TypeVar

import msgspec

_T = TypeVar("_T")
_OCTAL = re.compile(rb"\\([0-7]{3})")
_HEX = re.compile(rb"\\x([0-9a-f]{2})")


def shown(text: str) -> str:
    """Return text for a person, in one line: what cannot be printed as its bytes."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() or each == "\t" else _escaped(each) for each in text)


def from_octal(text: str) -> str:
    r"""Return text in which \NNN is a byte, as in fstab(5) and mountinfo (mangle_path() of fs/seq_file.c)."""
    return _from_escapes(_OCTAL, 8, text)


def from_hex(text: str) -> str:
    r"""Return text in which \xHH is a byte, as in udev's links (encode_devnode_name()) and in names of units."""
    return _from_escapes(_HEX, 16, text)


def _from_escapes(pattern: re.Pattern[bytes], base: int, text: str) -> str:
    encoded = text.encode("utf-8", "surrogateescape")
    plain = pattern.sub(lambda match: bytes([int(match[1], base) & 0xFF]), encoded)
    return plain.decode("utf-8", "surrogateescape")


def _escaped(character: str) -> str:
    is_byte = "\udc80" <= character <= "\udcff"
    encoded = character.encode("utf-8", "surrogateescape" if is_byte else "surrogatepass")
    return "".join(f"\\x{byte:02x}" for byte in encoded)


def encode(value: object) -> bytes:
    """Return a value as JSON."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        import json  # noqa: PLC0415 - hardly ever needed

        return json.dumps(msgspec.to_builtins(value), separators=(",", ":")).encode("ascii")


def decode(data: bytes, kind: type[_T]) -> _T:
    """Return the value that `encode` made JSON of; msgspec.DecodeError where it is none."""
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        if b"\\ud" not in data:
            raise
        import json  # noqa: PLC0415 - hardly ever needed

        try:
            plain = json.loads(data)
        except (ValueError, RecursionError):
            plain = None
        if plain is None:
            raise
    return msgspec.convert(plain, kind)


def indented(value: object) -> bytes:
    """Return a value as JSON for people."""
    encoded = encode(value)
    try:
        return msgspec.json.format(encoded, indent=2)
    except msgspec.DecodeError:
        import json  # noqa: PLC0415 - hardly ever needed

        return json.dumps(json.loads(encoded), indent=2).encode("ascii")
