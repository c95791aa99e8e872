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


# --- RPATH and RUNPATH -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param(
            {"/bin/x": program("a.so", rpath="/r"), "/r/a.so": LIBRARY, "/lib64/a.so": LIBRARY},
            ["/r/a.so"],
            id="rpath-before-system",
        ),
        pytest.param(
            {"/bin/x": program("a.so", rpath="/r", runpath="/u"), "/r/a.so": LIBRARY, "/u/a.so": LIBRARY},
            ["/u/a.so"],
            id="runpath-disables-rpath",
        ),
        pytest.param(
            {"/bin/x": program("a.so", rpath="/r"), "/r/a.so": library("b.so"), "/r/b.so": LIBRARY},
            ["/r/a.so", "/r/b.so"],
            id="rpath-is-inherited",
        ),
        pytest.param(
            {
                "/bin/x": program("a.so", runpath="/u"),
                "/u/a.so": library("b.so"),
                "/u/b.so": LIBRARY,
                "/lib64/b.so": LIBRARY,
            },
            ["/u/a.so", "/lib64/b.so"],
            id="runpath-is-not-inherited",
        ),
        pytest.param(
            {
                "/bin/x": program("a.so", rpath="/r"),
                "/r/a.so": library("b.so", runpath="/u"),
                "/r/b.so": LIBRARY,
                "/u/b.so": LIBRARY,
            },
            ["/r/a.so", "/u/b.so"],
            id="runpath-stops-inheritance",
        ),
        pytest.param(
            {
                "/bin/x": program("a.so", rpath="/r", runpath="/u"),
                "/u/a.so": library("b.so"),
                "/r/b.so": LIBRARY,
                "/lib64/b.so": LIBRARY,
            },
            ["/u/a.so", "/lib64/b.so"],
            id="runpath-disables-rpath-for-others-too",
        ),
        pytest.param(
            {
                "/bin/x": program("a.so", rpath="/one"),
                "/one/a.so": library("b.so", rpath="/two"),
                "/one/b.so": LIBRARY,
                "/two/b.so": LIBRARY,
            },
            ["/one/a.so", "/two/b.so"],
            id="own-rpath-first",
        ),
        pytest.param(
            {"/bin/x": program("a.so", runpath="opt::."), "/lib64/a.so": LIBRARY, "/opt/a.so": LIBRARY},
            ["/lib64/a.so"],
            id="relative-paths-do-not-count",
        ),
        pytest.param(
            {
                "/bin/x": program("a.so", "b.so", runpath="/u"),
                "/u/a.so": library("c.so"),
                "/u/b.so": library("c.so", runpath="/v"),
                "/v/c.so": LIBRARY,
                "/lib64/c.so": LIBRARY,
            },
            ["/u/a.so", "/u/b.so", "/lib64/c.so"],
            id="what-is-loaded-is-not-searched-again",
        ),
        pytest.param(
            {
                "/bin/x": program("a.so", "b.so"),
                "/lib64/a.so": library(soname="same.so"),
                "/lib64/b.so": library("same.so"),
            },
            ["/lib64/a.so", "/lib64/b.so"],
            id="loaded-under-its-soname",
        ),
        pytest.param(
            {"/bin/x": program("/opt/a.so"), "/opt/a.so": LIBRARY, "/lib64/a.so": LIBRARY},
            ["/opt/a.so"],
            id="needed-by-path",
        ),
    ],
)
def test_search_order(tmp_path: Path, files: Files, expected: list[str]) -> None:
    assert libraries(tmp_path, files) == expected


@pytest.mark.parametrize(
    ("runpath", "place"),
    [
        ("$ORIGIN", "/opt/app/bin/a.so"),
        ("${ORIGIN}/../lib", "/opt/app/lib/a.so"),
        ("/opt/$LIB", "/opt/lib64/a.so"),
        ("/opt/$PLATFORM", "/opt/x86_64/a.so"),
        ("/opt/${LIB}x$LIBx", "/opt/lib64xlib64x/a.so"),
    ],
)
def test_dynamic_string_tokens(tmp_path: Path, runpath: str, place: str) -> None:
    files: Files = {"/opt/app/bin/x": program("a.so", runpath=runpath), "/bin/x": "->/opt/app/bin/x", place: LIBRARY}
    assert libraries(tmp_path, files) == [place]


def test_parent_directories_follow_links(tmp_path: Path) -> None:
    files: Files = {
        "/bin/x": program("a.so", runpath="/link/../lib"),
        "/link": "->/opt/app/bin",
        "/opt/app/lib/a.so": LIBRARY,
    }
    (tmp_path / "opt/app/bin").mkdir(parents=True)
    assert libraries(tmp_path, files) == ["/opt/app/lib/a.so"]


# --- directories of the system -----------------------------------------------------------------------------------


def test_configured_directories_come_first_and_are_reported(tmp_path: Path) -> None:
    files: Files = {
        "/etc/ld.so.conf": "# ours\ninclude ld.so.conf.d/*.conf\n/opt/last  # ours\n/usr/lib64\n",
        "/etc/ld.so.conf.d/b.conf": "/opt/b/\ninclude /etc/ld.so.conf\n",
        "/etc/ld.so.conf.d/a.conf": "/opt/unused\n/opt/a=libc6\nhwcap 0 nosegneg\n",
        "/etc/ld.so.conf.d/.c.conf": "/opt/hidden\n",
        "/bin/x": program("a.so", "b.so", "c.so", "d.so"),
        "/opt/a/a.so": LIBRARY,
        "/opt/b/a.so": LIBRARY,
        "/opt/last/b.so": LIBRARY,
        "/lib64/b.so": LIBRARY,
        "/usr/lib64/c.so": LIBRARY,
        "/opt/hidden/d.so": LIBRARY,
        "/opt/b/d.so": LIBRARY,
        "/opt/unused/z.so": LIBRARY,
    }
    found = closure(tmp_path, files)
    assert list(found.files)[1:] == ["/opt/a/a.so", "/opt/last/b.so", "/usr/lib64/c.so", "/opt/b/d.so"]
    assert found.library_dirs == ("/opt/a", "/opt/b", "/opt/last")


def test_what_a_linker_searches_by_itself_is_read_from_it(tmp_path: Path) -> None:
    files: Files = {
        LINKER: LINKER_MULTIARCH,
        "/etc/ld.so.conf": "/usr/lib64\n/usr/lib/x86_64-linux-gnu\n",
        "/bin/x": program("a.so", "b.so", runpath="/opt/$LIB"),
        "/usr/lib64/a.so": LIBRARY,
        "/opt/lib/x86_64-linux-gnu/b.so": LIBRARY,
    }
    found = closure(tmp_path, files)
    assert list(found.files)[1:] == ["/usr/lib64/a.so", "/opt/lib/x86_64-linux-gnu/b.so"]
    assert found.library_dirs == ("/usr/lib64",)


def test_a_directory_is_default_under_any_of_its_names(tmp_path: Path) -> None:
    (tmp_path / "system").mkdir()
    (tmp_path / "lib64").symlink_to("system")
    found = closure(tmp_path, {"/etc/ld.so.conf": "/system\n", "/bin/x": program("a.so"), "/system/a.so": LIBRARY})
    assert list(found.files)[1:] == ["/system/a.so"]
    assert found.library_dirs == ()


def test_musl_reads_its_own_list_and_is_its_own_libc(tmp_path: Path) -> None:
    files: Files = {
        MUSL: elfmaker.program(soname="libc.musl-x86_64.so.1"),
        "/etc/ld.so.conf": "/glibc\n",
        "/glibc/a.so": LIBRARY,
        "/etc/ld-musl-x86_64.path": "/lib:/opt/m\n/usr/lib\n",
        "/bin/x": program("libc.musl-x86_64.so.1", "libpthread.so.0", "a.so", "b.so", interpreter=MUSL),
        "/usr/lib/a.so": LIBRARY,
        "/opt/m/b.so": LIBRARY,
        "/lib/libpthread.so.0": LIBRARY,
    }
    found = closure(tmp_path, files)
    assert list(found.files) == [MUSL, "/usr/lib/a.so", "/opt/m/b.so"]
    assert found.library_dirs == ("/opt/m",)


def test_what_musl_is_not_told_to_search_it_does_not(tmp_path: Path) -> None:
    files: Files = {
        MUSL: LIBRARY,
        "/etc/ld-musl-x86_64.path": "/lib",
        "/bin/x": program("a.so", interpreter=MUSL),
        "/usr/lib/a.so": LIBRARY,
    }
    with pytest.raises(HostError, match=r"^/bin/x: needs the library a\.so, "):
        closure(tmp_path, files)


def test_musl_without_a_list_searches_its_defaults_and_inherits_runpath(tmp_path: Path) -> None:
    files: Files = {
        MUSL: LIBRARY,
        "/bin/x": program("a.so", "c.so", runpath="/u", interpreter=MUSL),
        "/u/a.so": library("b.so"),
        "/u/b.so": LIBRARY,
        "/usr/local/lib/c.so": LIBRARY,
        "/usr/lib/c.so": LIBRARY,
    }
    found = closure(tmp_path, files)
    assert list(found.files) == [MUSL, "/u/a.so", "/usr/local/lib/c.so", "/u/b.so"]
    assert found.library_dirs == ()


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
