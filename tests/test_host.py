"""What is read of a machine: the kernel, programs and the command line."""

import gzip
import os
import re
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdump_initramfs import config
from kdump_initramfs.config import KernelSection
from kdump_initramfs.errors import ConfigError, HostError
from kdump_initramfs.host import crash, kernel, probe, tools
from kdump_initramfs.host.root import Root
from kdump_initramfs.storage import BlockDevice, Disk
from tests import elfmaker, kernelmaker, kernels, programs, trees

Make = Callable[[Mapping[str, str | bytes | Path]], Root]
HostRoot = Callable[[str], Root]


@pytest.mark.parametrize(
    ("links", "path", "resolved"),
    [
        ({}, "/a/b", "/a/b"),
        ({"/a": "b"}, "/a/c", "/b/c"),
        ({"/a": "/b"}, "/a/c", "/b/c"),
        ({"/x/a": "../b"}, "/x/a/c", "/b/c"),
        ({"/a": "../../../../etc"}, "/a/passwd", "/etc/passwd"),
        ({"/a": "b", "/b": "c"}, "/a", "/c"),
        ({"/a": "/x/y", "/x/y": "../z"}, "/a/w", "/z/w"),
    ],
)
def test_links_are_resolved_as_in_a_chroot(links: Mapping[str, str], path: str, resolved: str, sysroot: Make) -> None:
    assert sysroot({name: Path(target) for name, target in links.items()}).resolve(path) == resolved


def test_loop_of_links_is_an_error(sysroot: Make) -> None:
    root = sysroot({"/a": Path("b"), "/b": Path("a")})
    with pytest.raises(HostError, match="too many levels of symbolic links"):
        root.resolve("/a")


# --- the kernel --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "image",
    [
        "/boot/vmlinuz-6.1",
        "/usr/lib/modules/6.1/vmlinuz",
        "/lib/modules/6.1/vmlinuz",
        "/boot/vmlinux-6.1",
        "/boot/kernel-6.1",
        "/boot/bzImage-6.1",
        "/boot/Image-6.1",
        "/boot/kernel-genkernel-x86_64-6.1",
    ],
)
def test_kernel_is_found_where_distributions_put_it(image: str, sysroot: Make) -> None:
    root = sysroot({image: kernelmaker.bzimage("6.1"), "/lib/modules/6.1/modules.dep": ""})
    assert kernel.read(root, KernelSection(version="6.1"), "x86_64").image == image


def test_modules_are_found_below_usr_as_well(sysroot: Make) -> None:
    root = sysroot({"/boot/vmlinuz-6.1": kernelmaker.bzimage("6.1"), "/usr/lib/modules/6.1/modules.dep": ""})
    assert kernel.read(root, KernelSection(version="6.1"), "x86_64").modules_dir == "/usr/lib/modules/6.1"


def test_configured_image_and_modules_are_taken(sysroot: Make) -> None:
    root = sysroot(
        {"/opt/bz": kernelmaker.bzimage("6.1"), "/opt/modules/modules.dep": "", "/opt/config-6.1": "CONFIG_RD_XZ=y"}
    )
    found = kernel.read(root, KernelSection(version="6.1", image="/opt/bz", modules_dir="/opt/modules"), "x86_64")
    assert (found.image, found.modules_dir, found.initramfs_compressions) == ("/opt/bz", "/opt/modules", ("xz",))


@pytest.mark.parametrize(
    ("text", "able"),
    [
        ("CONFIG_RD_ZSTD=y\nCONFIG_RD_GZIP=y\n", ("zstd", "gzip")),
        ("# CONFIG_RD_ZSTD is not set\nCONFIG_RD_XZ=y\n", ("xz",)),
        ("CONFIG_RD_ZSTD=m\nXCONFIG_RD_XZ=y\nCONFIG_RD_XZ=yes\n", ()),
        ("", ()),
        (None, None),
    ],
)
def test_compressions_are_those_of_the_kernels_config(text: str | None, able: tuple[str, ...], sysroot: Make) -> None:
    files = {"/boot/vmlinuz-6.1": kernelmaker.bzimage("6.1"), "/lib/modules/6.1/modules.dep": b""}
    root = sysroot(files if text is None else files | {"/boot/config-6.1": text.encode()})
    assert kernel.read(root, KernelSection(version="6.1"), "x86_64").initramfs_compressions == able


NO_MODULES = "CONFIG_64BIT=y\n# CONFIG_MODULES is not set\nCONFIG_RD_GZIP=y\n"


@pytest.mark.parametrize(
    "files",
    [
        {"/boot/config-6.1": NO_MODULES},
        {"/boot/config-6.1": NO_MODULES, "/lib/modules/6.1/modules.builtin": "kernel/fs/ext4/ext4.ko\n"},
        {"/lib/modules/6.1/config": NO_MODULES},
        {"/lib/modules/6.1/build/.config": NO_MODULES},
        {"/proc/sys/kernel/osrelease": "6.1\n", "/proc/config.gz": gzip.compress(NO_MODULES.encode())},
        {"/boot/config-6.1": NO_MODULES, "/lib/modules/6.1/modules.dep": ""},
    ],
)
def test_a_kernel_that_loads_no_modules_needs_none(files: dict[str, str | bytes], sysroot: Make) -> None:
    root = sysroot({"/boot/vmlinuz-6.1": kernelmaker.bzimage("6.1"), **files})
    found = kernel.read(root, KernelSection(version="6.1"), "x86_64")
    assert (found.modular, found.modules_dir) == (False, "/lib/modules/6.1")


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"/boot/config-6.1": "CONFIG_MODULES=y\n"},
        {"/boot/config-6.1": "# CONFIG_MODULES is not set, or is it\n"},
        {"/boot/config-6.1": ""},
        {"/boot/config-6.2": NO_MODULES},
        {"/proc/sys/kernel/osrelease": "6.2\n", "/proc/config.gz": gzip.compress(NO_MODULES.encode())},
    ],
)
def test_a_kernel_whose_modules_are_gone_is_not_installed(files: dict[str, str | bytes], sysroot: Make) -> None:
    root = sysroot({"/boot/vmlinuz-6.1": kernelmaker.bzimage("6.1"), **files})
    with pytest.raises(HostError, match=r"^/lib/modules/6\.1: no such kernel is installed$"):
        kernel.read(root, KernelSection(version="6.1"), "x86_64")


def test_a_directory_of_modules_without_their_list_wants_depmod(sysroot: Make) -> None:
    files = {"/boot/vmlinuz-6.1": kernelmaker.bzimage("6.1"), "/usr/lib/modules/6.1/modules.builtin": b""}
    with pytest.raises(HostError, match=r"^/usr/lib/modules/6\.1: has no modules\.dep$") as raised:
        kernel.read(sysroot(files), KernelSection(version="6.1"), "x86_64")
    assert raised.value.hint == "run: depmod 6.1"


def test_config_of_the_running_kernel_says_nothing_of_another(host_root: HostRoot) -> None:
    root = host_root("gentoo-openrc")
    trees.make("kernel /boot/kernel-7.0 7.0\nmodules /lib/modules/7.0", Path(root.directory))
    assert kernel.read(root, KernelSection(version="7.0"), "x86_64").initramfs_compressions is None


def test_broken_config_of_the_running_kernel_is_one_error(host_root: HostRoot) -> None:
    root = host_root("gentoo-openrc")
    Path(f"{root.directory}/proc/config.gz").write_bytes(b"\x1f\x8bbroken")
    with pytest.raises(HostError, match=r"/proc/config\.gz: "):
        kernel.read(root, KernelSection(), "x86_64")


@pytest.mark.parametrize("release", ["..", ".", "../../etc/passwd", "a/b"])
def test_release_that_is_a_path_is_refused(release: str, sysroot: Make) -> None:
    with pytest.raises(HostError, match="not the name of a kernel release"):
        kernel.read(sysroot({}), KernelSection(version=release), "x86_64")


@pytest.mark.parametrize("release", ["$(id)", "a b", "6.1\x1b[2J", "é"])
def test_release_with_odd_characters_is_no_installed_kernel(release: str, sysroot: Make) -> None:
    with pytest.raises(HostError, match="no such kernel is installed"):
        kernel.read(sysroot({}), KernelSection(version=release), "x86_64")


def test_real_kernels_are_found() -> None:
    for release, directory in kernels.roots().items():
        found = kernel.read(Root(directory), KernelSection(version=release), "x86_64")
        assert found.image == f"/boot/vmlinuz-{release}"
        assert "gzip" in (found.initramfs_compressions or ())


# --- programs ----------------------------------------------------------------------------------------------------


def test_applets_are_those_that_the_real_busybox_lists() -> None:
    programs.need("busybox")
    path = subprocess.run(["sh", "-c", "command -v busybox"], capture_output=True, text=True, check=True).stdout.strip()
    listed = subprocess.run([path, "--list"], capture_output=True, text=True, check=True).stdout.split()
    assert list(tools.parse_applets(Path(path).read_bytes())) == listed


@pytest.mark.parametrize("content", [b"", b"\0[\0", b"[\0[[\0", b"\x7fELF"])
def test_program_without_a_table_has_no_applets(content: bytes) -> None:
    assert tools.parse_applets(content) == ()


@pytest.mark.parametrize("before", [b"", b"\0", b"\xae "])
def test_table_of_applets_is_found_whatever_stands_before_it(before: bytes) -> None:
    assert tools.parse_applets(before + b"[\0[[\0acpid\0ash\0\0more") == ("[", "[[", "acpid", "ash")


@given(st.binary(max_size=300))
def test_any_bytes_have_some_applets(content: bytes) -> None:
    assert isinstance(tools.parse_applets(b"\0[\0[[\0" + content), tuple)


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"/bin/kexec": "x"}, "/bin/kexec"),
        ({"/sbin/kexec": "x", "/usr/local/sbin/kexec": "x"}, "/usr/local/sbin/kexec"),
        ({"/usr/sbin/kexec": Path("/opt/kexec"), "/opt/kexec": "x"}, "/usr/sbin/kexec"),
        ({"/usr/sbin/kexec": Path("/nowhere"), "/bin/kexec": "x"}, "/bin/kexec"),
        ({"/usr/sbin/kexec/": ""}, ""),
        ({}, ""),
    ],
)
def test_program_is_found_as_a_shell_of_root_would_find_it(
    files: Mapping[str, str | bytes | Path], found: str, sysroot: Make
) -> None:
    assert tools.find(sysroot(files), "kexec") == found


@pytest.mark.parametrize(
    ("needed", "able"),
    [
        ((), ()),
        (("libc.so.6",), ()),
        (("libz.so.1", "liblzo2.so.2", "libc.so.6"), ("lzo", "zlib")),
        (("libzstd.so.1", "libsnappy.so.1"), ("snappy", "zstd")),
        (("libzip.so.1",), ()),
    ],
)
def test_libraries_tell_what_makedumpfile_can_compress_with(
    needed: tuple[str, ...], able: tuple[str, ...], sysroot: Make
) -> None:
    root = sysroot({"/usr/bin/makedumpfile": elfmaker.program(needed=needed)})
    assert tools.read(root).makedumpfile_compressions == able


@pytest.mark.parametrize(
    ("machine", "name"), [(elfmaker.X86_64, "x86_64"), (elfmaker.AARCH64, "aarch64"), (elfmaker.S390X, "s390x")]
)
def test_machine_is_that_of_the_shell(machine: elfmaker.Machine, name: str, sysroot: Make) -> None:
    assert tools.machine(sysroot({"/bin/sh": elfmaker.program(machine=machine)})) == name
    assert tools.machine(sysroot({"/bin/sh": "#!"})) == ""


# --- the command line, and the rest ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "parameters"),
    [
        ("", ()),
        ("  \n", ()),
        ("a b=c\n", ("a", "b=c")),
        ('a="b c" d', ('a="b c"', "d")),
        ('"a=b c" d', ('"a=b c"', "d")),
        ('a="b c', ('a="b c',)),
        ('a"', ('a"',)),
        ('"', ('"',)),
        ("a=$(id) `id` ;id", ("a=$(id)", "`id`", ";id")),
        ("a\tb\nc", ("a", "b", "c")),
        ("=x ==", ("=x", "==")),
    ],
)
def test_command_line_is_split_as_the_kernel_splits_it(text: str, parameters: tuple[str, ...]) -> None:
    assert probe.split_cmdline(text) == parameters


@given(st.text(alphabet=st.sampled_from('ab =" \t\n$-_\\\x80'), max_size=80))
def test_any_command_line_is_split_without_losing_anything(text: str) -> None:
    words = probe.split_cmdline(text)
    assert re.sub(r"\s", "", "".join(words)) == re.sub(r"\s", "", text)
    assert all(words)
    assert probe.split_cmdline(" ".join(words)) == words


def test_long_command_line_is_split_at_once() -> None:
    start = time.monotonic()
    probe.split_cmdline('a"' * 50_000)
    probe.split_cmdline('"' * 50_001)
    assert time.monotonic() - start < 1


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("crashbox\n", "crashbox"),
        ("a.b-c_d", "a.b-c_d"),
        ("", "localhost"),
        ("-rf", "rf"),
        ("../../etc", "_.._etc"),
        ("$(id)`x`", "__id__x_"),
        ("é\x1b[2J", "___2J"),
        ("a" * 300, "a" * 64),
        ("..", "localhost"),
    ],
)
def test_host_name_is_safe_in_a_directory_name(text: str, name: str, host_root: HostRoot) -> None:
    root = host_root("debian-lvm-ext4")
    Path(f"{root.directory}/etc/hostname").write_text(text)
    found = probe.read(root, config.Config()).hostname
    assert found == name or (name.startswith("_") and found == name.lstrip("._"))
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}", found)


def test_reserved_memory_is_found_at_both_places(sysroot: Make) -> None:
    assert crash.reserved_bytes(sysroot({})) == 0
    assert crash.reserved_bytes(sysroot({"/sys/kernel/kexec/crash_size": "7\n"})) == 7
    assert crash.reserved_bytes(sysroot({"/sys/kernel/kexec_crash_size": "5\n"})) == 5


@pytest.mark.parametrize("directory", ["/sys/kernel", "/sys/kernel/kexec"])
def test_size_of_the_elf_headers_is_read_from_either_place(directory: str, sysroot: Make) -> None:
    assert crash.elfcorehdr_bytes(sysroot({f"{directory}/crash_elfcorehdr_size": "458752\n"})) == 458752
    assert crash.elfcorehdr_bytes(Root("/no/such")) == 0


@pytest.mark.parametrize(
    ("text", "apicid"),
    [
        ("", None),
        ("initial apicid\t: 3\ninitial apicid\t: 4\n", 3),
        ("apicid\t: 9\n", None),
        ("CPU part : 0xd0c", None),
    ],
)
def test_boot_processor_is_the_first_of_cpuinfo(text: str, apicid: int | None, sysroot: Make) -> None:
    assert probe.boot_apicid(sysroot({"/proc/cpuinfo": text})) == apicid


def test_facts_of_another_machine_keep_kernel_and_programs_of_the_root(host_root: HostRoot) -> None:
    debian, gentoo = host_root("debian-lvm-ext4"), host_root("gentoo-openrc")
    other = probe.read(gentoo, config.Config())
    facts = probe.read(debian, config.Config(), facts_of=other)
    own = probe.read(debian, config.Config())
    assert (facts.hostname, facts.targets, facts.cmdline) == (other.hostname, other.targets, other.cmdline)
    assert (facts.kernel, facts.tools, facts.machine) == (own.kernel, own.tools, own.machine)


@pytest.mark.parametrize("content", ["", "{}", "[", '{"schema": 1, "hostname": 3}', "null"])
def test_file_that_holds_no_facts_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "facts.json").write_text(content)
    with pytest.raises(ConfigError, match=r"facts\.json: "):
        probe.load_facts(str(tmp_path / "facts.json"))


def test_block_device_is_printable_as_json() -> None:
    device = Disk(name="sda", number="8:0", size_bytes=1)
    assert msgspec.json.decode(msgspec.json.encode(device), type=BlockDevice) == device


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_file_that_may_not_be_read_is_named(sysroot: Make) -> None:
    root = sysroot({"/secret": "x"})
    os.chmod(f"{root.directory}/secret", 0)
    with pytest.raises(HostError, match="/secret: Permission denied"):
        root.read_bytes("/secret")
