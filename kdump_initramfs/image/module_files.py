"""Modules as files of this machine, unpacked: once for their firmware and for the image, since xz takes 10 ms per MB.

All of them are read before the first is wanted again, so that the limit is one of bytes, and each is given out once.
"""

import os

from kdump_initramfs import regular
from kdump_initramfs.formats import compression

_MAX_MODULE_BYTES = 256 << 20
_MAX_KEPT_BYTES = 96 << 20


class Kept:
    def __init__(self) -> None:
        self._contents: dict[tuple[str, int, int], bytes] = {}
        self._bytes = 0

    def read(self, path: str) -> bytes:
        """Return the module in a file, unpacked, and keep it where there was something to unpack."""
        key = self._key(path)
        packed, content = _unpack(path)
        if content is not packed:
            self._bytes += len(content) - len(self._contents.pop(key, b""))
            self._contents[key] = content
        while self._bytes > _MAX_KEPT_BYTES:
            self._bytes -= len(self._contents.pop(next(iter(self._contents))))
        return content

    def take(self, path: str) -> bytes:
        """Return the module in a file, unpacked; what was kept of it is kept no longer."""
        content = self._contents.pop(self._key(path), None)
        if content is None:
            return _unpack(path)[1]
        self._bytes -= len(content)
        return content

    @staticmethod
    def _key(path: str) -> tuple[str, int, int]:
        status = os.stat(path)
        return path, status.st_mtime_ns, status.st_size


def _unpack(path: str) -> tuple[bytes, bytes]:
    with open(path, "rb", opener=regular.opener) as stream:
        packed = stream.read()
    return packed, compression.unpack(packed, limit_bytes=_MAX_MODULE_BYTES, name=path)


_kept = Kept()
read = _kept.read
take = _kept.take
