"""Crashes this very machine, to see whether its dump is saved: the one rehearsal that leaves nothing out."""

import os
import secrets
import sys
import time
from collections.abc import Callable

from kdump_initramfs.config import Config
from kdump_initramfs.errors import RehearsalError
from kdump_initramfs.host import activity, probe
from kdump_initramfs.host.root import Root
from kdump_initramfs.loader import proof, state, status
from kdump_initramfs.rehearsal import attempt

_KERNEL_LOG = "/dev/kmsg"
_SYSRQ = "/proc/sysrq-trigger"
# How long is looked for programs that write, and how much each may.
_WATCH_S = 2.0
_WRITES_BYTES = 1 << 20

Confirm = Callable[[str], str]


def crash(root: Root, config: Config, *, force: bool, confirm: Confirm) -> None:
    """Crash the machine if it is armed, nobody uses it (or `force`), and `confirm` answers with its name.

    `confirm` gets what is to be asked. Comes back only with a RehearsalError.
    """
    if root.directory != "/" or os.geteuid() != 0:
        raise RehearsalError("only root can crash the running machine", hint="run it as root, without --root")
    found = status.read(root, config)
    loaded = _loaded(found)
    if not force:
        _check_quiet(root)
    host = probe.hostname(root)
    if confirm(f"This crashes {host} now. Type its name to go on: ").strip() != host:
        raise RehearsalError(f"{host}: that is not what was typed; nothing was crashed")
    token = f"kdump-initramfs: live rehearsal {secrets.token_hex(16)}"
    wanted = attempt.Attempt(
        image_sha256=loaded.image_sha256,
        boot_id=attempt.boot_id(root),
        token=token,
        at=proof.now(),
        crashkernel=f"{found.reserved_bytes >> 20}M",
    )
    with attempt.remembered(loaded.image, wanted):
        _panic(token)
    raise RehearsalError(f"{_SYSRQ}: the kernel did not crash", hint="is CONFIG_MAGIC_SYSRQ on?")


def _loaded(found: status.Status) -> state.Loaded:
    """Return what is loaded, if it is what the next crash is to be saved with."""
    if not found.armed or found.loaded is None:
        raise RehearsalError(
            "this machine is not armed by us: a crash leaves nothing", hint="run: kdump-initramfs load"
        )
    if found.stale:
        raise RehearsalError(f"what is loaded is stale: {found.stale[0]}", hint="what is proven should be what stays")
    return found.loaded


def _check_quiet(root: Root) -> None:
    """Refuse while somebody is logged in, or something writes."""
    before = activity.processes(root)
    users = list(activity.at_terminals(before, os.getpid()))
    if users:
        hint = "have them log out, or add --force"
        raise RehearsalError(f"this machine is in use: {', '.join(users)}", hint=hint)
    time.sleep(_WATCH_S)
    writers = list(activity.writers(before, activity.processes(root), _WRITES_BYTES))
    if writers:
        hint = "stop them, or add --force: what they have not written yet is lost"
        raise RehearsalError(f"written within {_WATCH_S:.0f} s: {', '.join(writers)}", hint=hint)


def ask(question: str) -> str:
    """Ask on the terminal, or read an answer that is piped in."""
    sys.stderr.write(question)
    sys.stderr.flush()
    return sys.stdin.readline()


def _panic(token: str) -> None:
    """Write out what is to be written, and crash (Documentation/admin-guide/sysrq.rst)."""
    os.sync()
    try:
        with open(_KERNEL_LOG, "wb", buffering=0) as log:
            log.write(token.encode())
        with open(_SYSRQ, "wb", buffering=0) as trigger:
            trigger.write(b"c")
    except OSError as error:
        raise RehearsalError(f"{error.filename}: {error.strerror}; nothing was crashed") from error
