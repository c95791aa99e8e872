"""Whether the machine is armed, with what, and whether that is still what it should be."""

import hashlib

from msgspec import Struct

from kdump_initramfs import resources
from kdump_initramfs.errors import ImageError
from kdump_initramfs.host import probe
from kdump_initramfs.host.root import Root
from kdump_initramfs.image import record
from kdump_initramfs.loader import proof as proving
from kdump_initramfs.loader import state
from kdump_initramfs.model import Input

# The second place is that of Linux 6.19 and later.
_LOADED = ("/sys/kernel/kexec_crash_loaded", "/sys/kernel/kexec/crash_loaded")

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

    @property
    def exit_code(self) -> int:
        if not self.armed:
            return NOT_ARMED
        return WEAK if self.stale else ARMED


def read(root: Root) -> Status:
    """Return the state of the machine at `root`."""
    armed = any(root.read_word(path) == "1" for path in _LOADED)
    loaded = state.read(root) if armed else None
    return Status(
        armed=armed,
        reserved_bytes=probe.reserved_bytes(root),
        loaded=loaded,
        stale=_stale(root, loaded) if armed else (),
        proof=proving.read(loaded.image, loaded.image_sha256) if loaded else None,
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
    kernel = described.manifest.kernel.image
    inputs = (*described.manifest.inputs, Input(path=kernel, sha256=described.manifest.kernel_sha256))
    return tuple(f"{known.path}: has changed since the image was built" for known in inputs if _changed(root, known))


def _changed(root: Root, known: Input) -> bool:
    is_ours = known.path.startswith(resources.directory("hooks") + "/")  # of this installation, whatever the root
    content = (Root() if is_ours else root).read_bytes(known.path)
    return content is None or hashlib.sha256(content).hexdigest() != known.sha256
