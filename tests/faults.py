"""Breaks one system call of a build at a time, by strace(1): it fails with an error, or the build is killed there.

Which calls there are is read from the trace of a build that nothing disturbs. Only those count whose path, or whose
descriptor (-y prints its path), is in the directory of the image: what Python reads when it starts, the fake machine
and the standard streams are no part of what a build changes. A call is named by its number, so that all builds
must make the same calls: they import nothing from the checkout itself, where caches of tests come and go, as Python
lists a directory anew after each change in it.
"""

import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from kdump_initramfs.host.root import Root
from tests import command

# Calls that change nothing; any other call, known or not, is taken for one that does. openat is told by its flags.
READING = {
    *("stat", "lstat", "fstat", "newfstatat", "statx", "access", "faccessat", "faccessat2", "readlink", "readlinkat"),
    *("read", "pread64", "readv", "getdents64", "lseek", "ioctl", "fcntl", "flock", "mmap", "close"),
}
_OPENS_FOR_WRITING = re.compile(r"O_CREAT|O_WRONLY|O_RDWR|O_TRUNC")
_CALL = re.compile(r"(\d+) +(\w+)\((.*)")
_FAILED = re.compile(r" = -1 E[A-Z]+ \(.*\)$")
_RANDOM = re.compile(r"\.\w+\.partial\b")


class Call(Struct, frozen=True):
    """A system call: the how-manieth of that name in its thread, which is how strace counts, and on what."""

    name: str
    number: int
    path: str
    is_changing: bool

    def __str__(self) -> str:
        return f"{self.name} number {self.number}, on {self.path}"


class Fault(Struct, frozen=True):
    """What goes wrong: an error, `+` behind it where it stays so (ENOSPC, EIO+), or a signal (KILL)."""

    name: str

    @property
    def is_signal(self) -> bool:
        return self.name in ("KILL", "INT")

    @property
    def is_lasting(self) -> bool:
        return self.name.endswith("+")

    @property
    def trace(self) -> str:
        """Return what is in the log of strace(1) where the fault has been."""
        return f"SIG{self.name}" if self.is_signal else "(INJECTED)"

    def injection(self, call: Call) -> str:
        """Return the fault at a call in the words of strace(1)."""
        what = f"signal={self.name}" if self.is_signal else f"error={self.name.removesuffix('+')}"
        return f"inject={call.name}:{what}:when={call.number}{'+' if self.is_lasting else ''}"


def link_code(directory: Path) -> Path:
    """Make a directory in which the tool is as in the checkout, and nothing else."""
    for name in ("kdump_initramfs", "hooks", "templates", "contrib"):
        (directory / name).symlink_to(command.PROJECT / name)
    return directory


class Place:
    """Where a build is broken: a fake machine, and its image's directory, which is put back before each build.

    The code is that of `link_code()`.
    """

    def __init__(self, root: Root, image: Path, code: Path, words: tuple[str, ...] = ()) -> None:
        self.root = root
        self.image = image
        self._code = code
        self._words = words
        self._log = Path(f"{root.directory}.strace")
        self._saved = Path(f"{root.directory}.saved")

    def save(self) -> None:
        """Keep the directory as it is now; it need not be there."""
        if self.image.parent.exists():
            shutil.copytree(self.image.parent, self._saved)

    def restore(self) -> None:
        """Put the directory back as it was when it was kept."""
        shutil.rmtree(self.image.parent, ignore_errors=True)
        if self._saved.exists():
            shutil.copytree(self._saved, self.image.parent)

    def calls(self) -> list[Call]:
        """Return the calls of a build from the saved state that have to do with the directory, in their order."""
        self.restore()
        result = self._build("-e", "trace=%file,%desc")
        assert result.returncode == 0, result.stderr
        return [call for call in self._logged() if call.path]

    def broken(self, call: Call, fault: Fault) -> subprocess.CompletedProcess[str]:
        """Build from the saved state with a fault at one of `calls()`, and see to it that it was there."""
        self.restore()
        result = self._build(*self._options(call, fault))
        assert str(call) in map(str, self._logged()), f"{call}: another call was there this time"
        assert fault.trace in self._log.read_text(errors="replace"), "strace did not break it"
        return result

    def repeat(self, call: Call, fault: Fault) -> str:
        """Return the shell command that repeats a broken build."""
        directory = shlex.quote(str(self.image.parent))
        back = f"cp -a {shlex.quote(str(self._saved))} {directory}" if self._saved.exists() else ":"
        variables = [f"{name}={value}" for name, value in self._environment().items()]
        build = shlex.join(["env", "-i", *variables, *self._command(*self._options(call, fault))])
        return f"cd {shlex.quote(str(self._code))} && rm -rf {directory} && {back} && {build}"

    def _options(self, call: Call, fault: Fault) -> tuple[str, ...]:
        # strace 6.1 forgets the signal where seccomp has stopped the call.
        quickly = () if fault.is_signal else ("--seccomp-bpf",)
        return *quickly, "-e", f"trace={call.name}", "-e", fault.injection(call)

    def _command(self, *options: str) -> list[str]:
        strace = ["strace", "-f", "-y", "-o", str(self._log), *options]
        build = [sys.executable, "-S", "-m", "kdump_initramfs", "build", "-q", "--root", self.root.directory]
        return [*_UNDER_UMASK_0, *strace, *build, *self._words]

    def _build(self, *options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self._command(*options),
            cwd=self._code,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def _environment(self) -> dict[str, str]:
        """Return an environment in which each build makes the same calls."""
        path = f"{self._code}:{sysconfig.get_path('purelib')}"
        return command.environment(PYTHONPATH=path, PYTHONHASHSEED="0", LC_ALL="C")

    def _logged(self) -> Iterator[Call]:
        seen: Counter[tuple[str, str]] = Counter()
        for line in self._log.read_text(errors="replace").splitlines():
            if (match := _CALL.match(line)) is not None:
                thread, name, rest = match.groups()
                seen[thread, name] += 1
                yield Call(name, seen[thread, name], self._path_in(rest), _is_changing(name, rest))

    def _path_in(self, arguments: str) -> str:
        """Return the first path that is the directory or in it, relative to it; "" if there is none."""
        match = re.search(rf"{re.escape(str(self.image.parent))}(/[^\"><]+)?(?=[\">])", arguments)
        return "" if match is None else _RANDOM.sub(".*.partial", (match[1] or "/")[1:]) or "."


def _is_changing(name: str, rest: str) -> bool:
    """Tell by a call and its line whether it changes anything; one that fails without our doing does not."""
    if _FAILED.search(rest):
        return False
    return bool(_OPENS_FOR_WRITING.search(rest)) if name in ("open", "openat") else name not in READING


# With nothing held back, a file that others may read has been created as one.
_UNDER_UMASK_0 = ("sh", "-c", 'umask 000 && exec "$@"', "sh")
