"""The load command as a file for an init system that is to run it at boot, for those who want nothing else to run then.

The command is fixed when the file is written; `kdump-initramfs enable` is the way that follows kernels and changes.
"""

import re
import shlex
from collections.abc import Callable, Mapping, Sequence

from kdump_initramfs.loader import volume_keys
from kdump_initramfs.loader.kexec import Command

_HEAD = """\
# {what}
# Written by `kdump-initramfs emit {form}` for kernel {release}; write it again after a new kernel or a new image.
# The kernel and the image must be readable at that moment. A kernel on a file system with noauto in /etc/fstab has been
# copied beside the image when that was built.
"""

_SHELL = """\
#!/bin/sh
{head}{command}
"""

_OPENRC = """\
#!/sbin/openrc-run
{head}
description="Loads the capture kernel, which saves a crash dump when this kernel panics"

depend() {{
    after localmount mountall
    keyword -docker -lxc -openvz -prefix -systemd-nspawn -vserver
}}

start() {{
    ebegin "Loading the capture kernel"
    (
{command}
    )
    eend $?
}}

stop() {{
    # The machine stays armed while it shuts down.
    yesno "${{RC_GOINGDOWN-no}}" && return 0
    ebegin "Unloading the capture kernel"
    {unload}
    eend $?
}}
"""

_SYSTEMD = """\
{head}[Unit]
Description=Capture kernel, which saves a crash dump when this one panics
DefaultDependencies=no
ConditionPathExists=!/proc/vmcore
Wants=sys-kernel-config.mount
After=local-fs.target sys-kernel-config.mount
Before=basic.target

[Service]
Type=oneshot
RemainAfterExit=yes
KeyringMode=shared
ExecStart={command}
ExecStop={unload}

[Install]
WantedBy=sysinit.target
"""

# The command in it needs the keys registered, and is no longer the last.
_WITH_KEYS = """\
{register}
status=0
{command} || status=$?
{unregister}
exit $status"""


def local_d(command: Command) -> str:
    """Return the script for OpenRC's local service (/etc/local.d/*.start), which needs mode u+x."""
    what = "/etc/local.d/kdump.start: loads the capture kernel, which runs when this one panics."
    return _SHELL.format(head=_head(command, "local.d", what), command=_script(command))


def sh(command: Command) -> str:
    """Return a script for whatever runs one at boot."""
    what = "Loads the capture kernel, which runs when this one panics."
    return _SHELL.format(head=_head(command, "sh", what), command=_script(command))


def openrc(command: Command) -> str:
    """Return an init script for OpenRC (/etc/init.d), for the runlevel boot; it needs mode u+x."""
    what = "/etc/init.d/kdump: loads the capture kernel, which runs when this one panics. rc-update add kdump boot"
    return _OPENRC.format(
        head=_head(command, "openrc", what), command=_script(command), unload=shlex.join(_unload(command))
    )


def systemd(command: Command) -> str:
    """Return a unit for systemd (/etc/systemd/system)."""
    what = "/etc/systemd/system/kdump.service: loads the capture kernel, which runs when this one panics."
    words: Sequence[str] = command.words
    if command.record.manifest.volume_keys:
        words = ("/bin/sh", "-c", _script(command))
    return _SYSTEMD.format(
        head=_head(command, "systemd", what), command=_unit_words(words), unload=_unit_words(_unload(command))
    )


# What `emit` can print.
FORMS: Mapping[str, Callable[[Command], str]] = {"local.d": local_d, "openrc": openrc, "systemd": systemd, "sh": sh}


def _head(command: Command, form: str, what: str) -> str:
    return _HEAD.format(what=what, form=form, release=command.record.manifest.kernel.release)


def _script(command: Command) -> str:
    """Return the command as lines of a shell script."""
    words = " \\\n      ".join(shlex.quote(word) for word in command.words)
    keys = command.record.manifest.volume_keys
    return _with_keys(words, keys) if keys else words


def _with_keys(command: str, keys: Sequence[str]) -> str:
    """Return the command between what registers the volume keys and what takes that back (loader/volume_keys.py)."""
    items = [(volume_keys.item(number), shlex.quote(key)) for number, key in enumerate(keys)]
    return _WITH_KEYS.format(
        register="\n".join(f"mkdir {place}\necho {key} >{place}/description" for place, key in items),
        command=command,
        unregister="\n".join(f"rmdir {place}" for place, _ in items),
    )


def _unload(command: Command) -> tuple[str, ...]:
    """Return the command that takes back what this one loads, by the same system call (kexec(8))."""
    return (command.words[0], "-p", "-u", *(word for word in command.words if word in ("-a", "-s", "-c")))


def _unit_words(words: Sequence[str]) -> str:
    """Return a command as systemd reads it, with its specifiers and variables made plain (systemd.service(5))."""
    return " ".join(_unit_word(word) for word in words)


def _unit_word(word: str) -> str:
    plain = word.replace("%", "%%").replace("$", "$$")
    for character, escape in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\t", "\\t")):
        plain = plain.replace(character, escape)
    return plain if re.fullmatch(r"[A-Za-z0-9/._-]+", plain) else f'"{plain}"'
