"""Parameters of a kernel command line: compared, and replaced."""

import re
from collections.abc import Collection, Mapping, Sequence

from kdump_initramfs.host import probe

# What follows it is for init, not for the kernel (parse_args(), kernel/params.c).
END = "--"


def split(text: str) -> tuple[str, ...]:
    return probe.split_cmdline(text)


def name(word: str) -> str:
    """Return the name of a parameter; the kernel takes - and _ for the same (parameq(), kernel/params.c)."""
    return word.partition("=")[0].strip('"').replace("-", "_") if word != END else END


def names(words: Sequence[str]) -> frozenset[str]:
    return frozenset(name(word) for word in words)


def replaced(given: Sequence[str], words: Sequence[str]) -> tuple[str, ...]:
    """Return the parameters with `words` in place of those of the same name, before what is for init."""
    kept = without(given, names(words))
    end = kept.index(END) if END in kept else len(kept)
    return (*kept[:end], *words, *kept[end:])


def without(given: Sequence[str], ignored: Collection[str]) -> tuple[str, ...]:
    """Return the parameters but those that are named, by their name or as a whole."""
    return tuple(word for word in given if name(word) not in ignored and word not in ignored)


def is_same(one: Sequence[str], other: Sequence[str]) -> bool:
    """Tell whether two command lines mean the same: of parameters of one name the order counts."""
    return _by_name(_keyed(one)) == _by_name(_keyed(other))


def difference(given: Sequence[str], effect: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return which parameters are in effect and not given, and which are given and not in effect.

    Quotes and escapes do not count: GRUB sets its own (grub-core/lib/cmdline.c).
    """
    here, there = (_keyed([re.sub(r"[\"'\\]", "", word) for word in line]) for line in (given, effect))
    ours, theirs = _by_name(here), _by_name(there)
    lacking = tuple(word for key, word in there if ours.get(key) != theirs[key])
    beside = tuple(word for key, word in here if theirs.get(key) != ours[key])
    return lacking, beside


def _keyed(line: Sequence[str]) -> list[tuple[str, str]]:
    """Return each parameter with its name; what is for init stays together."""
    end = line.index(END) if END in line else len(line)
    return [(name(word) if number < end else END, word) for number, word in enumerate(line)]


def _by_name(keyed: Sequence[tuple[str, str]]) -> Mapping[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for key, word in keyed:
        found[key] = (*found.get(key, ()), word)
    return found
