"""ELF facts, on tiny files of all word sizes and byte orders, whole and broken."""

import io
import re
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdump_initramfs.errors import HostError
from kdump_initramfs.formats import elf
from tests import elfmaker, kernels
from tests.elfmaker import Machine

WHOLE = elfmaker.program(
    needed=("libone.so.1", "libtwo.so"),
    interpreter="/lib64/ld-linux-x86-64.so.2",
    soname="libself.so",
    rpath="/a:/b",
    runpath="$ORIGIN/../lib::/c",
)


def read(data: bytes) -> elf.ElfFile:
    return elf.read(io.BytesIO(data), "/bin/x")


def test_everything_that_the_dynamic_linker_needs_is_read() -> None:
    assert read(WHOLE) == elf.ElfFile(
        machine="x86_64",
        bits=64,
        endianness="little",
        interpreter="/lib64/ld-linux-x86-64.so.2",
        needed=("libone.so.1", "libtwo.so"),
        rpath=("/a", "/b"),
        runpath=("$ORIGIN/../lib", "/c"),
        soname="libself.so",
    )


@pytest.mark.parametrize(
    ("machine", "name"),
    [
        (elfmaker.I386, "i686"),
        (elfmaker.X86_64, "x86_64"),
        (elfmaker.X32, "x86_64"),
        (Machine(40, 32), "armv7l"),
        (elfmaker.AARCH64, "aarch64"),
        (Machine(21, 64), "ppc64le"),
        (Machine(21, 64, big=True), "ppc64"),
        (elfmaker.S390X, "s390x"),
        (Machine(22, 32, big=True), "s390"),
        (Machine(243, 64), "riscv64"),
        (Machine(243, 32), "riscv32"),
        (Machine(8, 32, big=True), "mips"),
        (Machine(0xFEED, 64), "65261"),
    ],
)
def test_machines_are_named_as_uname_does(machine: Machine, name: str) -> None:
    file = read(elfmaker.program(needed=["libc.so.6"], machine=machine))
    endianness = "big" if machine.big else "little"
    assert (file.machine, file.bits, file.endianness) == (name, machine.bits, endianness)
    assert file.needed == ("libc.so.6",)


def test_a_static_program_needs_nothing() -> None:
    file = read(elfmaker.program(is_static=True))
    assert (file.interpreter, file.needed, file.soname) == ("", (), "")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "truncated ELF file"),
        (b"#!/bin/sh\nexit 0\n", "not an ELF file"),
        (b"\x7fELF\x03" + WHOLE[5:], "an ELF file of unknown class or byte order"),
        (b"\x7fELF\x02\x00" + WHOLE[6:], "an ELF file of unknown class or byte order"),
        (WHOLE[:60], "truncated ELF file"),
        (WHOLE[:100], "truncated ELF file"),
        (WHOLE[:-1], "truncated ELF file"),
        (WHOLE[:54] + b"\x20\0" + WHOLE[56:], "program headers of 32 bytes"),
    ],
)
def test_a_broken_file_is_named_with_what_is_wrong(data: bytes, message: str) -> None:
    with pytest.raises(HostError, match=f"^/bin/x: {message}$"):
        read(data)


@given(st.binary(max_size=300), st.integers(0, len(WHOLE)), st.booleans())
def test_any_bytes_are_read_or_refused(noise: bytes, position: int, keep_rest: bool) -> None:  # noqa: FBT001
    data = WHOLE[:position] + noise + (WHOLE[position + len(noise) :] if keep_rest else b"")
    try:
        read(data)
        elf.modinfo(data, "x")
    except HostError as error:
        assert str(error).startswith(("/bin/x: ", "x: "))  # noqa: PT017 - either outcome is right


def with_tag(old: int, new: int, *, data: bytes = WHOLE) -> bytes:
    """Return a program whose first dynamic entry with the tag `old` has another."""
    dynamic = data.index(struct.pack("<2Q", 1, 1))
    return data[:dynamic] + data[dynamic:].replace(struct.pack("<Q", old), struct.pack("<Q", new), 1)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (with_tag(5, 99), "a dynamic segment without string table"),
        (with_tag(10, 99), "a dynamic segment without string table"),
        (
            with_tag(5, 5).replace(struct.pack("<Q", 0x10000), struct.pack("<Q", 0x90000)),
            "the dynamic string table lies in no segment",
        ),
        (
            re.sub(rb"\n\0{7}.\0{7}", struct.pack("<2Q", 10, 3), WHOLE, count=1, flags=re.DOTALL),
            "DT_NEEDED points outside the string table",
        ),
    ],
)
def test_a_broken_string_table_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(HostError, match=f"^/bin/x: {message}$"):
        read(data)


def test_the_last_of_several_paths_counts() -> None:
    file = read(with_tag(14, 15))
    assert (file.rpath, file.soname) == (("/a", "/b"), "")


def test_nothing_counts_behind_the_end_of_the_dynamic_segment() -> None:
    assert read(with_tag(1, 0)).needed == ()


@pytest.mark.parametrize("machine", [elfmaker.I386, elfmaker.X86_64, elfmaker.S390X, Machine(22, 32, big=True)])
def test_modinfo(machine: Machine) -> None:
    pairs = (("firmware", "a/b.bin"), ("firmware", "c=d"), ("license", ""))
    assert elf.modinfo(elfmaker.module(*pairs, machine=machine), "x.ko") == pairs


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not an ELF file"),
        (elfmaker.module()[:20], "truncated ELF file"),
        (elfmaker.module(("a", "b"))[:-1], "truncated ELF file"),
        (elfmaker.module(name=".modxxxx"), r"no section \.modinfo"),
        (elfmaker.program(is_static=True), "an ELF file without section names"),
    ],
)
def test_a_broken_module_is_named(data: bytes, message: str) -> None:
    with pytest.raises(HostError, match=f"^x.ko: {message}$"):
        elf.modinfo(data, "x.ko")


def test_modinfo_of_real_modules_as_modinfo_shows_it() -> None:
    release, root = next(iter(kernels.roots().items()))
    paths = sorted(Path(root, "lib/modules", release, "kernel/drivers").rglob("*.ko"))[::40]
    assert paths
    for path in paths:
        shown = subprocess.run(["modinfo", "-0", path], check=True, capture_output=True, text=True, timeout=60).stdout
        expected = {line for line in shown.split("\0") if line.startswith(("firmware=", "alias=", "vermagic="))}
        ours = {f"{key}={value}" for key, value in elf.modinfo(path.read_bytes(), str(path))}
        assert expected
        assert expected <= ours


@pytest.mark.parametrize("machine", [elfmaker.X86_64, elfmaker.I386, elfmaker.S390X, elfmaker.PPC64, elfmaker.AARCH64])
def test_what_a_module_calls_is_read_on_every_machine(machine: elfmaker.Machine) -> None:
    module = elfmaker.calling("device_add_disk", "kfree", own=["init_module"], machine=machine)
    assert elf.undefined_symbols(module, "m.ko") == {"device_add_disk", "kfree"}


def test_a_module_without_symbols_is_named() -> None:
    with pytest.raises(HostError, match=r"^m\.ko: no section \.symtab$"):
        elf.undefined_symbols(elfmaker.module(("name", "m")), "m.ko")
