"""What the running kernel says of its modules: /proc/modules and /proc/crypto.

Formats: m_show() of kernel/module/procfs.c and c_show() of crypto/proc.c.
"""

from collections.abc import Iterator

from msgspec import Struct

# An algorithm that nobody uses has the reference of its registration alone (crypto_register_alg(), crypto/algapi.c).
_REGISTERED = 1
# What is in use only while a key slot is read: cryptsetup has the kernel decrypt it where its own library does not know
# the cipher (lib/crypto_backend/crypto_cipher_kernel.c there).
_USED_FOR_A_MOMENT = ("algif_skcipher", "algif_hash")


class LoadedModule(Struct, frozen=True, kw_only=True):
    """A module that something else than a module uses: a mount, a table of device-mapper, an array; or has used."""

    name: str
    # Its algorithms that are in use, as "TYPE NAME": "shash xxhash64".
    algorithms: tuple[str, ...] = ()


def parse(modules: str, crypto: str) -> tuple[LoadedModule, ...]:
    """Return the modules that are in use for their own sake, in the order of the alphabet."""
    algorithms: dict[str, list[str]] = {}
    for module, algorithm in _used_algorithms(crypto):
        algorithms.setdefault(module, []).append(algorithm)
    return tuple(
        LoadedModule(name=name, algorithms=tuple(sorted(set(algorithms.get(name, ())))))
        for name in sorted(_used_modules(modules))
    )


def _used_modules(text: str) -> Iterator[str]:
    """Yield the modules with more users than the modules that need them, each of which counts for one."""
    for line in text.splitlines():
        # Name, size, users, "a,b," or "-", state; "[permanent]" and a module that cannot be removed have no number.
        words = line.split()
        if len(words) > 4 and words[2].isdigit() and words[4] == "Live":
            holders = [word for word in words[3].split(",") if word not in ("", "-", "[permanent]")]
            if int(words[2]) > len(holders) or words[0] in _USED_FOR_A_MOMENT:
                yield words[0]


def _used_algorithms(text: str) -> Iterator[tuple[str, str]]:
    """Yield module and "TYPE NAME" of each algorithm that is in use."""
    for block in text.split("\n\n"):
        pairs = (line.partition(":") for line in block.splitlines())
        told = {key.strip(): value.strip() for key, _, value in pairs}
        if told.get("refcnt", "").isdigit() and int(told["refcnt"]) > _REGISTERED:
            yield told.get("module", "").replace("-", "_"), f"{told.get('type', '')} {told.get('name', '')}"
