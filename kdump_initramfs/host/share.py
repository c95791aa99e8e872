"""Directories that a hypervisor shares with this machine: virtiofs and 9p over virtio, known by their tag."""

from collections.abc import Iterator

from kdump_initramfs.errors import HostError
from kdump_initramfs.host import hardware, mounts
from kdump_initramfs.host.root import Root
from kdump_initramfs.storage import ShareTarget

# Number of the virtio device that offers a share (include/uapi/linux/virtio_ids.h).
_VIRTIO_IDS = {"9p": "0x0009", "virtiofs": "0x001a"}
_DEVICES = "/sys/bus/virtio/devices"


def is_share(mount: mounts.Mount) -> bool:
    """Whether what is mounted is shared by a hypervisor; a 9p over the network is not."""
    return mount.fs_type == "virtiofs" or (mount.fs_type == "9p" and "trans=virtio" in mount.options)


def read(root: Root, mount: mounts.Mount, name: str, inside: str) -> ShareTarget:
    """Return the directory `inside` of what is mounted as a target called `name`."""
    directories = list(_devices(root, mount))
    if not directories:
        raise HostError(
            f"{name}: on {mount.fs_type}, but {_DEVICES} has no device for {mount.source}", hint="mount /sys"
        )
    found = [hardware.read_drivers(root, directory) for directory in directories]
    return ShareTarget(
        kind="path",
        name=name,
        fs_type=mount.fs_type,
        tag=mount.source,
        directory=inside,
        drivers=tuple(dict.fromkeys(driver for each in found for driver in each.drivers)),
        modaliases=tuple(dict.fromkeys(alias for each in found for alias in each.modaliases)),
    )


def _devices(root: Root, mount: mounts.Mount) -> Iterator[str]:
    """Yield the device that has the tag; of virtiofs, which before Linux 6.9 tells no tags, all there are."""
    for name in root.list(_DEVICES):
        directory = f"{_DEVICES}/{name}"
        if root.read_word(f"{directory}/device") != _VIRTIO_IDS[mount.fs_type]:
            continue
        if mount.fs_type == "virtiofs" or root.read_word(f"{directory}/mount_tag").rstrip("\0") == mount.source:
            yield directory
