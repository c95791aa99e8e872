"""What an image is decided from, beside the files that go into it: kept in its record, and compared by `status`."""

import os
from collections.abc import Iterator

from msgspec.structs import replace

from kdump_initramfs import hooks, resources
from kdump_initramfs.config import Config
from kdump_initramfs.host.root import Root
from kdump_initramfs.image import record
from kdump_initramfs.model import Basis, HostFacts, Input, Tools


def read(root: Root, config: Config, host: HostFacts) -> Basis:
    """Return the basis of an image that is planned now."""
    return Basis(config=config, host=essential(host), sources=tuple(sources(root, modules_dir=host.kernel.modules_dir)))


def essential(host: HostFacts) -> HostFacts:
    """Return the facts that no other part of a record has, and that an image depends on."""
    tools = replace(host.tools, busybox_applets=(), makedumpfile_compressions=())
    return replace(host, targets=(), cmdline=(), boot_apicid=None, volume_keys=(), loaded_modules=(), tools=tools)


def programs(tools: Tools) -> dict[str, str]:
    """Return the programs that were found, name -> path."""
    found = ((name, getattr(tools, name)) for name in tools.__struct_fields__)
    return {name: value for name, value in found if isinstance(value, str)}


def sources(root: Root, *, modules_dir: str) -> Iterator[Input]:
    """Yield each file that is read to decide, with its digest; shipped ones by their name, wherever they lie."""
    shipped = {name: resources.directory(name) for name in ("hooks", "templates")}
    templates = [os.path.join(shipped["templates"], name) for name in sorted(os.listdir(shipped["templates"]))]
    halves = [half for files in hooks.find(root) for half in (files.build, files.capture) if half]
    for path in (*templates, *halves, root.host(f"{modules_dir}/modules.dep")):
        directory, file = os.path.split(path)
        name = next((f"{name}/{file}" for name, place in shipped.items() if place == directory), root.inside(path))
        if os.path.isfile(path):
            yield Input(path=name, sha256=record.sha256_of(path))
