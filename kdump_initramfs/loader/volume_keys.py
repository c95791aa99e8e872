"""Volume keys of LUKS devices, which the running kernel leaves in the reserved memory for the capture kernel.

The next kexec_file_load(2) copies the logon keys whose descriptions stand in configfs (kernel/crash_dump_dm_crypt.c,
Documentation/admin-guide/kdump/kdump.rst). Only what a key is called passes through here, never the key.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from kdump_initramfs.errors import LoadError, raise_together
from kdump_initramfs.host.root import Root

logger = logging.getLogger(__name__)

DIRECTORY = "/sys/kernel/config/crash_dm_crypt_keys"

# asm/unistd_64.h of x86, the one architecture whose images ask for keys, and linux/keyctl.h.
_REQUEST_KEY, _KEYCTL = 249, 250
_JOIN_SESSION, _LINK, _SESSION_KEYRING, _USER_KEYRING = 1, 8, -3, -4


def item(number: int) -> str:
    """Return the directory of a key in configfs."""
    return f"{DIRECTORY}/kdump-initramfs-{number}"


def check(descriptions: Sequence[str]) -> None:
    """Raise LoadError for the keys that kexec would not find: it frees what is loaded before it looks for them.

    This process, and kexec as its child, get a session keyring of their own, which leads to root's.
    """
    if descriptions:
        _enter_session()
    raise_together(
        [
            LoadError(
                f"{description}: no such logon key in root's keyring, but a dump target is opened by it",
                hint=f"cryptsetup open --test-passphrase --link-vk-to-keyring @u::%logon:{description} DEVICE brings "
                f"it, and link-volume-key=@u::%logon:{description} in /etc/crypttab does at boot; what was loaded "
                "before still is",
            )
            for description in descriptions
            if not _has_key(description)
        ]
    )


@contextmanager
def registered(root: Root, descriptions: Sequence[str]) -> Iterator[None]:
    """Have the load that is done inside hand over these keys, and no others; nothing is registered afterwards."""
    if not descriptions:
        yield
        return
    if not root.is_dir(DIRECTORY):
        raise LoadError(
            f"{DIRECTORY}: no such directory, but a volume key must be handed over through it",
            hint="mount -t configfs configfs /sys/kernel/config; where it is not there then, the running kernel was "
            "built without CONFIG_CRASH_DM_CRYPT",
        )
    try:
        _clear(root)
        _register(root, descriptions)
        yield
    finally:
        _clear(root)


def _register(root: Root, descriptions: Sequence[str]) -> None:
    try:
        # Another tool may have asked for the keys of the load before this one.
        if root.read_word(f"{DIRECTORY}/reuse") == "1":
            _write(root, f"{DIRECTORY}/reuse", "0")
        for number, description in enumerate(descriptions):
            os.mkdir(root.host(item(number)), 0o700)
            _write(root, f"{item(number)}/description", description)
    except OSError as error:
        raise LoadError(f"{error.filename or DIRECTORY}: {error.strerror}", hint="see the kernel's log") from error


def _clear(root: Root) -> None:
    """Remove every key that is registered, by whomever: one that has gone since would make the load fail."""
    for name in root.list(DIRECTORY):
        if root.is_dir(f"{DIRECTORY}/{name}"):
            try:
                os.rmdir(root.host(f"{DIRECTORY}/{name}"))
            except OSError as error:
                raise LoadError(f"{DIRECTORY}/{name}: {error.strerror}", hint="remove it by rmdir") from error


def _write(root: Root, path: str, value: str) -> None:
    with open(root.host(path), "wb", buffering=0) as stream:
        stream.write(value.encode("utf-8", "surrogateescape"))


def _enter_session() -> None:
    """Leave the session keyring for an anonymous one that leads to root's keyring and ends with this process.

    The one that was inherited need not lead there (KeyringMode= in systemd.exec(5)), and must not be made to: that of
    sudo's caller is still his when we have ended, and whoever possesses a keyring has what it leads to (keyrings(7)).
    """
    if _call(_KEYCTL, _JOIN_SESSION, None):
        _call(_KEYCTL, _LINK, _USER_KEYRING, _SESSION_KEYRING)


def _has_key(description: str) -> bool:
    """Tell whether a child of this process finds the key, as the kernel looks for it: request_key(2)."""
    return _call(_REQUEST_KEY, b"logon", description.encode("utf-8", "surrogateescape"), None, 0)


def _call(number: int, *arguments: int | bytes | None) -> bool:
    """Make a system call that glibc has no function for, and tell whether it succeeded."""
    import ctypes  # noqa: PLC0415 - few machines hand over keys

    syscall = ctypes.CDLL(None, use_errno=True).syscall
    syscall.restype = ctypes.c_long
    words = [ctypes.c_long(each) if isinstance(each, int) else each for each in (number, *arguments)]
    if syscall(*words) >= 0:
        return True
    logger.debug("system call %d: %s", number, os.strerror(ctypes.get_errno()))
    return False
