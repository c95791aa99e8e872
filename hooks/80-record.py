"""Save the capture environment's own log and the record of the dump."""

from kdump_initramfs.config import Config
from kdump_initramfs.model import Contribution, HostFacts, Saver
from kdump_initramfs.storage import filesystem_of


def contribute(config: Config, host: HostFacts) -> Contribution:
    return Saver(
        target_settings={
            target: {"KDUMP_TARGET_FS_UUID": filesystem.uuid if (filesystem := filesystem_of(target)) else ""}
            for target in host.targets
        },
        # Fails where what was saved cannot be read back.
        required=True,
        unlimited=True,
    )
