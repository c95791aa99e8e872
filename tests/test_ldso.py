"""The closure of libraries: on trees of tiny ELF files, and against ldd for the programs of this machine."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from kdump_initramfs.errors import HostError, SeveralProblemsError
from kdump_initramfs.formats import ldso
from kdump_initramfs.host.root import Root
from tests import elfmaker

LINKER = "/lib64/ld-linux-x86-64.so.2"
MUSL = "/lib/ld-musl-x86_64.so.1"
# What glibc's linker carries: its search path, here of a distribution that uses lib64.
LINKER_64 = elfmaker.program(soname="ld-linux-x86-64.so.2") + b"\0/lib64/\0/usr/lib64/\0\0/etc/ld.so.cache\0"
LINKER_MULTIARCH = (
    elfmaker.program(soname="ld-linux-x86-64.so.2")
    + b"\0/lib/x86_64-linux-gnu/\0/usr/lib/x86_64-linux-gnu/\0/lib/\0/usr/lib/\0"
)
LIBRARY = elfmaker.program()

# A string that begins with -> is a symbolic link.
Files = Mapping[str, bytes | str]


def program(*needed: str, rpath: str = "", runpath: str = "", interpreter: str = LINKER) -> bytes:
    return elfmaker.program(needed=needed, interpreter=interpreter, rpath=rpath, runpath=runpath)


def library(*needed: str, rpath: str = "", runpath: str = "", soname: str = "") -> bytes:
    return elfmaker.program(needed=needed, rpath=rpath, runpath=runpath, soname=soname)


def tree(root: Path, files: Files) -> Root:
    for path, content in {LINKER: LINKER_64, **files}.items():
        place = root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str) and content.startswith("->"):
            place.symlink_to(content[2:])
        else:
            place.write_bytes(content.encode() if isinstance(content, str) else content)
    return Root(str(root))


def closure(root: Path, files: Files, *asked: str) -> ldso.Closure:
    return ldso.closure(tree(root, files), asked or ("/bin/x",))


def libraries(root: Path, files: Files) -> list[str]:
    return [path for path in closure(root, files).files if path != LINKER]


# --- what is found -----------------------------------------------------------------------------------------------


def test_each_file_is_named_with_who_needs_it(tmp_path: Path) -> None:
    files: Files = {
        "/bin/x": program("liba.so", "libb.so"),
        "/bin/y": program("libb.so"),
        "/usr/lib64/liba.so": library("libb.so"),
        "/lib64/libb.so": LIBRARY,
    }
    assert closure(tmp_path, files, "/bin/x", "/bin/y", "/bin/x") == ldso.Closure(
        files={
            LINKER: ("/bin/x", "/bin/y"),
            "/usr/lib64/liba.so": ("/bin/x",),
            "/lib64/libb.so": ("/bin/x", "/bin/y"),
        },
        library_dirs=(),
    )


def test_a_circle_of_libraries_ends(tmp_path: Path) -> None:
    files: Files = {"/bin/x": program("a.so"), "/lib64/a.so": library("b.so"), "/lib64/b.so": library("a.so", "b.so")}
    assert libraries(tmp_path, files) == ["/lib64/a.so", "/lib64/b.so"]


def test_the_linker_itself_is_not_searched(tmp_path: Path) -> None:
    linker = "/opt/glibc/ld.so.9"
    files: Files = {"/bin/x": program("ld.so.9", interpreter=linker), linker: LINKER_64}
    assert closure(tmp_path, files).files == {linker: ("/bin/x",)}


def test_a_static_program_needs_nothing(tmp_path: Path) -> None:
    assert closure(tmp_path, {"/bin/x": elfmaker.program(is_static=True)}).files == {}


def test_a_library_of_another_class_or_machine_is_passed_over(tmp_path: Path) -> None:
    files: Files = {
        "/bin/x": program("a.so", runpath="/one:/two:/three:/four:/five"),
        "/one/a.so": elfmaker.program(machine=elfmaker.I386),
        "/two/a.so": elfmaker.program(machine=elfmaker.AARCH64),
        "/three/a.so": "/* GNU ld script */",
        "/four/a.so": elfmaker.program(machine=elfmaker.X32),
        "/five/a.so": LIBRARY,
    }
    assert libraries(tmp_path, files) == ["/five/a.so"]


def test_the_32_bit_library_is_taken_for_a_32_bit_program(tmp_path: Path) -> None:
    linker = "/lib/ld-linux.so.2"
    binary = elfmaker.program(needed=["a.so"], interpreter=linker, machine=elfmaker.I386)
    files: Files = {
        "/bin/x": binary,
        linker: elfmaker.program(machine=elfmaker.I386) + b"\0/lib64/\0/lib/\0",
        "/bin/y": program("a.so"),
        "/lib64/a.so": LIBRARY,
        "/lib/a.so": elfmaker.program(machine=elfmaker.I386),
    }
    assert closure(tmp_path, files, "/bin/x", "/bin/y").files == {
        linker: ("/bin/x",),
        "/lib/a.so": ("/bin/x",),
        LINKER: ("/bin/y",),
        "/lib64/a.so": ("/bin/y",),
    }


def test_a_foreign_root_of_big_endian_files(tmp_path: Path) -> None:
    made = elfmaker.program(machine=elfmaker.S390X)
    binary = elfmaker.program(needed=["a.so"], interpreter="/lib/ld64.so.1", machine=elfmaker.S390X)
    files: Files = {
        "/bin/x": binary,
        "/lib/ld64.so.1": made + b"\0/lib/s390x-linux-gnu/\0",
        "/lib/s390x-linux-gnu/a.so": made,
    }
    assert list(closure(tmp_path, files).files) == ["/lib/ld64.so.1", "/lib/s390x-linux-gnu/a.so"]


def test_a_library_on_its_own_is_searched_for_in_the_usual_places(tmp_path: Path) -> None:
    files: Files = {
        "/lib/p.so": library("a.so", "b.so"),
        "/usr/lib/x86_64-linux-gnu/a.so": LIBRARY,
        "/usr/lib64/b.so": LIBRARY,
    }
    found = closure(tmp_path, files, "/lib/p.so")
    assert found.files == {"/usr/lib/x86_64-linux-gnu/a.so": ("/lib/p.so",), "/usr/lib64/b.so": ("/lib/p.so",)}


def test_links_never_lead_out_of_the_root(tmp_path: Path) -> None:
    files: Files = {"/bin/x": program("a.so"), "/lib64/a.so": "->/opt/a.so.1", "/opt/a.so.1": LIBRARY}
    assert libraries(tmp_path, files) == ["/lib64/a.so"]


def test_libraries_of_several_machines_are_told_apart(tmp_path: Path) -> None:
    files: Files = {
        "/lib/p.so": library("a.so"),
        "/lib/q.so": elfmaker.program(needed=["a.so"], machine=elfmaker.I386),
        "/lib64/a.so": LIBRARY,
        "/usr/lib/a.so": elfmaker.program(machine=elfmaker.I386),
    }
    found = closure(tmp_path, files, "/lib/p.so", "/lib/q.so")
    assert found.files == {"/lib64/a.so": ("/lib/p.so",), "/usr/lib/a.so": ("/lib/q.so",)}


# --- scripts -----------------------------------------------------------------------------------------------------


def test_a_script_brings_its_interpreter_and_what_that_needs(tmp_path: Path) -> None:
    files: Files = {
        "/bin/x": "#! /bin/sh -e\necho\n",
        "/bin/sh": "->dash",
        "/bin/dash": program("a.so"),
        "/lib64/a.so": LIBRARY,
    }
    assert closure(tmp_path, files).files == {
        "/bin/sh": ("/bin/x",),
        LINKER: ("/bin/sh",),
        "/lib64/a.so": ("/bin/sh",),
    }


def test_a_script_that_is_its_own_interpreter_ends(tmp_path: Path) -> None:
    assert closure(tmp_path, {"/bin/x": "#!/bin/x\n"}).files == {"/bin/x": ("/bin/x",)}


def test_env_names_a_further_program(tmp_path: Path) -> None:
    static = elfmaker.program(is_static=True)
    files: Files = {"/bin/x": "#!/usr/bin/env -S A=1 tool --flag\n", "/usr/bin/env": static, "/usr/sbin/tool": static}
    assert closure(tmp_path, files).files == {"/usr/bin/env": ("/bin/x",), "/usr/sbin/tool": ("/bin/x",)}


# --- what is missing ---------------------------------------------------------------------------------------------


def test_a_missing_library_is_named_with_its_binary(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"^/bin/x: needs the library gone\.so, which is not there$") as raised:
        closure(tmp_path, {"/bin/x": program("gone.so")})
    assert raised.value.hint == "install the package that holds gone.so"


def test_all_that_is_missing_is_reported_together(tmp_path: Path) -> None:
    files: Files = {
        "/bin/x": program("a.so", "gone.so"),
        "/lib64/a.so": library("lost.so"),
        "/bin/y": program("a.so"),
        "/bin/z": program(interpreter="/lib/ld-none.so"),
        "/bin/script": "#!/bin/nothing\n",
        "/bin/text": "no script\n",
        "/bin/cut": program("a.so")[:100],
    }
    with pytest.raises(SeveralProblemsError) as raised:
        closure(tmp_path, files, "/bin/x", "/bin/y", "/bin/z", "/bin/script", "/bin/text", "/bin/cut", "/bin/absent")
    assert str(raised.value).splitlines() == [
        "/bin/x: needs the library gone.so, which is not there",
        "/lib64/a.so: needs the library lost.so, which is not there",
        "/bin/z: its dynamic linker /lib/ld-none.so is missing",
        "/bin/script: its interpreter /bin/nothing is missing",
        "/bin/text: neither an ELF file nor a script that begins with #! and its interpreter",
        "/bin/cut: truncated ELF file",
        "/bin/absent: No such file or directory",
    ]


def test_a_broken_library_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"^/lib64/a\.so: truncated ELF file$"):
        closure(tmp_path, {"/bin/x": program("a.so"), "/lib64/a.so": LIBRARY[:80]})


@pytest.mark.parametrize(("linker", "opens"), [(LINKER, ["/lib64/libgcc_s.so.1"]), (MUSL, [])])
def test_what_the_threads_of_argon2_open_comes_along(linker: str, opens: list[str], tmp_path: Path) -> None:
    libcryptsetup = elfmaker.program(soname="libcryptsetup.so.12")
    files = {"/bin/x": elfmaker.program(needed=["libcryptsetup.so.12"], interpreter=linker), linker: LINKER_64}
    files |= {"/lib64/libcryptsetup.so.12": libcryptsetup, "/lib64/libgcc_s.so.1": LIBRARY}
    files |= {"/lib/libcryptsetup.so.12": libcryptsetup, "/lib/libgcc_s.so.1": LIBRARY}
    assert [path for path in closure(tmp_path, files).files if "libgcc_s" in path] == opens


# --- against ldd -------------------------------------------------------------------------------------------------


def parse_ldd(output: str) -> dict[str, set[str]]:
    """Return the real paths of what ldd shows for each program; nothing for one that is not dynamic."""
    found: dict[str, set[str]] = {}
    current = ""
    for line in output.splitlines():
        if not line.startswith("\t"):
            current = line.removesuffix(":")
            found[current] = set()
        elif match := re.match(r"\t(?:\S+ => )?(/\S+) \(0x", line):
            found[current].add(os.path.realpath(match[1]))
    return found


def machine_programs() -> Iterator[str]:
    """Yield every ELF program in the machine's directories of programs, each once."""
    seen = set()
    for directory in ("/usr/bin", "/usr/sbin"):
        for entry in sorted(os.scandir(directory), key=lambda entry: entry.name):
            real = os.path.realpath(entry.path)
            if real not in seen and os.path.isfile(real) and os.access(real, os.R_OK | os.X_OK):
                seen.add(real)
                with open(real, "rb") as stream:
                    if stream.read(4) == b"\x7fELF":
                        yield real


@pytest.mark.skipif(shutil.which("ldd") is None, reason="ldd is not installed")
def test_every_program_of_this_machine_needs_what_ldd_says(tmp_path: Path) -> None:
    binaries = list(machine_programs())
    output = tmp_path / "ldd"
    with output.open("wb") as stream, subprocess.Popen(["ldd", *binaries], stdout=stream, stderr=subprocess.DEVNULL):
        root = Root("/")
        ours = {binary: {os.path.realpath(path) for path in ldso.closure(root, [binary]).files} for binary in binaries}
    theirs = parse_ldd(output.read_text())
    # What ldd calls static may name a loader all the same (Go links such programs), without which it does not start.
    for binary, paths in ours.items():
        if not theirs[binary] and len(paths) == 1:
            paths.clear()
    # ldd sees headers alone.
    later = {name for names in ldso.OPENED_LATER.values() for name in names}
    for paths in (*ours.values(), *theirs.values()):
        paths -= {path for path in paths if os.path.basename(path) in later}
    assert len(ours) > 100
    assert ours == theirs
