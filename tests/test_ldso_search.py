"""Where the dynamic linker looks for libraries: what a file asks for, what is configured, and what it has built in."""

from pathlib import Path

import pytest

from kdump_initramfs.errors import HostError
from tests import elfmaker
from tests.test_ldso import (
    LIBRARY,
    LINKER,
    LINKER_MULTIARCH,
    MUSL,
    Files,
    closure,
    libraries,
    library,
    program,
)

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
