"""What LVM has written of a volume group to /etc/lvm/backup (vgcfgbackup(8)): at each change of the group."""

import re

from kdump_initramfs.host.root import Root

_BACKUP = "/etc/lvm/backup"
# Of device-mapper's names: one dash is between group and volume, two are one of a name.
_BETWEEN = re.compile(r"(?<!-)-(?!-)")
_KEY = r'^\s*{} = "([^"]*)"'


def path(group: str) -> str:
    return f"{_BACKUP}/{group}"


def text(root: Root, group: str) -> str:
    """Return the file of a group; "" where there is none."""
    return root.read_text(path(group)) or "" if group not in {"", ".", ".."} else ""


def group_of(dm_name: str) -> str:
    """Return the group in the name that device-mapper has for a volume: GROUP-VOLUME, dashes of each doubled."""
    return _BETWEEN.split(dm_name)[0].replace("--", "-")


def system_id(content: str) -> str:
    """Return whose the group is (lvmsystemid(7)): LVM elsewhere leaves it alone; "" if it is anybody's."""
    return _first("system_id", content)


def lock_type(content: str) -> str:
    """Return the lock manager of a shared group: sanlock, dlm; "" of a group of one machine."""
    found = _first("lock_type", content)
    return "" if found == "none" else found


def _first(key: str, content: str) -> str:
    """Return the first value of a key, which is that of the group: volumes come behind."""
    match = re.search(_KEY.format(key), content.partition("physical_volumes")[0], re.MULTILINE)
    return match[1] if match else ""
