"""Save the crashed kernel's log before anything large."""

from kdump_initramfs.config import Config
from kdump_initramfs.errors import HostError
from kdump_initramfs.model import Contribution, HostFacts, Saver


def contribute(config: Config, host: HostFacts) -> Contribution:
    tools = tuple(path for path in (host.tools.makedumpfile, host.tools.vmcore_dmesg) if path)
    if not tools:
        raise HostError(
            "makedumpfile, vmcore-dmesg: neither is there, and one is needed to save the crashed kernel's log",
            hint="install makedumpfile, or kexec-tools, which has vmcore-dmesg",
        )
    return Saver(
        binaries=tools,
        settings={"KDUMP_MAKEDUMPFILE": host.tools.makedumpfile, "KDUMP_VMCORE_DMESG": host.tools.vmcore_dmesg},
        required=config.vmcore.collector == "dmesg",
    )
