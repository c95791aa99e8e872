"""In a guest: serves a block device, /dev/ublkb0, from another one: Debian has no server for ublk.

usage: zoo_ublk.py DEVICE. Formats: include/uapi/linux/io_uring.h and ublk_cmd.h of Linux 6.12.
"""

import ctypes
import mmap
import os
import struct
import sys
from collections.abc import Iterator

_ENTER, _SETUP = 426, 425
_SQE128 = 1 << 10
_GETEVENTS = 1
_URING_CMD = 46
_OFFSETS = {"sq": 0, "cq": 0x800_0000, "sqes": 0x1000_0000}
_DEPTH = 8
_BUFFER_BYTES = 1 << 19
_SECTOR_BYTES = 512
_READ, _WRITE, _FLUSH = 0, 1, 2
_ADD, _START, _SET_PARAMS = 0x04, 0x06, 0x08
_FETCH, _COMMIT_AND_FETCH = 0x20, 0x21

_libc = ctypes.CDLL(None, use_errno=True)


def _call(number: int, *arguments: object) -> int:
    result = int(_libc.syscall(number, *arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _code(number: int, size: int) -> int:
    """Return _IOWR('u', number, size)."""
    return 3 << 30 | size << 16 | ord("u") << 8 | number


class Ring:
    """An io_uring that takes commands for drivers."""

    def __init__(self, entries: int, flags: int) -> None:
        parameters = ctypes.create_string_buffer(120)
        struct.pack_into("<I", parameters, 8, flags)
        self._fd = _call(_SETUP, entries, parameters)
        fields = struct.unpack_from("<10I20I", parameters)
        self._sq, self._cq = fields[10:20], fields[20:30]
        self._sqe_bytes = 128 if flags & _SQE128 else 64
        self._sq_map = self._map("sq", self._sq[6] + 4 * fields[0])
        self._cq_map = self._map("cq", self._cq[5] + 16 * fields[1])
        self._sqes = self._map("sqes", self._sqe_bytes * fields[0])
        self._mask = fields[0] - 1

    def _map(self, what: str, size: int) -> mmap.mmap:
        return mmap.mmap(self._fd, size, mmap.MAP_SHARED | mmap.MAP_POPULATE, offset=_OFFSETS[what])

    def put(self, file: int, code: int, command: bytes, data: int) -> None:
        """Submit one command."""
        (tail,) = struct.unpack_from("<I", self._sq_map, self._sq[1])
        slot = tail & self._mask
        sqe = bytearray(self._sqe_bytes)
        struct.pack_into("<BBHiI", sqe, 0, _URING_CMD, 0, 0, file, code)
        struct.pack_into("<Q", sqe, 32, data)
        sqe[48 : 48 + len(command)] = command
        self._sqes[slot * self._sqe_bytes : (slot + 1) * self._sqe_bytes] = bytes(sqe)
        struct.pack_into("<I", self._sq_map, self._sq[6] + 4 * slot, slot)
        struct.pack_into("<I", self._sq_map, self._sq[1], tail + 1)
        _call(_ENTER, self._fd, 1, 0, 0, None, 0)

    def wait(self) -> Iterator[tuple[int, int]]:
        """Yield data and result of what has come to its end, of one at least."""
        _call(_ENTER, self._fd, 0, 1, _GETEVENTS, None, 0)
        head, tail = (struct.unpack_from("<I", self._cq_map, self._cq[each])[0] for each in (0, 1))
        (mask,) = struct.unpack_from("<I", self._cq_map, self._cq[2])
        while head != tail:
            data, result = struct.unpack_from("<Qi", self._cq_map, self._cq[5] + 16 * (head & mask))
            head += 1
            struct.pack_into("<I", self._cq_map, self._cq[0], head)
            yield data, result


class Control:
    """/dev/ublk-control, for the device of number 0."""

    def __init__(self) -> None:
        self._file = os.open("/dev/ublk-control", os.O_RDWR)
        self._ring = Ring(4, _SQE128)

    def put(self, number: int, buffer: "ctypes.Array[ctypes.c_char] | None" = None, value: int = 0) -> None:
        size, address = (len(buffer), ctypes.addressof(buffer)) if buffer is not None else (0, 0)
        command = struct.pack("<IHHQQHHI", 0, 0xFFFF, size, address, value, 0, 0, 0)
        self._ring.put(self._file, _code(number, 32), command, number)

    def call(self, number: int, buffer: "ctypes.Array[ctypes.c_char]") -> None:
        self.put(number, buffer)
        for _, result in self._ring.wait():
            if result < 0:
                raise OSError(-result, os.strerror(-result))


def transfer(backing: int, operation: int, memory: memoryview, offset: int) -> int:
    """Do one request, and return its result."""
    try:
        if operation == _READ:
            memory[:] = os.pread(backing, len(memory), offset)
        elif operation == _WRITE:
            os.pwrite(backing, memory, offset)
        elif operation == _FLUSH:
            os.fsync(backing)
        else:
            return -95
    except OSError as error:
        return -(error.errno or 5)
    return len(memory)


def serve(backing: int, control: Control) -> None:
    file = os.open("/dev/ublkc0", os.O_RDWR)
    requests = mmap.mmap(file, mmap.PAGESIZE, mmap.MAP_SHARED | mmap.MAP_POPULATE, mmap.PROT_READ)
    buffers = [ctypes.create_string_buffer(_BUFFER_BYTES) for _ in range(_DEPTH)]
    ring = Ring(_DEPTH * 2, 0)

    def put(code: int, tag: int, result: int) -> None:
        command = struct.pack("<HHiQ", 0, tag, result, ctypes.addressof(buffers[tag]))
        ring.put(file, _code(code, 16), command, tag)

    for tag in range(_DEPTH):
        put(_FETCH, tag, 0)
    control.put(_START, value=os.getpid())
    while True:
        for tag, _ in ring.wait():
            flags, sectors, start = struct.unpack_from("<IIQ", requests, 24 * tag)
            memory = memoryview(buffers[tag]).cast("B")[: sectors * _SECTOR_BYTES]
            put(_COMMIT_AND_FETCH, tag, transfer(backing, flags & 0xFF, memory, start * _SECTOR_BYTES))


def main(device: str) -> None:
    backing = os.open(device, os.O_RDWR)
    control = Control()
    info = struct.pack("<HHHHIIiIQQIIQQ", 1, _DEPTH, 0, 0, _BUFFER_BYTES, 0, -1, 0, 0, 0, 0, 0, 0, 0)
    control.call(_ADD, ctypes.create_string_buffer(info, len(info)))
    sectors = os.lseek(backing, 0, os.SEEK_END) // _SECTOR_BYTES
    # Basic parameters alone: blocks of 512 to 4096 bytes.
    basic = struct.pack("<IBBBBIIQQ", 0, 9, 12, 12, 9, _BUFFER_BYTES // _SECTOR_BYTES, 0, sectors, 0)
    parameters = struct.pack("<II", 8 + len(basic), 1) + basic
    control.call(_SET_PARAMS, ctypes.create_string_buffer(parameters, len(parameters)))
    serve(backing, control)


main(*sys.argv[1:])
