"""Make room for the dump, and know how large it may become."""

from kdump_initramfs.config import Config, size_bytes
from kdump_initramfs.model import Contribution, HostFacts, Saver


def contribute(config: Config, host: HostFacts) -> Contribution:
    return Saver(
        settings={
            "KDUMP_MIN_FREE": str(size_bytes(config.retention.min_free)),
            "KDUMP_SIZE_LIMIT": str(size_bytes(config.vmcore.size_limit)),
        },
    )
