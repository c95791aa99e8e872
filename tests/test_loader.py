"""Arming: the kexec command, and how it is run."""

import shlex
from pathlib import Path

import pytest
from msgspec.structs import replace

from kdump_initramfs import config
from kdump_initramfs.errors import ConfigError, LoadError
from kdump_initramfs.host.root import Root
from kdump_initramfs.image import record
from kdump_initramfs.loader import kexec, state
from tests import trees


def test_command_names_kernel_image_and_command_line(machine: Root, image: str) -> None:
    settings = config.load(root="/no/such", overrides=["kexec.extra_args=['--reset-vga']", "capture.cpus=2"])
    words = kexec.command(machine, settings, image).words
    assert words[:4] == ("/usr/sbin/kexec", "-p", "/boot/vmlinuz-6.1.0-35-amd64", "-a")
    assert words[4] == f"--initrd={image}"
    assert words[5].startswith("--append=console=ttyS0,115200n8 reset_devices")
    assert words[5].endswith("nr_cpus=2 disable_cpu_apicid=0")
    assert words[6:] == ("--reset-vga",)


def test_printed_command_is_one_that_a_shell_takes(machine: Root, image: str) -> None:
    command = kexec.command(machine, config.Config(), image, running=["a=$(id)", "b='c"])
    assert tuple(shlex.split(str(command))) == command.words


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("kexec.reset_vga=true", ("--reset-vga", "--console-vga")),
        ("kexec.core_headers=elf32", ("--elf32-core-headers",)),
        ("kexec.core_headers=elf64", ("--elf64-core-headers",)),
    ],
)
def test_what_kexec_tools_does_itself_is_loaded_by_kexec_load(
    setting: str, words: tuple[str, ...], machine: Root, image: str
) -> None:
    settings = config.load(root="/no/such", overrides=[setting])
    command = kexec.command(machine, settings, image).words
    assert command[3] == "-c"
    assert command[6:] == words
    both = config.load(root="/no/such", overrides=[setting, "kexec.syscall=file"])
    with pytest.raises(ConfigError, match=rf"^{setting.partition('=')[0]}: works with kexec_load alone"):
        kexec.command(machine, both, image)
    trees.make("file /sys/kernel/security/lockdown none [integrity]", Path(machine.directory))
    with pytest.raises(LoadError, match=r"works with kexec_load alone, but the kernel is locked down"):
        kexec.command(machine, settings, image)


def test_what_is_for_a_load_is_nothing_to_unload(machine: Root) -> None:
    trees.make("file /sys/kernel/security/lockdown none [integrity]", Path(machine.directory))
    assert kexec.unload_words(machine)[1:] == ("-p", "-u", "-s")


# --- loading -----------------------------------------------------------------------------------------------------

KEXEC = """\
#!/bin/sh
echo "$@" >>"$0.calls"
"""


def arrange(machine: Root, script: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the kexec of a machine a script, armed as it is, and let `load` run it for a tree of files."""
    stub = Path(machine.host("/usr/sbin/kexec"))
    stub.write_text(KEXEC + script.replace("LOADED", machine.host("/sys/kernel/kexec_crash_loaded")))
    stub.chmod(0o755)
    trees.make("file /sys/kernel/kexec_crash_loaded 1", Path(machine.directory))
    monkeypatch.setattr(kexec, "_check_may_load", lambda _: None)
    return stub


def calls(stub: Path) -> list[str]:
    return [line.split(" ")[2] for line in Path(f"{stub}.calls").read_text().splitlines()]


def command_of(machine: Root, image: str, stub: Path, *options: str) -> kexec.Command:
    settings = config.load(root="/no/such", overrides=options)
    command = kexec.command(machine, settings, image)
    return replace(command, words=(str(stub), *command.words[1:]))


FREES = "echo 0 >LOADED\n"


@pytest.mark.parametrize(
    ("script", "expected", "left"),
    [
        ("echo 'Cannot determine the file type of it' >&2; exit 1", "does not know the format", "still is"),
        (
            FREES + "echo 'kexec_file_load failed: Key was rejected by service' >&2; exit 1",
            "not accepted",
            "not armed now",
        ),
        ("echo 'kexec_file_load failed: Operation not permitted' >&2; exit 1", "lets nothing be loaded", "still is"),
        (FREES + "exit 3", "exit status 3", "not armed now"),
    ],
)
def test_failed_load_says_what_is_loaded_afterwards(
    script: str, expected: str, left: str, machine: Root, image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = arrange(machine, script, monkeypatch)
    state.write(machine, image=image, described=record.read(image), words=("kexec",))
    with pytest.raises(LoadError, match=expected) as caught:
        kexec.load(machine, command_of(machine, image, stub))
    assert left in str(caught.value)
    assert caught.value.hint
    assert len(calls(stub)) == 1
    assert (state.read(machine) is not None) == (left == "still is")


def test_what_cannot_fit_is_not_tried(machine: Root, image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stub = arrange(machine, "", monkeypatch)
    command = command_of(machine, image, stub)
    size = Path(command.kernel).stat().st_size + Path(image).stat().st_size
    trees.make(f"file /sys/kernel/kexec_crash_size {size - 1}", Path(machine.directory))
    with pytest.raises(LoadError, match=": 1 MiB with its kernel, but 0 MiB are reserved"):
        kexec.load(machine, command)
    trees.make(
        f"file /sys/kernel/kexec_crash_size {size}\nfile /sys/kernel/crash_elfcorehdr_size 1", Path(machine.directory)
    )
    with pytest.raises(LoadError, match="MiB are reserved"):
        kexec.load(machine, command)
    assert not Path(f"{stub}.calls").exists()
    trees.make(f"file /sys/kernel/kexec_crash_size {size + 1}", Path(machine.directory))
    kexec.load(machine, command)


NO_PLACE = 'case "$3" in -a) echo "kexec_file_load failed: Cannot assign requested address" >&2; exit 1 ;; esac\n'


def test_other_system_call_is_tried_where_it_may_do(machine: Root, image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stub = arrange(machine, NO_PLACE, monkeypatch)
    kexec.load(machine, command_of(machine, image, stub))
    assert [line.split(" ")[2] for line in Path(f"{stub}.calls").read_text().splitlines()] == ["-a", "-c"]
    loaded = state.read(machine)
    assert loaded is not None
    assert "-c" in loaded.words


@pytest.mark.parametrize(
    "script",
    [
        'echo "kexec_file_load failed: Key was rejected by service" >&2; exit 1',
        'echo "kexec_file_load failed: Required key not available" >&2; exit 1',
        'echo "kexec_file_load failed: Permission denied" >&2; exit 1',
    ],
)
def test_refused_signature_is_the_end(script: str, machine: Root, image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stub = arrange(machine, script, monkeypatch)
    with pytest.raises(LoadError):
        kexec.load(machine, command_of(machine, image, stub))
    assert calls(stub) == ["-a"]


def test_system_call_that_was_configured_is_the_only_one(
    machine: Root, image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = arrange(machine, NO_PLACE.replace("-a)", "-s)"), monkeypatch)
    with pytest.raises(LoadError, match="do not fit into the reserved memory"):
        kexec.load(machine, command_of(machine, image, stub, "kexec.syscall=file"))
    assert calls(stub) == ["-s"]
