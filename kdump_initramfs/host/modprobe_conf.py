"""What modprobe is configured to do on this machine: /etc/modprobe.d and its companions."""

from collections.abc import Iterable

from kdump_initramfs.errors import HostError
from kdump_initramfs.formats import modprobe_conf
from kdump_initramfs.formats.modprobe_conf import ModuleSettings
from kdump_initramfs.host.root import Root

# Of files of one name the first counts (modprobe.d(5); default_config_paths in libkmod/libkmod.c).
_DIRECTORIES = (
    "/etc/modprobe.d",
    "/run/modprobe.d",
    "/usr/local/lib/modprobe.d",
    "/usr/lib/modprobe.d",
    "/lib/modprobe.d",
)
_BLACKLIST = "modprobe.blacklist"


def read(root: Root) -> ModuleSettings:
    """Return the settings of all files, by name, as modprobe reads them; a link to /dev/null masks one."""
    paths: dict[str, str] = {}
    for directory in _DIRECTORIES:
        for name in _names(root, directory):
            if name.endswith((".conf", ".alias")) and not name.startswith("."):
                paths.setdefault(name, f"{directory}/{name}")
    return modprobe_conf.parse([(paths[name], _text(root, paths[name])) for name in sorted(paths)])


def _names(root: Root, directory: str) -> list[str]:
    try:
        return list(root.list(directory))
    except OSError as error:
        raise HostError(f"{directory}: {error.strerror}", hint="make it readable, or run as root") from error


def _text(root: Root, path: str) -> str:
    """Return a file; nothing of what is no file. It must be readable: what it says may decide which driver is taken."""
    # Of a loop of links, too, is_file() says that it is none; resolve() raises an error.
    if not root.is_file(root.resolve(path)):
        return ""
    try:
        return root.read_text(path) or ""
    except HostError as error:
        raise HostError(f"{error}", hint="make it readable, or run as root") from error


def blacklisted(cmdline: Iterable[str]) -> tuple[str, ...]:
    """Return the modules that the command line keeps from devices; module_blacklist= the kernel heeds by itself."""
    found = (parameter.strip('"').partition("=") for parameter in cmdline)
    return tuple(name for key, _, value in found if key == _BLACKLIST for name in value.strip('"').split(",") if name)
