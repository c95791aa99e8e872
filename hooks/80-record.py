"""Save the capture environment's own log and the record of the dump."""

from kdump_initramfs.config import Config
from kdump_initramfs.model import Contribution, HostFacts, OnFailure, Phase


def contribute(config: Config, host: HostFacts) -> Contribution:
    return Contribution(
        target_settings={
            position: {"KDUMP_TARGET_FS_UUID": target.filesystem.uuid if target.filesystem else ""}
            for position, target in enumerate(host.targets)
        },
        phase=Phase.SAVE,
        # Fails where what was saved cannot be read back.
        on_failure=OnFailure.STOP,
        unlimited=True,
    )
