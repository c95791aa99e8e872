"""The configuration that a kernel was built with: where it is, and what it says of an option."""

import gzip
import logging
import re
import zlib
from collections.abc import Iterator, Mapping
from functools import lru_cache

from msgspec import Struct

from kdump_initramfs.errors import HostError
from kdump_initramfs.host.root import Root

logger = logging.getLogger(__name__)

_OSRELEASE = "/proc/sys/kernel/osrelease"
_PACKED = "/proc/config.gz"


class KernelConfig(Struct, frozen=True, kw_only=True):
    # Where it was found, for messages.
    path: str
    # Option without CONFIG_ -> value as it is written: y, m, a number or a quoted string; what is not set is absent.
    options: Mapping[str, str]

    def is_on(self, option: str) -> bool:
        return self.options.get(option) in ("y", "m")


@lru_cache(maxsize=2)
def parse(text: str) -> Mapping[str, str]:
    """Return the options that are set. Kept for the next caller: the running kernel's is asked for again and again."""
    return dict(re.findall(r"^CONFIG_(\w+)=(.*)$", text, re.ASCII | re.MULTILINE))


def places(release: str, image_dir: str, modules_dir: str) -> Iterator[str]:
    """Yield where distributions, and the kernel's own `make modules_install`, leave the configuration."""
    yield f"{image_dir}/config-{release}"
    yield f"/boot/config-{release}"
    yield f"{modules_dir}/config"
    yield f"/usr/lib/modules/{release}/config"
    yield f"/lib/kernel/config-{release}"
    yield f"/usr/lib/kernel/config-{release}"
    yield f"{modules_dir}/build/.config"


def read_text(root: Root, release: str, image_dir: str, modules_dir: str) -> tuple[str, str] | None:
    """Return where the configuration of a kernel is, and its text; None where it is in no file."""
    for path in dict.fromkeys(places(release, image_dir, modules_dir)):
        text = _text(root, path)
        if text is not None:
            return path, text
    packed = root.read_bytes(_PACKED)
    if packed and root.read_word(_OSRELEASE) == release:
        return _PACKED, _unpacked(packed, release)
    return None


def _text(root: Root, path: str) -> str | None:
    """Return the text; None where there is none, or it cannot be read: there are more places."""
    try:
        return root.read_text(path)
    except HostError as error:
        logger.warning("%s; it is looked for in other places", error)
        return None


def running(root: Root) -> KernelConfig | None:
    """Return the configuration of the running kernel, where it is in a file."""
    release = root.read_word(_OSRELEASE)
    return read(root, release, "/boot", f"/lib/modules/{release}") if release else None


def _unpacked(packed: bytes, release: str) -> str:
    try:
        return gzip.decompress(packed).decode("ascii", "replace")
    except (OSError, EOFError, zlib.error) as error:
        raise HostError(f"{_PACKED}: {error}", hint=f"copy the kernel's config to /boot/config-{release}") from None


def read(root: Root, release: str, image_dir: str, modules_dir: str) -> KernelConfig | None:
    found = read_text(root, release, image_dir, modules_dir)
    return None if found is None else KernelConfig(path=found[0], options=parse(found[1]))
