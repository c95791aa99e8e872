"""Everything that the decisions stand on: `HostFacts`, gathered from files below a root directory."""

import re

import msgspec

from kdump_initramfs.config import Config
from kdump_initramfs.errors import ConfigError, HostError
from kdump_initramfs.formats import plaintext
from kdump_initramfs.host import (
    crash,
    crypttab,
    kernel,
    keyring,
    loaded,
    modprobe_conf,
    site,
    targets,
    tools,
    watchdog,
)
from kdump_initramfs.host.root import Root
from kdump_initramfs.model import HostFacts, Kernel
from kdump_initramfs.storage import TargetFacts


def read(
    root: Root,
    config: Config,
    *,
    facts_of: HostFacts | None = None,
    known_kernel: Kernel | None = None,
    known_targets: tuple[TargetFacts, ...] | None = None,
) -> HostFacts:
    """Return the facts of the machine at `root`.

    With `facts_of` (another machine's), storage, name and command line are that machine's, while kernel and programs
    are still those of `root`: how an image is built where the hardware is not. A known kernel is not looked at, nor are
    known targets.
    """
    machine = tools.machine(root)
    found_kernel = known_kernel or kernel.read(root, config.kernel, machine)
    is_host = config.image.mode == "host"
    if facts_of is not None:
        same_kernel = facts_of.kernel.release == found_kernel.release
        return msgspec.structs.replace(
            facts_of,
            hostname=_safe_name(facts_of.hostname),
            machine=machine,
            kernel=found_kernel,
            loaded_modules=facts_of.loaded_modules if is_host and same_kernel else (),
            tools=tools.read(root),
            pre_scripts=site.scripts(root, "pre", config.capture.pre),
            post_scripts=site.scripts(root, "post", config.capture.post),
        )
    return HostFacts(
        hostname=hostname(root),
        machine=machine,
        kernel=found_kernel,
        cmdline=split_cmdline(root.read_text("/proc/cmdline") or ""),
        reserved_bytes=crash.reserved_bytes(root),
        boot_apicid=boot_apicid(root),
        tools=tools.read(root),
        crypttab=crypttab.read(root),
        volume_keys=keyring.volume_keys(root),
        loaded_modules=loaded.read(root, found_kernel.release) if is_host else (),
        watchdogs=watchdog.read(root),
        module_settings=modprobe_conf.read(root),
        pre_scripts=site.scripts(root, "pre", config.capture.pre),
        post_scripts=site.scripts(root, "post", config.capture.post),
        targets=targets.read(root, config.targets, generic=config.image.mode == "generic")
        if known_targets is None
        else known_targets,
    )


def load_facts(path: str) -> HostFacts:
    """Return the facts in a file that `probe --json` wrote."""
    try:
        with open(path, "rb") as stream:
            return plaintext.decode(stream.read(), HostFacts)
    except OSError as error:
        raise HostError(f"{path}: {error.strerror}", hint="name a file that `probe --json` wrote") from error
    except msgspec.DecodeError as error:
        raise ConfigError(f"{path}: {error}", hint="write it anew with `probe --json` on that machine") from error


def hostname(root: Root) -> str:
    """Return the name of the machine, as dumps are named by it."""
    return _safe_name(root.read_word("/etc/hostname") or root.read_word("/proc/sys/kernel/hostname"))


def _safe_name(name: str) -> str:
    """Return the name of a host, reduced to what is safe in the name of a directory."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip(".-")[:64] or "localhost"


def split_cmdline(text: str) -> tuple[str, ...]:
    """Return the parameters of a kernel command line; a quoted part keeps its quotes and spaces.

    As next_arg() of the kernel's lib/cmdline.c: double quotes alone, no escapes, an open one reaches to the end.
    """
    return tuple(re.findall(r'(?:"[^"]*(?:"|$)|[^\s"])+', text))


def boot_apicid(root: Root) -> int | None:
    """Return the APIC id of the processor that the running kernel booted on; None where there is no APIC."""
    match = re.search(r"^initial apicid\s*:\s*([0-9]+)$", root.read_text("/proc/cpuinfo") or "", re.MULTILINE)
    return int(match[1]) if match else None
