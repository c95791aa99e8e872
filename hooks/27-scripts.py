"""Take along the administrator's programs that run before and after the dump; /init runs them."""

from kdump_initramfs.config import Config
from kdump_initramfs.model import BuildOnly, Contribution, Entry, File, HostFacts, Link, Script

_SHELLS = {"/bin/sh", "/usr/bin/sh"}


def contribute(config: Config, host: HostFacts) -> Contribution | None:
    found = {"pre": host.pre_scripts, "post": host.post_scripts}
    every = [script for scripts in found.values() for script in scripts]
    if not every:
        return None
    interpreters = {script.interpreter for script in every} - {"", *_SHELLS}
    return BuildOnly(
        # The libraries of a binary follow.
        binaries=(*sorted(interpreters), *(script.path for script in every if not script.interpreter)),
        entries=tuple(
            _entry(f"/etc/kdump/{when}.d/{number:02}-{script.path.rpartition('/')[2]}", when, script)
            for when, scripts in found.items()
            for number, script in enumerate(scripts)
        ),
    )


def _entry(path: str, when: str, script: Script) -> Entry:
    reason = f"runs {when} the dump"
    if not script.interpreter:
        return Link(path=path, target=script.path, reason=reason)
    return File(path=path, source=script.path, mode=0o700, reason=reason)
