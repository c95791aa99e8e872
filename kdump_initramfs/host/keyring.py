"""Which volume keys are in the kernel's keyrings, by their descriptions (keyrings(7)); never a key itself."""

import re

from kdump_initramfs.host.root import Root
from kdump_initramfs.model import VOLUME_KEY_PREFIX

_KEYS = "/proc/keys"
# ID flags usage timeout permissions uid gid type description: bytes (proc_keys(5)). The flags of a key that can be used
# are I and perhaps Q; one that has expired says so in place of the time that is left.
_LOGON = re.compile(
    r"^[0-9a-f]+ I--[Q-]---\s+[0-9]+\s+(?!expd)\S+\s+[0-9a-f]+\s+[0-9]+\s+[0-9]+"
    r"\s+logon\s+(?P<description>.+): [0-9]+$",
    re.MULTILINE,
)


def volume_keys(root: Root) -> tuple[str, ...]:
    """Return the descriptions of the logon keys that can be used and are volume keys by their names."""
    found = {match["description"] for match in _LOGON.finditer(root.read_text(_KEYS) or "")}
    return tuple(sorted(description for description in found if description.startswith(VOLUME_KEY_PREFIX)))
