"""Modules that the running kernel uses, and that nothing known about the target explains.

The facts tell what a layer is made of, and each hook names the modules for it. What they miss, the running kernel has
loaded. Only modules that a layer of the targets may have requested are included; whatever else is loaded is not needed.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping

from kdump_initramfs.formats.proc_modules import LoadedModule
from kdump_initramfs.image import kmod
from kdump_initramfs.model import HostFacts
from kdump_initramfs.storage import DirectoryTarget, LoopDevice, ShareTarget, TargetFacts

REASON = "loaded on the running kernel, explained by nothing else"

# Where a module of a storage stack lies. Accelerators (drivers/crypto) would need firmware and hardware, and each of
# their algorithms has a software implementation.
_DIRECTORIES = ("arch/", "crypto/", "drivers/md/", "drivers/scsi/device_handler/", "fs/", "lib/")
# What a layer may have asked for by name (docs/REQUESTS.md): device-mapper's targets, the policies and the logs of
# these, levels of arrays. dm-crypt and dm-multipath make no logical volumes.
_MAPPED = r"(dm|md|raid|faulty|linear|multipath|kvdo)"
_MODULES: Mapping[str, str] = {
    "lvm": rf"(?!dm_(crypt|multipath|round_robin|queue_length|service_time|historical|io_affinity)){_MAPPED}.*",
    "multipath": r"dm_.*|scsi_dh_.*",
    "crypt": r"dm_(bufio|crypt|integrity|zero|clone)|algif_.*",
    "dm": rf"{_MAPPED}.*",
    "md": r"(md|raid|faulty|linear|multipath).*",
    # Character sets: vfat is mounted with those that its description names.
    "exfat": r"nls_.*",
    # Formats of quota files, for which ext4 and f2fs have inodes of their own; tables of Unicode for casefold.
    "ext4": r"quota_(v1|v2|tree)|utf8.*|unicode",
    "f2fs": r"quota_(v1|v2|tree)|utf8.*|unicode",
}
# Which algorithms, as "TYPE NAME": dm-crypt takes any cipher and digest, a file system digests that have no key.
_ALGORITHMS: Mapping[str, str] = {
    "crypt": r"(skcipher|aead|cipher|shash|ahash|lskcipher) .*",
    "dm": r"(skcipher|aead|cipher|shash|ahash|lskcipher) .*",
    "lvm": r"[sa]hash (crc32.*|xxhash64|sha[0-9].*)",
    "btrfs": r"[sa]hash [^(]*",
    "ext4": r"[sa]hash crc32.*",
    "ext3": r"[sa]hash crc32.*",
    "ext2": r"[sa]hash crc32.*",
    "xfs": r"[sa]hash crc32.*",
    "f2fs": r"[sa]hash crc32.*",
}


def unexplained(host: HostFacts, known: kmod.Modules, explained: Collection[str]) -> tuple[str, ...]:
    """Return the names of further modules that are taken along, beside those that are `explained`."""
    layers = {layer for target in host.targets for layer in _layers(target)}
    return tuple(
        module.name
        for module in host.loaded_modules
        if module.name not in explained and _is_of_storage(known, module.name) and _is_asked_for(module, layers)
    )


def _layers(target: TargetFacts) -> Iterator[str]:
    """Yield the kinds of the layers of a target, and the types of its file systems."""
    if isinstance(target, ShareTarget):
        return
    if isinstance(target, DirectoryTarget):
        yield target.filesystem.type
    yield from (device.file.filesystem.type for device in target.stack if isinstance(device, LoopDevice))
    yield from (device.kind for device in target.stack)


def _is_of_storage(known: kmod.Modules, name: str) -> bool:
    """Whether this kernel has a module of that name, in one of the directories or built outside of its tree."""
    path, _ = known.files.get(name, ("", ""))
    return bool(path) and (not path.startswith("kernel/") or path.removeprefix("kernel/").startswith(_DIRECTORIES))


def _is_asked_for(module: LoadedModule, layers: Iterable[str]) -> bool:
    return any(
        re.fullmatch(_MODULES.get(layer, "(?!)"), module.name)
        or any(re.fullmatch(_ALGORITHMS.get(layer, "(?!)"), algorithm) for algorithm in module.algorithms)
        for layer in layers
    )
