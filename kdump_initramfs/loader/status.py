"""Whether the machine is armed, with what, and whether that is still what it should be."""

import hashlib

from msgspec import Struct

from kdump_initramfs import resources
from kdump_initramfs.errors import ImageError
from kdump_initramfs.host import crash
from kdump_initramfs.host.root import Root
from kdump_initramfs.image import record
from kdump_initramfs.loader import proof as proving
from kdump_initramfs.loader import state
from kdump_initramfs.model import Input

ARMED, WEAK, NOT_ARMED = 0, 3, 4


class Status(Struct, frozen=True, kw_only=True):
    armed: bool
    reserved_bytes: int
    # What `load` remembers of itself; None if another tool loaded, or nothing did.
    loaded: state.Loaded | None
    # Why what is loaded is not what would be built now.
    stale: tuple[str, ...] = ()
    # The last rehearsal of what is loaded.
    proof: proving.Proof | None = None
    # Of which hot plugging, of cpu and memory, the kernel tells the capture kernel without another load.
    follows_hotplug: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        if not self.armed:
            return NOT_ARMED
        return WEAK if self.stale else ARMED


def read(root: Root) -> Status:
    """Return the state of the machine at `root`."""
    armed = crash.is_loaded(root)
    loaded = state.read(root) if armed else None
    return Status(
        armed=armed,
        reserved_bytes=crash.reserved_bytes(root),
        loaded=loaded,
        stale=_stale(root, loaded) if armed else (),
        proof=proving.read(loaded.image, loaded.image_sha256) if loaded else None,
        follows_hotplug=crash.followed_hotplug(root) if armed else (),
    )


def _stale(root: Root, loaded: state.Loaded | None) -> tuple[str, ...]:
    if loaded is None:
        return ("not loaded by kdump-initramfs",)
    try:
        described = record.read(loaded.image)
    except ImageError as error:
        return (str(error),)
    if described.image_sha256 != loaded.image_sha256:
        return (f"{loaded.image}: was built again since it was loaded",)
    inputs = list(described.manifest.inputs)
    kernel = Input(path=described.manifest.kernel.image, sha256=described.manifest.kernel_sha256)
    # Where there is a copy of it, the file system that it is on need not be mounted.
    if not described.kernel_copy or root.is_file(kernel.path):
        inputs.append(kernel)
    return tuple(f"{known.path}: has changed since the image was built" for known in inputs if _changed(root, known))


def _changed(root: Root, known: Input) -> bool:
    is_ours = known.path.startswith(resources.directory("hooks") + "/")  # of this installation, whatever the root
    content = (Root() if is_ours else root).read_bytes(known.path)
    return content is None or hashlib.sha256(content).hexdigest() != known.sha256
