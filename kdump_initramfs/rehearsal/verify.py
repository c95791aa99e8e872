"""Whether what came back from the disk is the dump of the crash that was made."""

import hashlib
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator

from msgspec import Struct

from kdump_initramfs.dumps import store
from kdump_initramfs.errors import KdumpError, RehearsalError
from kdump_initramfs.formats import compression, vmcore


class Check(Struct, frozen=True, kw_only=True):
    name: str
    passed: bool
    # What was seen, or what is wrong.
    detail: str = ""


class Expected(Struct, frozen=True, kw_only=True):
    token: str
    kernel_release: str
    manifest_digest: str


def unpack(result_disk: str, directory: str) -> None:
    """Unpack what the second boot has written to the result disk: regular files and directories, with their modes."""
    os.makedirs(directory, mode=0o700)
    try:
        with tarfile.open(result_disk, "r:") as archive:
            for member in archive:
                _extract(archive, member, directory)
    except (tarfile.TarError, OSError) as error:
        raise RehearsalError(f"{result_disk}: {error}", hint="the console logs tell what the guest did") from error


def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo, directory: str) -> None:
    """Extract one member below `directory`; by hand, since Debian 12's Python has no extraction filters yet."""
    path = os.path.normpath(os.path.join(directory, member.name))
    if path == directory:
        return
    if not path.startswith(directory + "/"):
        raise tarfile.ReadError(f"{member.name}: leads out of the archive")
    content = archive.extractfile(member) if member.isreg() else None
    if member.isdir():
        os.mkdir(path)
    elif content is not None:
        with content, open(path, "xb") as stream:
            shutil.copyfileobj(content, stream, 1 << 20)
    else:
        return
    os.chmod(path, member.mode & 0o777)


def verify(directory: str, expected: Expected) -> tuple[Check, ...]:
    """Return every check of the dump below `directory`; there must be exactly one."""
    found = store.find([directory])
    if len(found) != 1:
        names = ", ".join(sorted(os.listdir(directory))) or "nothing"
        return (Check(name="one dump was saved", passed=False, detail=f"{len(found)} dumps; on the disk: {names}"),)
    dump = found[0]
    return (Check(name="one dump was saved", passed=True, detail=dump.name), *_check_dump(dump, expected))


def _check_dump(dump: store.Dump, expected: Expected) -> Iterator[Check]:
    if dump.record is None:
        yield Check(name="it has a record", passed=False, detail=f"no {store.RECORD}")
        return
    record = dump.record
    missing = " and ".join(dump.incomplete)
    yield Check(name="it is complete", passed=dump.is_complete and not dump.incomplete, detail=missing)
    yield _compare("the kernel is the one that crashed", record.kernel.release, expected.kernel_release)
    yield _compare("the image is the one that was loaded", record.manifest_digest, expected.manifest_digest)
    yield _attempt("the crashed kernel's log has the token", lambda: _check_token(dump, expected.token))
    # It succeeds only where the configuration asks for the log alone.
    if record.collector.name != "dmesg":
        yield _attempt("the vmcore is whole", lambda: _check_vmcore(dump, expected.kernel_release))
    yield from check_files(dump, record)


def check_files(dump: store.Dump, record: store.DumpRecord) -> Iterator[Check]:
    """Yield what holds of the files of every dump that has a record."""
    yield _attempt("every sha256 equals its record", lambda: _check_digests(dump, record))
    yield _attempt("nobody else can read it", lambda: _check_modes(dump))


def _compare(name: str, found: str, wanted: str) -> Check:
    return Check(name=name, passed=found == wanted, detail=found if found == wanted else f"{found}, not {wanted}")


def _attempt(name: str, check: Callable[[], str]) -> Check:
    """Return the check, failed where it raises what a damaged dump makes it raise."""
    try:
        return Check(name=name, passed=True, detail=check())
    except (KdumpError, OSError) as error:
        return Check(name=name, passed=False, detail=str(error))


def _check_token(dump: store.Dump, token: str) -> str:
    with open(os.path.join(dump.path, store.DMESG), encoding="utf-8", errors="replace") as stream:
        if token not in stream.read():
            raise RehearsalError(f"{store.DMESG}: has no {token}")
    return token


def _check_vmcore(dump: store.Dump, release: str) -> str:
    name = next((name for name in store.VMCORES if os.path.exists(os.path.join(dump.path, name))), None)
    if name is None:
        raise RehearsalError("there is no vmcore")
    path = os.path.join(dump.path, name)
    if not name.endswith((".zst", ".gz")):
        return _check_plain(path, name, release)
    plain = f"{path}.plain"
    try:
        _unpack(path, plain)
        return _check_plain(plain, name, release)
    finally:
        if os.path.exists(plain):
            os.unlink(plain)


def _unpack(path: str, plain: str) -> None:
    with open(path, "rb") as packed, open(plain, "wb") as stream, compression.reader(packed, path) as unpacked:
        while chunk := unpacked.read(1 << 20):
            stream.write(chunk)


def _check_plain(path: str, name: str, release: str) -> str:
    with open(path, "rb") as stream:
        found = vmcore.check(stream, os.path.getsize(path), name)
    if found.release != release:
        raise RehearsalError(f"{name}: is of kernel {found.release}, not {release}")
    return f"{found.format}, {found.parts} {'pages' if found.format == 'kdump-compressed' else 'segments'}"


def _check_digests(dump: store.Dump, record: store.DumpRecord) -> str:
    # The record itself cannot hold its own digest.
    for name in sorted(set(os.listdir(dump.path)) - {store.RECORD}):
        known = record.files.get(name)
        with open(os.path.join(dump.path, name), "rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        if known is None or known.sha256 != digest or known.bytes != os.path.getsize(stream.name):
            raise RehearsalError(f"{name}: is not what {store.RECORD} says")
    return f"{len(record.files)} files"


def _check_modes(dump: store.Dump) -> str:
    for path in (dump.path, *(entry.path for entry in os.scandir(dump.path))):
        mode = os.stat(path).st_mode & 0o777
        if mode & 0o077:
            raise RehearsalError(f"{path}: mode {mode:o}")
    return ""
