"""One dump, for a person: what crashed, why, what was saved, and the last words."""

from collections.abc import Iterator

from kdump_initramfs.dumps import store
from kdump_initramfs.dumps.store import Dump, DumpRecord

_KIB = 1 << 10
_MIB = 1 << 20


def lines(dump: Dump, *, tail: int) -> Iterator[str]:
    """Yield the lines that describe a dump, with the last `tail` lines of the crashed kernel's log."""
    return (printable(line) for line in _lines(dump, tail))


def printable(line: str) -> str:
    """Return a line without what a terminal would obey: it comes from a system that went wrong."""
    return "".join(character if character.isprintable() or character == "\t" else "?" for character in line)


def _lines(dump: Dump, tail: int) -> Iterator[str]:
    yield f"dump       {dump.path}"
    yield f"state      {'complete' if dump.is_complete else 'INCOMPLETE'}"
    yield from (f"unfinished {name}" for name in dump.incomplete)
    if dump.record is not None:
        yield from _record(dump.record)
    last = store.tail(dump, tail)
    if last:
        yield ""
        yield f"last lines of {store.DMESG}:"
        yield from (f"  {line}" for line in last)


def _record(record: DumpRecord) -> Iterator[str]:
    yield f"panic      {record.panic or 'not found in the log'}"
    yield f"kernel     {record.kernel.release}"
    yield f"host       {record.host}"
    yield f"crashed    {record.crash_time or 'at an unknown time'}"
    yield f"target     {record.target.name} ({record.target.kind})"
    yield f"collector  {record.collector.name or 'none succeeded'} {record.collector.arguments}".rstrip()
    for name, file in sorted(record.files.items()):
        yield f"file       {name}: {_size(file.bytes)}, sha256 {file.sha256}"
    yield f"duration   {sum(step.seconds for step in record.steps):.1f} s in {len(record.steps)} steps"
    yield f"memory     {record.memory_low_kib // 1024} MiB available at the lowest"
    yield from (f"asked      the kernel asked for {name}, which is not in the image" for name in record.kernel_requests)
    yield from (f"warning    {warning}" for warning in record.warnings)


def _size(size_bytes: int) -> str:
    return f"{size_bytes / _MIB:.1f} MiB" if size_bytes >= _MIB else f"{size_bytes / _KIB:.1f} KiB"
