"""Programs of the administrator that run before and after the dump: capture.pre and .post, pre.d and post.d."""

import os
import stat
from collections.abc import Sequence

from kdump_initramfs.errors import HostError, KdumpError, raise_together
from kdump_initramfs.host.root import Root
from kdump_initramfs.model import Script

_DIRECTORY = "/etc/kdump-initramfs/{when}.d"
_SHEBANG_BYTES = 256  # BINPRM_BUF_SIZE, include/uapi/linux/binfmts.h


def scripts(root: Root, when: str, named: Sequence[str]) -> tuple[Script, ...]:
    """Return the named programs and those of the directory for `when`, in their order.

    What is not executable in the directory is left out, as run-parts(8) does. Raises HostError for one that is missing,
    or that somebody else than root could have put there.
    """
    directory = _DIRECTORY.format(when=when)
    dropped = [path for name in root.list(directory) if _is_executable(root, path := f"{directory}/{name}")]
    errors: list[KdumpError] = []
    found: list[Script] = []
    for path in (*named, *dropped):
        if problem := _problem(root, path):
            errors.append(problem)
        else:
            found.append(Script(path=path, interpreter=_interpreter(root, path)))
    raise_together(errors)
    return tuple(found)


def _is_executable(root: Root, path: str) -> bool:
    return root.is_file(path) and bool(os.stat(root.host(path)).st_mode & stat.S_IXUSR)


def _problem(root: Root, path: str) -> KdumpError | None:
    if not root.is_file(path):
        return HostError(f"{path}: no such file", hint="mend capture.pre or capture.post, or put the program there")
    status = os.stat(root.host(path))
    exposed = status.st_uid != 0 or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if os.geteuid() == 0 and exposed:
        return HostError(f"{path}: may be changed by others than root", hint=f"chown root {path} && chmod go-w {path}")
    if not status.st_mode & stat.S_IXUSR:
        return HostError(f"{path}: is not executable", hint=f"chmod u+x {path}")
    return None


def _interpreter(root: Root, path: str) -> str:
    head = (root.read_bytes(path) or b"")[:_SHEBANG_BYTES]
    if not head.startswith(b"#!"):
        return ""
    words = head[2:].split(b"\n")[0].decode("utf-8", "surrogateescape").split()
    return words[0] if words else ""
