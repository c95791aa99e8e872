"""A root directory, and the paths below it as a process chrooted into it would see them.

Everything that is read of a machine is read through a Root, so that a tree of files is a complete machine: a chroot
while an image is built, a test fixture, or `/` itself.
"""

import os
from collections.abc import Callable, Iterator

from kdump_initramfs import regular
from kdump_initramfs.errors import HostError

_MAX_LINKS = 40  # as in the kernel: MAXSYMLINKS, include/linux/namei.h
# Of what is read as a whole: configuration, lists, programs. More is damage, such as a size without content.
_MAX_BYTES = 256 << 20


class Root:
    """Resolves and reads paths below `directory`, symbolic links never leading out of it."""

    def __init__(self, directory: str = "/") -> None:
        self.directory = os.path.abspath(directory)

    def __repr__(self) -> str:
        return f"Root({self.directory!r})"

    def resolve(self, path: str) -> str:
        """Return `path` (absolute, inside the root) with every symbolic link resolved, still inside the root.

        The path need not exist. A loop of links raises HostError.
        """
        rest = [part for part in reversed(path.split("/")) if part not in ("", ".")]
        done: list[str] = []
        links = 0
        while rest:
            part = rest.pop()
            if part == "..":
                done = done[:-1]
                continue
            target = self._readlink("/".join(("", *done, part)))
            if target is None:
                done.append(part)
                continue
            links += 1
            if links > _MAX_LINKS:
                raise HostError(f"{path}: too many levels of symbolic links", hint="remove the loop of links")
            if target.startswith("/"):
                done = []
            rest.extend(piece for piece in reversed(target.split("/")) if piece not in ("", "."))
        return "/" + "/".join(done)

    def _readlink(self, inside: str) -> str | None:
        try:
            return os.readlink(self._join(inside))
        except OSError:
            return None

    def _join(self, inside: str) -> str:
        return inside if self.directory == "/" else self.directory + inside

    def host(self, path: str) -> str:
        """Return where `path` of the root lies on the machine that runs us."""
        return self._join(path if self.directory == "/" else self.resolve(path))

    def inside(self, host: str) -> str:
        """Return the path in the root of what lies at `host` on this machine; `host` itself where it is outside."""
        below = host.removeprefix(self.directory)
        return below if self.directory != "/" and below.startswith("/") else host

    def exists(self, path: str) -> bool:
        return self._is(os.path.exists, path)

    def is_file(self, path: str) -> bool:
        return self._is(os.path.isfile, path)

    def is_dir(self, path: str) -> bool:
        return self._is(os.path.isdir, path)

    def _is(self, question: Callable[[str], bool], path: str) -> bool:
        """Ask as os.path does: behind a loop of links there is nothing, as there is nothing that cannot be reached."""
        try:
            return question(self.host(path))
        except HostError:
            return False

    def read_bytes(self, path: str) -> bytes | None:
        """Return the content of a file, or None where there is no such file."""
        try:
            with open(self.host(path), "rb", opener=regular.opener) as stream:
                if os.fstat(stream.fileno()).st_size > _MAX_BYTES:
                    raise HostError(f"{path}: is larger than {_MAX_BYTES >> 20} MiB")
                return stream.read()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise HostError(f"{path}: {error.strerror}") from error

    def read_text(self, path: str) -> str | None:
        """Return the content of a text file (bytes that are not UTF-8 survive as surrogates), or None."""
        content = self.read_bytes(path)
        return None if content is None else content.decode("utf-8", "surrogateescape")

    def read_word(self, path: str) -> str:
        """Return the content of a one-line file such as those of sysfs, stripped; "" where there is none."""
        return (self.read_text(path) or "").strip()

    def list(self, path: str) -> Iterator[str]:
        """Yield the sorted names in a directory; nothing where there is none."""
        try:
            names = sorted(os.listdir(self.host(path)))
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise HostError(f"{path}: {error.strerror}") from error
        yield from names
