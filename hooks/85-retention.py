"""Remove old dumps, once the new one is saved."""

from kdump_initramfs.config import Config, size_bytes
from kdump_initramfs.model import Contribution, HostFacts, Saver


def contribute(config: Config, host: HostFacts) -> Contribution | None:
    retention = config.retention
    if not retention.keep and not size_bytes(retention.max_bytes):
        return None
    return Saver(
        settings={"KDUMP_KEEP": str(retention.keep), "KDUMP_MAX_BYTES": str(size_bytes(retention.max_bytes))},
    )
