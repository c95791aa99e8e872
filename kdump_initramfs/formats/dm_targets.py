"""What device-mapper asks modprobe for, by type of the target, and the algorithms that its parameters name.

Sources, of the kernel: load_module() in drivers/md/dm-target.c and dm-log.c, dm-path-selector.c, dm-cache-policy.c,
dm-exception-store.c; the MODULE_ALIASes there; Documentation/admin-guide/device-mapper for the parameters, in the form
in which the targets print them (STATUSTYPE_TABLE). md_run() of drivers/md/md.c asks for the level of a dm-raid.
"""

from collections.abc import Callable, Mapping, Sequence

from kdump_initramfs.formats import kernel_crypto

# Types that are inside of dm-mod.
_BUILT_IN = frozenset({"linear", "striped", "error"})
# Nothing answers to dm-thin: the kernel is lucky that the pool below has loaded the module.
_MODULES = {"thin": "dm-thin-pool"}
# Every other type that drivers/md had in 6.12, and pcache of 6.18: what is in none of the two is unknown.
_MODULAR = frozenset(
    {
        *("cache", "clone", "crypt", "delay", "dust", "ebs", "era", "flakey", "integrity"),
        *("log-writes", "mirror", "multipath", "pcache", "raid", "snapshot", "snapshot-merge", "snapshot-origin"),
        *("switch", "thin", "thin-pool", "unstriped", "vdo", "verity", "writecache", "zero", "zoned"),
    }
)
TYPES = _BUILT_IN | _MODULAR

# raid_types[] of drivers/md/dm-raid.c, by the number of the level; raid5 and raid6 alone are LVM's.
_RAID = {
    0: ("raid0", "raid0_meta"),
    1: ("raid1",),
    4: ("raid4",),
    5: ("raid5", "raid5_la", "raid5_ls", "raid5_n", "raid5_ra", "raid5_rs"),
    6: (
        *("raid6", "raid6_nc", "raid6_nr", "raid6_zr"),
        *("raid6_la_6", "raid6_ls_6", "raid6_n_6", "raid6_ra_6", "raid6_rs_6"),
    ),
    10: ("raid10", "raid10_far", "raid10_near", "raid10_offset"),
}
_LEVELS = {name: number for number, names in _RAID.items() for name in names}


def requests(target: str, words: Sequence[str] = ()) -> tuple[str, ...]:
    """Return what the kernel asks modprobe for so that a table with this target can be loaded, sorted.

    `words` are the target's parameters; without them only what every table of that type needs is told.
    """
    found = {"dm-mod"} if target in _BUILT_IN else {_MODULES.get(target, f"dm-{target}")}
    parse = _PARSERS.get(target)
    return tuple(sorted(found | {*(parse(words) if parse else ())}))


def raid_level(word: str) -> tuple[str, ...]:
    """Return what is asked for to run an array of a type such as "raid5_ls"; nothing where there is no such type."""
    return (f"md-level-{_LEVELS[word]}",) if word in _LEVELS else ()


def _word(words: Sequence[str], position: int) -> str:
    return words[position] if 0 <= position < len(words) else ""


def _number(words: Sequence[str], position: int) -> int:
    text = _word(words, position)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0


def _of_cache(words: Sequence[str]) -> tuple[str, ...]:
    # metadata, cache, origin, block size, number of features, features, policy.
    policy = _word(words, 5 + _number(words, 4))
    return (f"dm-cache-{policy}",) if policy else ()


def _of_crypt(words: Sequence[str]) -> tuple[str, ...]:
    options = [word.split(":", 2) for word in words if word.startswith("integrity:")]
    tag = options[0][2] if options and len(options[0]) == 3 else ""
    # With "aead" the cipher's own name has all of it.
    return kernel_crypto.dm_crypt(_word(words, 0), tag) if words else ()


def _of_integrity(words: Sequence[str]) -> tuple[str, ...]:
    options = (word.split(":") for word in words[5:])
    return kernel_crypto.requests(
        *(
            option[1]
            for option in options
            if option[0] in {"internal_hash", "journal_crypt", "journal_mac"} and option[1:]
        )
    )


def _of_mirror(words: Sequence[str]) -> tuple[str, ...]:
    log = _word(words, 0)
    return ("dm-log",) if log in {"core", "disk"} else (f"dm-log-{log}",) if log else ()


def _of_multipath(words: Sequence[str]) -> tuple[str, ...]:
    position = 1 + _number(words, 0)
    handlers = _number(words, position)
    handler = {f"scsi_dh_{_word(words, position + 1)}"} if handlers else set[str]()
    position += handlers + 1
    groups, position = _number(words, position), position + 2
    selectors = set()
    for _ in range(min(groups, len(words))):
        selectors |= {f"dm-{_word(words, position)}"} if _word(words, position) else set()
        position += 2 + _number(words, position + 1)
        position += 2 + _number(words, position) * (1 + _number(words, position + 1))
    return (*handler, *selectors)


def _of_raid(words: Sequence[str]) -> tuple[str, ...]:
    return raid_level(_word(words, 0))


def _of_verity(words: Sequence[str]) -> tuple[str, ...]:
    # version, data device, hash device, block sizes, blocks, start, algorithm.
    return kernel_crypto.requests(_word(words, 7))


_PARSERS: Mapping[str, Callable[[Sequence[str]], tuple[str, ...]]] = {
    "cache": _of_cache,
    "crypt": _of_crypt,
    "integrity": _of_integrity,
    "mirror": _of_mirror,
    "multipath": _of_multipath,
    "raid": _of_raid,
    "verity": _of_verity,
}
