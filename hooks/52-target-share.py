"""Drive targets that are a directory which the hypervisor shares: virtiofs, and 9p over virtio."""

from kdump_initramfs.config import Config
from kdump_initramfs.model import Contribution, HostFacts, TargetDriver
from kdump_initramfs.storage import ShareTarget

_MODULES = {"virtiofs": ("virtiofs",), "9p": ("9pnet_virtio", "9p")}
# 9p: nothing stays in a cache that fsync(2) would have to reach; messages as large as virtio allows.
_OPTIONS = {"virtiofs": (), "9p": ("trans=virtio", "version=9p2000.L", "cache=none", "msize=512000")}


def contribute(config: Config, host: HostFacts) -> Contribution | None:
    shares = [target for target in host.targets if isinstance(target, ShareTarget)]
    if not shares:
        return None
    drivers = tuple(driver for share in shares for driver in reversed(share.drivers))
    modaliases = tuple(alias for share in shares for alias in reversed(share.modaliases))
    is_generic = config.image.mode == "generic"
    own = tuple(module for share in shares for module in _MODULES[share.fs_type])
    return TargetDriver(
        modules=tuple(dict.fromkeys((*(() if is_generic else drivers), *own))),
        modaliases=(*drivers, *modaliases) if is_generic else modaliases,
        drives={share: _settings(share) for share in shares},
    )


def _settings(share: ShareTarget) -> dict[str, str]:
    options = ("rw", "nosuid", "nodev", "noexec", *_OPTIONS[share.fs_type])
    return {
        "KDUMP_SHARE_TYPE": share.fs_type,
        "KDUMP_SHARE_TAG": share.tag,
        "KDUMP_SHARE_OPTIONS": ",".join(options),
        "KDUMP_DIRECTORY": share.directory,
    }
