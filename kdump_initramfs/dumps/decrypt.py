"""Decrypts a vmcore that was encrypted on the way to its target (vmcore.encrypt_to), with age(1)."""

import os

from kdump_initramfs import durable, run
from kdump_initramfs.dumps import store
from kdump_initramfs.dumps.store import Dump
from kdump_initramfs.errors import HostError, KdumpError

# A core of a terabyte, at what a slow disk takes.
_TIMEOUT_S = 86400.0


def decrypt(dump: Dump, identity: str, directory: str) -> str:
    """Write the vmcore of a dump, decrypted, into `directory`, and return its path.

    `identity` is a file with the secret key. Nothing that is there is overwritten. The result has its name only when
    all of it is there: age tells an end that came too early, and a single byte that was changed.
    """
    sealed = next((name for name in store.VMCORES if _is_sealed(dump, name)), "")
    if not sealed:
        raise KdumpError(f"{dump.name}: no vmcore of it is encrypted", hint=f"look at {dump.path}")
    path = os.path.join(directory, sealed.removesuffix(store.SEALED))
    if os.path.lexists(path):
        raise KdumpError(f"{path}: is there already", hint="move it away, or name another directory with --to")
    unfinished = f"{path}-incomplete"
    _check_identity(identity)
    try:
        _make(unfinished)
        words = ["age", "--decrypt", "-i", os.path.abspath(identity), "-o", unfinished]
        result = run.run([*words, os.path.join(dump.path, sealed)], timeout_s=_TIMEOUT_S)
        if result.returncode != 0:
            said = result.stderr.strip().splitlines()
            raise HostError(
                f"{sealed}: {said[0] if said else 'age failed'}",
                hint="is it the key of vmcore.encrypt_to, and the file whole?",
            )
        durable.sync_file(unfinished)
        os.rename(unfinished, path)
        durable.sync_directory(directory)
    except OSError as error:
        raise HostError(
            f"{error.filename or path}: {error.strerror}", hint="name a directory with room in --to"
        ) from error
    finally:
        if os.path.lexists(unfinished):
            os.unlink(unfinished)
    return path


def _is_sealed(dump: Dump, name: str) -> bool:
    return name.endswith(store.SEALED) and os.path.exists(os.path.join(dump.path, name))


def _check_identity(identity: str) -> None:
    if not os.path.isfile(identity):
        raise HostError(f"{identity}: no such file", hint="name the file with the secret key, as age-keygen wrote it")


def _make(path: str) -> None:
    """Make the file before age does, for nobody else to read; age keeps the mode of one that is there."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
