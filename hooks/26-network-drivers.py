"""Generic images, on request: drivers of wired network cards; 25-drivers loads those that a device asks for."""

from kdump_initramfs.config import Config
from kdump_initramfs.errors import HostError
from kdump_initramfs.model import BuildOnly, Contribution, DriverSet, HostFacts

# Not wired, or no card of a server.
_NOT_WANTED = (
    *("appletalk", "arcnet", "can", "fddi", "hamradio", "ieee802154", "plip", "ppp", "slip", "thunderbolt", "usb"),
    *("vxlan", "wan", "wireguard", "wireless", "wwan"),
)


def contribute(config: Config, host: HostFacts) -> Contribution | None:
    if not config.image.network_drivers:
        return None
    if config.image.mode != "generic":
        raise HostError(
            "image.network_drivers: is for generic images", hint="set image.mode to generic, or take the key out"
        )
    return BuildOnly(
        drivers=DriverSet(
            directories=("kernel/drivers/net", "kernel/drivers/pci/controller"),
            independent_of=(
                "kernel/drivers/infiniband",
                "kernel/drivers/pcmcia",
                "kernel/net/mac80211",
                "kernel/net/wireless",
                *(f"kernel/drivers/net/{directory}" for directory in _NOT_WANTED),
            ),
            # Of a driver that is no part of the kernel's tree (net/core/dev.c); class 0200 of PCI is Ethernet.
            calls=("register_netdev", "register_netdevice"),
            devices=("pci:*bc02sc00*",),
        )
    )
