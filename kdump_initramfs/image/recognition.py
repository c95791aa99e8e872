"""Whether what targets stand on is known: each layer must be made by some hook, and each target driven by one."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from kdump_initramfs import hooks
from kdump_initramfs.config import Config
from kdump_initramfs.errors import HookError, HostError, KdumpError, Problems
from kdump_initramfs.host.root import Root
from kdump_initramfs.model import BuildOnly, HookRun, HostFacts, StorageLayer, TargetDriver
from kdump_initramfs.storage import BlockDevice, MappedDevice, TargetFacts, UnknownDevice, stack_of

_Phase = TypeVar("_Phase", bound=BuildOnly)


def refusals(root: Root, config: Config, host: HostFacts) -> tuple[KdumpError, ...]:
    """Return what hooks have against this machine, and each layer of its targets that none of them makes."""
    found = Problems()
    runs = hooks.contribute(config, host, root=root, problems=found)
    # Where a hook has said nothing, what it would have provided is not the problem.
    return found.errors or tuple(problems(host.targets, runs))


def problems(targets: Iterable[TargetFacts], runs: Sequence[HookRun]) -> Iterator[KdumpError]:
    """Yield an error for each layer that no hook provides, and for each target that has not exactly one driver."""
    provided = {name for each in _of_type(runs, StorageLayer) for name in each.provides}
    drivers = list(_of_type(runs, TargetDriver))
    for target in targets:
        yield from (_unprovided(target, device) for device in stack_of(target) if device.name not in provided)
        if sum(target in each.drives for each in drivers) != 1:
            yield HookError(f"{target.name}: not driven by exactly one hook", hint="see hooks/README.md")


def _of_type(runs: Iterable[HookRun], phase: type[_Phase]) -> Iterator[_Phase]:
    return (run.contribution for run in runs if isinstance(run.contribution, phase))


def _unprovided(target: TargetFacts, device: BlockDevice) -> KdumpError:
    if isinstance(device, UnknownDevice):
        return HostError(f"{target.name}: stands on {device.name}, {device.seems}", hint=device.remedy)
    if isinstance(device, MappedDevice):
        of_type = f" of type {', '.join(device.target_types)}" if device.target_types else ""
        return HostError(
            f"{target.name}: stands on {device.name} ({device.dm_name}), a device of device-mapper{of_type} that "
            "neither LVM, cryptsetup nor multipath has made",
            hint="name a target on something else, or add a hook that makes it (contrib/example-hooks)",
        )
    return HostError(
        f"{target.name}: stands on {device.name}, a device of kind {device.kind} that no hook provides",
        hint="choose a target on a disk, a partition or a plain logical volume, or add a hook for it",
    )
