"""The x86 boot protocol: which kernel a bzImage is (Documentation/arch/x86/boot.rst)."""

import struct

_MAGIC_OFFSET = 0x202  # "HdrS"
_VERSION_POINTER = 0x20E  # kernel_version: offset of the version string, less 0x200


def release(head: bytes) -> str | None:
    """Return the release that the image names, or None where `head` is no bzImage or names none."""
    if head[_MAGIC_OFFSET : _MAGIC_OFFSET + 4] != b"HdrS" or len(head) < _VERSION_POINTER + 2:
        return None
    (pointer,) = struct.unpack_from("<H", head, _VERSION_POINTER)
    if pointer == 0:
        return None
    version, _, _ = head[pointer + 0x200 : pointer + 0x400].partition(b"\0")
    words = version.decode("ascii", "replace").split(" ")
    return words[0] or None
