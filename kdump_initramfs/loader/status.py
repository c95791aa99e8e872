"""Whether the machine is armed, with what, and whether that is still what it should be."""

from collections.abc import Iterator

from msgspec import Struct

from kdump_initramfs.config import Config
from kdump_initramfs.errors import ImageError, KdumpError
from kdump_initramfs.host import crash, hotplug
from kdump_initramfs.host.root import Root
from kdump_initramfs.image import record
from kdump_initramfs.loader import kexec, staleness, state
from kdump_initramfs.loader import proof as proving

ARMED, WEAK, NOT_ARMED = 0, 3, 4


class Status(Struct, frozen=True, kw_only=True):
    armed: bool
    reserved_bytes: int
    # What `load` remembers of itself; None if another tool loaded, or nothing did.
    loaded: state.Loaded | None
    # Why what is loaded is not what would be built and loaded now, each with the command that mends it.
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


_LOAD = "run: kdump-initramfs load"
_REBUILD = "run: kdump-initramfs load --rebuild"


def read(root: Root, config: Config) -> Status:
    """Return the state of the machine at `root`, with `config` what is wanted of it."""
    armed = crash.is_loaded(root)
    loaded = state.read(root) if armed else None
    return Status(
        armed=armed,
        reserved_bytes=crash.reserved_bytes(root),
        loaded=loaded,
        stale=_stale(root, config, loaded) if armed else (),
        proof=proving.read(loaded.image, loaded.image_sha256) if loaded else None,
        follows_hotplug=crash.followed_hotplug(root) if armed else (),
    )


def _stale(root: Root, config: Config, loaded: state.Loaded | None) -> tuple[str, ...]:
    if loaded is None:
        return (f"not loaded by kdump-initramfs; {_LOAD}",)
    try:
        described = record.read(loaded.image)
    except ImageError as error:
        return (f"{error}; {_REBUILD}",)
    if described.image_sha256 != loaded.image_sha256:
        return (f"{loaded.image}: was built again since it was loaded; {_LOAD}",)
    reasons = staleness.reasons(root, config, described)
    if reasons:
        return tuple(f"{reason}; {_REBUILD}" for reason in reasons)
    reasons = (*_other_command(root, config, loaded), *_plugged(root, loaded.present))
    return tuple(f"{reason}; {_LOAD}" for reason in reasons)


def _other_command(root: Root, config: Config, loaded: state.Loaded) -> tuple[str, ...]:
    """Return why this image would be loaded by another command now; nothing if it would not."""
    try:
        words = kexec.command(root, config, loaded.image).words
    except KdumpError as error:
        return (str(error),)
    return () if words == loaded.words else ("kexec command: would be another one now (`load --print` shows it)",)


def _plugged(root: Root, before: hotplug.Present | None) -> Iterator[str]:
    """Yield what has come or gone since the load, and is not in the core header, unless the kernel sees to that."""
    now, followed = hotplug.present(root), crash.followed_hotplug(root)
    if before is None:
        return
    if before.memory_blocks != now.memory_blocks and "memory" not in followed:
        yield f"memory: {before.memory_blocks} blocks were there when it was loaded, {now.memory_blocks} are now"
    if before.cpus != now.cpus and "cpu" not in followed:
        yield f"processors: {before.cpus} were there when it was loaded, {now.cpus} are now"
