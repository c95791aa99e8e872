"""The parameters that modules are loaded with in the capture kernel, of those that modprobe.d has for them."""

import re

from kdump_initramfs.formats.depmod import normal
from kdump_initramfs.formats.modprobe_conf import ModuleSettings

# Of modprobe.d(5): what must not reach a driver in the capture kernel. A name that begins with a dot is a parameter of
# any module.
DROPPED = {
    "scsi_mod.scan": "with `manual` or `none` a program of the running system scans for disks, and none does here",
    "scsi_mod.scsi_logging_level": "each command would be a line on the console, which may be a serial one",
    "dm_bufio.max_cache_size_bytes": "a size that suits the whole machine takes the memory of the capture",
    ".max_vfs": "virtual functions serve guests, and take the memory of the capture",
    ".num_vfs": "as max_vfs",
    ".probe_vf": "as max_vfs",
}

# A word as next_arg() of the kernel's lib/cmdline.c tells them apart; quotes stay.
_words = re.compile(r'(?:"[^"]*(?:"|$)|[^\s"])+').findall


def of(settings: ModuleSettings, module: str) -> str:
    """Return the parameters of a module, as the kernel reads them."""
    given = (each for name, each in settings.options if name == module)
    return " ".join(word for each in given for word in _words(each) if not _is_dropped(module, word))


def _is_dropped(module: str, parameter: str) -> bool:
    name = normal(parameter.partition("=")[0].strip('"'))
    return f"{module}.{name}" in DROPPED or f".{name}" in DROPPED
