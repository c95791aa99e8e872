"""Drive targets that are a directory which the hypervisor shares: virtiofs, and 9p over virtio."""

from kdump_initramfs.config import Config
from kdump_initramfs.model import Contribution, Filesystem, HostFacts, Phase

_MODULES = {"virtiofs": ("virtiofs",), "9p": ("9pnet_virtio", "9p")}
# 9p: nothing stays in a cache that fsync(2) would have to reach; messages as large as virtio allows.
_OPTIONS = {"virtiofs": (), "9p": ("trans=virtio", "version=9p2000.L", "cache=none", "msize=512000")}


def contribute(config: Config, host: HostFacts) -> Contribution | None:
    found = {
        position: target.filesystem
        for position, target in enumerate(host.targets)
        if target.filesystem is not None and target.filesystem.tag
    }
    if not found:
        return None
    shares = [device for position in found for device in host.targets[position].stack]
    drivers = tuple(driver for share in shares for driver in reversed(share.drivers))
    modaliases = tuple(alias for share in shares for alias in reversed(share.modaliases))
    is_generic = config.image.mode == "generic"
    own = tuple(module for filesystem in found.values() for module in _MODULES[filesystem.type])
    return Contribution(
        modules=tuple(dict.fromkeys((*(() if is_generic else drivers), *own))),
        modaliases=(*drivers, *modaliases) if is_generic else modaliases,
        provides=tuple(share.name for share in shares),
        target_settings={
            position: _settings(filesystem, host.targets[position].directory) for position, filesystem in found.items()
        },
        phase=Phase.TARGET,
        drives=tuple(found),
    )


def _settings(filesystem: Filesystem, directory: str) -> dict[str, str]:
    options = ("rw", "nosuid", "nodev", "noexec", *_OPTIONS[filesystem.type], *filesystem.options)
    return {
        "KDUMP_SHARE_TYPE": filesystem.type,
        "KDUMP_SHARE_TAG": filesystem.tag,
        "KDUMP_SHARE_OPTIONS": ",".join(options),
        "KDUMP_DIRECTORY": directory,
    }
