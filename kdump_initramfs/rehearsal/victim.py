"""The small system that is made to crash: an image of our own kind, with the capture image and its kernel inside."""

import shlex
from collections.abc import Mapping

from msgspec.structs import replace

from kdump_initramfs import hooks, resources
from kdump_initramfs.config import Config
from kdump_initramfs.errors import Problems
from kdump_initramfs.host import probe
from kdump_initramfs.host.root import Root
from kdump_initramfs.image import layout, plan, render, write
from kdump_initramfs.loader.kexec import Command
from kdump_initramfs.model import BuildOnly, Dir, Entry, File, HostFacts, Link, Plan, Text
from kdump_initramfs.rehearsal.storage import METADATA_PATH, Recipe
from kdump_initramfs.storage import TargetFacts

# What victim.sh and the recipes call besides what the base hook links.
_APPLETS = ("echo", "tar")
# The result disk, whatever the disk of the target is.
_RESULT_MODULES = ("virtio_pci", "virtio_blk")


def build(
    root: Root,
    config: Config,
    command: Command,
    target: TargetFacts,
    recipe: Recipe,
    settings: Mapping[str, str],
    output: str,
) -> None:
    """Write the image of the victim, which runs `command` in its first boot."""
    manifest = command.record.manifest
    kernel = manifest.kernel
    config = replace(
        config,
        # It has no other hardware than what is made for it.
        image=replace(config.image, mode="host"),
        kernel=replace(config.kernel, version=kernel.release, image=kernel.image, modules_dir=kernel.modules_dir),
    )
    host = probe.read(root, config, facts_of=_facts(command, target))
    drivers = [run.contribution for run in hooks.contribute(config, host, root=root)]
    own = BuildOnly(
        binaries=(command.words[0], *recipe.binaries),
        modules=_RESULT_MODULES,
        entries=_entries(host, command, recipe, settings),
    )
    problems = Problems()
    parts = plan.gather(root, host, [*drivers, own], problems=problems)
    problems.raise_all()
    victim = Plan(
        # QEMU gets what kexec gets.
        kernel=replace(kernel, copied_because=""),
        entries=layout.arrange(root, parts.entries),
        hooks=(),
        targets=(),
        # Packing costs more time than it saves: nothing but this guest ever reads it.
        compression="none",
    )
    write.write(victim, root, output)


def _facts(command: Command, target: TargetFacts) -> HostFacts:
    manifest = command.record.manifest
    return HostFacts(hostname="rehearsal", machine="", kernel=manifest.kernel, targets=(target,))


def _entries(host: HostFacts, command: Command, recipe: Recipe, settings: Mapping[str, str]) -> tuple[Entry, ...]:
    return (
        Dir(path="/mnt"),
        *(Link(path=f"/bin/{applet}", target=host.tools.busybox) for applet in _APPLETS),
        Text(path="/init", content=resources.read("templates", "victim.sh"), mode=0o755),
        Text(path="/etc/victim/settings", content=render.render("settings.sh.j2", settings=sorted(settings.items()))),
        Text(path="/etc/victim/make-storage", content=recipe.make),
        Text(path="/etc/victim/open-storage", content=recipe.open),
        Text(path="/etc/victim/load", content=f"{shlex.join(command.words)}\n"),
        Text(path=METADATA_PATH, content=recipe.lvm_metadata),
        File(path=command.kernel_path, source=command.kernel),
        File(path=command.image, source=command.image),
    )
