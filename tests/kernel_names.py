"""What a kernel's modprobe has an answer to: names and aliases of modules, and of what is built in."""

import os
import re

from kdump_initramfs.image import kmod


def answered(root: str, release: str) -> frozenset[str]:
    """Return, with underscores, all that may be asked for without a wildcard."""
    place = os.path.join(root, "lib/modules", release)
    texts = {name: _read(place, name) for name in ("alias", "builtin.modinfo", "builtin", "dep")}
    names = set(kmod.parse_dep(texts["dep"])) | kmod.parse_builtin(texts["builtin"])
    names |= {line.split()[1] for line in texts["alias"].splitlines() if line.startswith("alias ")}
    names |= set(re.findall(r"\.alias=([^\0]*)", texts["builtin.modinfo"]))
    return frozenset(kmod.normal(name) for name in names)


def configured(root: str, release: str) -> str:
    with open(f"{root}/boot/config-{release}", encoding="ascii") as stream:
        return stream.read()


def _read(place: str, name: str) -> str:
    with open(f"{place}/modules.{name}", encoding="utf-8", errors="surrogateescape") as stream:
        return stream.read()
