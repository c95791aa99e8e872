"""Module resolution: on small trees written by hand, and against modprobe for every module of real kernels."""

import lzma
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdump_initramfs.errors import HostError, KdumpError, SeveralProblemsError
from kdump_initramfs.formats import depmod, modprobe_conf
from kdump_initramfs.formats.modprobe_conf import ModuleSettings
from kdump_initramfs.host.root import Root
from kdump_initramfs.image import drivers, kmod, module_files
from kdump_initramfs.model import DriverSet
from tests import elfmaker, kernels

RELEASE = "6.9.0-test"
DIR = f"/lib/modules/{RELEASE}"

DEP = """\
kernel/fs/ext4/ext4.ko: kernel/lib/crc16.ko kernel/fs/jbd2/jbd2.ko
kernel/fs/jbd2/jbd2.ko:
kernel/lib/crc16.ko:
kernel/crypto/crc32c_generic.ko:
kernel/arch/x86/crypto/crc32c-intel.ko.xz:
kernel/drivers/md/dm-mod.ko.zst: kernel/drivers/dax/dax.ko
kernel/drivers/dax/dax.ko:
kernel/drivers/block/virtio_blk.ko: kernel/drivers/virtio/virtio.ko
kernel/drivers/virtio/virtio.ko:
kernel/drivers/a.ko:
kernel/drivers/b.ko:
/opt/vendor/card.ko: kernel/drivers/a.ko
"""
ALIAS = """\
# Aliases extracted from modules themselves.
alias crypto-crc32c crc32c_intel
alias crc32c crc32c_intel
alias crypto-crc32c crc32c_generic
alias crc32c crc32c_generic
alias fs-ext4 ext4
alias virtio:d00000002v* virtio_blk
alias usb:v152Dp0567d011[4-7]dc*dsc*dp*ic*isc*ip*in* a
alias usb:v152Dp0567d0??9dc* b
alias pci:v*d*sv*sd*bc01sc06i01* b
alias *:wild* dax
"""
SOFTDEP = """\
# Soft dependencies extracted from modules themselves.
softdep jbd2 pre: crypto-crc32c
softdep dax post: b nothing-like-it
softdep virtio ignored pre: hmac
softdep a pre: b
softdep b pre: a
"""
BUILTIN = "kernel/crypto/hmac.ko\nkernel/drivers/virtio/virtio-pci.ko\n"
BUILTIN_MODINFO = (
    "hmac.alias=crypto-hmac\0hmac.description=as x.alias=y\0virtio_pci.alias=pci:v00001AF4d*sv*sd*bc*sc*i*\0"
)


def write(root: Path, files: Mapping[str, str | bytes]) -> Root:
    for path, content in files.items():
        place = root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content.encode() if isinstance(content, str) else content)
    return Root(str(root))


@pytest.fixture
def modules(tmp_path: Path) -> kmod.Modules:
    texts = {"dep": DEP, "alias": ALIAS, "softdep": SOFTDEP, "builtin": BUILTIN, "builtin.modinfo": BUILTIN_MODINFO}
    root = write(tmp_path, {f"{DIR}/modules.{name}": text for name, text in texts.items()})
    return kmod.Modules(root, DIR)


def names(resolved: tuple[kmod.Module, ...]) -> list[str]:
    return [module.name for module in resolved]


# --- order -------------------------------------------------------------------------------------------------------


def test_dependencies_and_soft_dependencies_come_first(modules: kmod.Modules) -> None:
    assert modules.resolve(["ext4"]) == (
        kmod.Module(
            name="crc32c_intel",
            path=f"{DIR}/kernel/arch/x86/crypto/crc32c-intel.ko.xz",
            reason="soft dependency of jbd2",
        ),
        kmod.Module(
            name="crc32c_generic",
            path=f"{DIR}/kernel/crypto/crc32c_generic.ko",
            reason="soft dependency of jbd2",
        ),
        kmod.Module(name="jbd2", path=f"{DIR}/kernel/fs/jbd2/jbd2.ko", reason="needed by ext4"),
        kmod.Module(name="crc16", path=f"{DIR}/kernel/lib/crc16.ko", reason="needed by ext4"),
        kmod.Module(name="ext4", path=f"{DIR}/kernel/fs/ext4/ext4.ko", reason="asked for"),
    )


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (["dm_mod"], ["dax", "a", "b", "dm_mod"]),
        (["dm-mod", "dm_mod"], ["dax", "a", "b", "dm_mod"]),
        (["a"], ["b", "a"]),
        (["b"], ["a", "b"]),
        (["crc32c"], ["crc32c_intel", "crc32c_generic"]),
        (["virtio_blk"], ["virtio", "virtio_blk"]),
        (["hmac", "virtio-pci", "crypto_hmac"], []),
        (["card"], ["a", "b", "card"]),
        ([], []),
    ],
)
def test_names_and_aliases(modules: kmod.Modules, asked: list[str], expected: list[str]) -> None:
    assert names(modules.resolve(asked)) == expected


def test_aliases_of_one_come_before_the_modules_of_the_next(modules: kmod.Modules) -> None:
    wanted: list[tuple[list[str], list[str]]] = [(["card"], ["virtio:d00000002v1", "nothing"]), (["crc16"], [])]
    assert names(modules.resolve_in_turn(wanted)) == ["a", "b", "card", "virtio", "virtio_blk", "crc16"]


def test_what_is_unknown_to_several_is_said_together(modules: kmod.Modules) -> None:
    with pytest.raises(SeveralProblemsError, match=r"no module reiser5(.|\n)*no module dm-nothing"):
        modules.resolve_in_turn([(["reiser5"], []), (["dm-nothing"], ["ext4"])])


def test_a_module_outside_the_tree_keeps_its_path(modules: kmod.Modules) -> None:
    assert modules.resolve(["card"])[-1].path == "/opt/vendor/card.ko"


def test_an_alias_is_named_in_the_reason(modules: kmod.Modules) -> None:
    assert modules.resolve(["fs-ext4"])[-1].reason == "asked for as fs-ext4"


def test_the_first_reason_counts(modules: kmod.Modules) -> None:
    reasons = {module.name: module.reason for module in modules.resolve(["ext4", "jbd2", "crc16"])}
    assert (reasons["jbd2"], reasons["crc16"]) == ("needed by ext4", "needed by ext4")


def test_omitted_modules_are_left_out_with_what_only_they_need(modules: kmod.Modules) -> None:
    assert names(modules.resolve(["ext4", "dm_mod"], omit=["jbd2", "dm-mod"])) == ["crc16", "ext4"]


def test_all_unknown_names_are_reported_together(modules: kmod.Modules) -> None:
    with pytest.raises(SeveralProblemsError) as raised:
        modules.resolve(["ext4", "reiser5", "dm-nothing"])
    assert [str(error) for error in raised.value.errors] == [
        f"{DIR}: this kernel has no module reiser5, loadable or built in",
        f"{DIR}: this kernel has no module dm-nothing, loadable or built in",
    ]
    assert all(error.hint for error in raised.value.errors)


def test_a_kernel_without_modules_dep_is_named(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=rf"^{DIR}/modules\.dep: no such file$") as raised:
        kmod.Modules(Root(str(tmp_path)), DIR).resolve(["ext4"])
    assert raised.value.hint is not None
    assert RELEASE in raised.value.hint


# --- what modules.dep lacks, and what is broken -----------------------------------------------------------------------


def kernel_of(tmp_path: Path, conf: str = "", /, **files: str | bytes) -> kmod.Modules:
    """Return a kernel with these files, modules_dep for modules.dep; others of them are modules."""
    named = {
        name.replace("modules_", "modules.").replace("builtin_modinfo", "builtin.modinfo"): files[name]
        for name in files
    }
    root = write(
        tmp_path, {f"{DIR}/{name if '.' in name else f'kernel/{name}.ko'}": text for name, text in named.items()}
    )
    settings = modprobe_conf.parse([("/etc/modprobe.d/x.conf", conf)])
    return kmod.Modules(root, DIR, settings=settings)


@pytest.mark.parametrize(
    "files",
    [
        {"modules_softdep": "softdep a pre: gone post: gone-too\n"},
        {"modules_alias": "alias fs-gone gone\n", "modules_softdep": "softdep a pre: fs-gone\n"},
        {"modules_alias": "alias pci:v*d*sv*sd*bc*sc*i* gone\nalias fs-a a\n"},
        {"modules_softdep": "softdep gone pre: a\n"},
        {"modules_softdep": "softdep a\nsoftdep\nsoftdep a pre:\nsoftdep a pre: post:\n"},
    ],
)
def test_what_modules_dep_lacks_is_passed_over(files: dict[str, str], tmp_path: Path) -> None:
    modules = kernel_of(tmp_path, modules_dep="kernel/a.ko:\n", **files)
    assert names(modules.resolve(["a"], ["pci:v1d1sv1sd1bc1sc1i1"])) == ["a"]
    assert modules.find("fs-gone") == []


def test_a_needed_module_without_a_line_of_its_own_is_loaded_all_the_same(tmp_path: Path) -> None:
    modules = kernel_of(tmp_path, modules_dep="kernel/a.ko: kernel/b.ko\n")
    assert [module.path for module in modules.resolve(["a"])] == [f"{DIR}/kernel/b.ko", f"{DIR}/kernel/a.ko"]


def test_an_alias_of_a_module_that_is_gone_is_unknown(tmp_path: Path) -> None:
    modules = kernel_of(tmp_path, modules_dep="kernel/a.ko:\n", modules_alias="alias fs-gone gone\n")
    with pytest.raises(HostError, match="this kernel has no module fs-gone"):
        modules.resolve(["fs-gone"])


@pytest.mark.parametrize(
    "alias", [None, "", "\n", "# Aliases extracted from modules themselves.\n", "alias pci:v1* a", "\0\0\n"]
)
def test_aliases_that_depmod_has_not_written_are_no_aliases(alias: str | None, tmp_path: Path) -> None:
    module = elfmaker.module(("alias", "pci:v00008086d*"), ("license", "GPL"))
    files: dict[str, str | bytes] = {"modules_dep": "kernel/a.ko:\nkernel/b.ko:\n", "b": module}
    files |= {} if alias is None else {"modules_alias": alias}
    modules = kernel_of(tmp_path, a=elfmaker.module(("license", "GPL")), **files)
    with pytest.raises(HostError, match=rf"^{DIR}/modules\.alias: ") as raised:
        modules.resolve([], ["pci:v00008086d0"])
    assert raised.value.hint == f"run: depmod {RELEASE}"


def test_a_kernel_whose_modules_have_no_aliases_has_none(tmp_path: Path) -> None:
    modules = kernel_of(tmp_path, modules_dep="kernel/a.ko:\nkernel/gone.ko:\n", a=elfmaker.module(("license", "GPL")))
    assert modules.resolve([], ["pci:v00008086d0"]) == ()


@pytest.mark.parametrize("dep", ["", "\n", "kernel/a.ko", "kernel/a.ko:\nkernel/b.ko:", "\0\0\0\n", "\0" * 4096])
def test_a_list_that_depmod_has_not_written_is_no_list(dep: str, tmp_path: Path) -> None:
    modules = kernel_of(tmp_path, modules_dep=dep, a=elfmaker.module(("license", "GPL")))
    with pytest.raises(HostError, match=rf"^{DIR}/modules\.dep: ") as raised:
        modules.resolve(["a"])
    assert raised.value.hint == f"run: depmod {RELEASE}"


def test_a_kernel_with_all_built_in_has_an_empty_list(tmp_path: Path) -> None:
    modules = kernel_of(tmp_path, modules_dep="", modules_builtin="kernel/fs/ext4/ext4.ko\n")
    assert modules.resolve(["ext4"], ["pci:v00008086d0"]) == ()


def test_a_kernel_that_loads_no_modules_may_have_all_built_in(tmp_path: Path) -> None:
    modules = kmod.Modules(Root(str(tmp_path)), DIR, modular=False)
    assert modules.resolve(["ext4", "nvme"], ["pci:v00008086d0"]) == ()
    assert modules.warnings == [
        f"{name}: this kernel is built without modules, and has no modules.builtin that names what it has; "
        "see that it is built in"
        for name in ("ext4", "nvme")
    ]


def test_of_a_kernel_that_loads_no_modules_the_list_of_what_is_built_in_is_believed(tmp_path: Path) -> None:
    root = write(tmp_path, {f"{DIR}/modules.builtin": "kernel/fs/ext4/ext4.ko\n"})
    modules = kmod.Modules(root, DIR, modular=False)
    assert modules.resolve(["ext4"]) == ()
    assert modules.warnings == []
    with pytest.raises(HostError, match="this kernel has no module xfs, loadable or built in"):
        modules.resolve(["xfs"])


def test_soft_dependencies_without_an_end_are_named(tmp_path: Path) -> None:
    count = 3000
    dep = "".join(f"kernel/m{number}.ko:\n" for number in range(count))
    softdep = "".join(f"softdep m{number} pre: m{number + 1}\n" for number in range(count))
    modules = kernel_of(tmp_path, modules_dep=dep, modules_softdep=softdep)
    with pytest.raises(HostError, match="a chain of soft dependencies without an end"):
        modules.resolve(["m0"])


# --- modprobe.d ---------------------------------------------------------------------------------------------------

CONF_DEP = "kernel/a.ko: kernel/b.ko\nkernel/b.ko:\nkernel/c.ko:\nkernel/d.ko:\n"
CONF_ALIAS = "alias pci:v1* a\nalias pci:v1* d\nalias fs-c c\n"


@pytest.mark.parametrize(
    ("conf", "asked", "modalias", "expected"),
    [
        ("", [], "pci:v1d", ["b", "a", "d"]),
        ("blacklist a", [], "pci:v1d", ["d"]),
        ("blacklist d", [], "pci:v1d", ["b", "a"]),
        # By its name, and as what another needs, it is loaded.
        ("blacklist a", ["a"], "pci:v1d", ["b", "a", "d"]),
        ("blacklist b", [], "pci:v1d", ["b", "a", "d"]),
        ("install a /bin/false", [], "pci:v1d", ["d"]),
        ("install a /bin/true", ["a"], "", ["b", "a"]),
        ("softdep a pre: c", ["a"], "", ["b", "c", "a"]),
        ("softdep a pre: fs-c post: d gone", ["a"], "", ["b", "c", "a", "d"]),
        ("softdep a pre: c\ninstall c /bin/false", ["a"], "", ["b", "a"]),
        ("alias mine c", ["mine"], "", ["c"]),
        ("alias pci:v2* c", [], "pci:v2d", ["c"]),
        # One of the site goes before those of the kernel; one that leads nowhere is nothing.
        ("alias pci:v1* c", [], "pci:v1d", ["c"]),
        ("alias pci:v1* gone", [], "pci:v1d", []),
    ],
)
def test_the_configuration_of_modprobe_counts(
    conf: str, asked: list[str], modalias: str, expected: list[str], tmp_path: Path
) -> None:
    modules = kernel_of(tmp_path, conf, modules_dep=CONF_DEP, modules_alias=CONF_ALIAS)
    assert names(modules.resolve(asked, [modalias] if modalias else [])) == expected


def test_what_is_needed_though_it_is_disabled_is_a_warning(tmp_path: Path) -> None:
    modules = kernel_of(tmp_path, "install a /bin/false", modules_dep=CONF_DEP, modules_alias=CONF_ALIAS)
    modules.resolve(["a", "c"])
    assert modules.warnings == ["a: /etc/modprobe.d/x.conf keeps modprobe from loading it; the image loads it"]


def test_the_command_line_can_blacklist_too(tmp_path: Path) -> None:
    kernel_of(tmp_path, modules_dep=CONF_DEP, modules_alias=CONF_ALIAS)
    modules = kmod.Modules(Root(str(tmp_path)), DIR, blacklist=["a"])
    assert names(modules.resolve([], ["pci:v1d"])) == ["d"]


@pytest.mark.parametrize(
    ("conf", "expected"),
    [
        ("options a x=1\noptions a y=2 z\noptions b x=3", "x=1 y=2 z"),
        ('options a x="1 2"  y', 'x="1 2" y'),
        ("options b x=1", ""),
        # What would hurt in the capture kernel.
        ("options a max_vfs=8 x=1 num-vfs=2", "x=1"),
    ],
)
def test_parameters(conf: str, expected: str, tmp_path: Path) -> None:
    assert kernel_of(tmp_path, conf, modules_dep=CONF_DEP).parameters("a") == expected


def test_a_parameter_of_one_module_can_be_dropped(tmp_path: Path) -> None:
    modules = kernel_of(tmp_path, "options scsi-mod scan=manual max_luns=9\noptions a scan=1", modules_dep=CONF_DEP)
    assert (modules.parameters("scsi_mod"), modules.parameters("a")) == ("max_luns=9", "scan=1")


# --- anything at all ----------------------------------------------------------------------------------------------

_WORDS = st.sampled_from(
    [
        *(
            "a",
            "b-c",
            "fs-a",
            "pci:v*d[0-",
            "kernel/a.ko",
            "kernel/b-c.ko.xz:",
            "a.alias=x",
            "x=1",
            "off",
            "/bin/false",
        ),
        *("alias", "softdep", "options", "blacklist", "install", "pre:", "post:"),
        *(":", "*", "[", "]", "[!", "\\", "\0", "-", "\udcff"),
    ]
)
_LINES = st.lists(st.lists(_WORDS, max_size=5).map(" ".join), max_size=6).map(lambda lines: "\n".join([*lines, ""]))
_FILES = ("dep", "alias", "softdep", "builtin", "builtin.modinfo", "order")


@settings(deadline=None, max_examples=150)
@given(
    contents=st.fixed_dictionaries({name: st.one_of(st.none(), _LINES, st.binary(max_size=40)) for name in _FILES}),
    conf=_LINES,
)
def test_no_content_of_these_files_is_more_than_an_error(contents: dict[str, str | bytes | None], conf: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        files = {f"{DIR}/modules.{name}": text for name, text in contents.items() if text is not None}
        encoded = {
            path: text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")
            for path, text in files.items()
        }
        root = write(Path(directory), encoded)
        parsed = ModuleSettings()
        with suppress(HostError):
            parsed = modprobe_conf.parse([("x", conf)])
        modules = kmod.Modules(root, DIR, settings=parsed)
        wanted = DriverSet(directories=("kernel",), calls=("x",), devices=("pci:*",))
        for use in (
            lambda: modules.resolve(["a", "b_c", "fs-a", "off"], ["pci:v1d0", "["]),
            lambda: drivers.alias_script(drivers.choose(modules, [wanted]).aliases),
            lambda: modules.parameters("a") + modules.place("updates/a.ko"),
        ):
            with suppress(KdumpError):
                use()


# --- devices -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("modalias", "expected"),
    [
        ("virtio:d00000002v00001AF4", ["virtio", "virtio_blk"]),
        ("virtio:d00000003v00001AF4", []),
        ("usb:v152Dp0567d0115dc00dsc00dp00ic08isc06ip62in00", ["b", "a"]),
        ("usb:v152Dp0567d0118dc00dsc00dp00ic08isc06ip62in00", []),
        ("usb:v152Dp0567d0119dc00", ["a", "b"]),
        ("pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01", ["a", "b"]),
        ("pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i02", []),
        ("pci:bc01sc06i01", []),
        ("x:wilderness", ["dax", "a", "b"]),
        ("", []),
    ],
)
def test_modaliases(modules: kmod.Modules, modalias: str, expected: list[str]) -> None:
    assert sorted(names(modules.resolve([], [modalias]))) == sorted(expected)


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("ab*ba", "abba", True),
        ("ab*ba", "aba", False),
        ("x*c*c", "xcc", True),
        ("x*c*c", "xc", False),
        ("x*a*b*", "xbab", True),
        ("x*a*b*", "xba", False),
        ("*", "", True),
        ("*", "anything", True),
        ("x", "xy", False),
        ("x-y", "x_y", True),
        ("x[-a]?*", "x-1", True),
        ("x[-a]?*", "x_1", False),
        ("x?", "x", False),
        ("[0-2]x", "1x", True),
    ],
)
def test_patterns(pattern: str, name: str, matches: bool) -> None:  # noqa: FBT001
    assert depmod.Aliases([f"{pattern} found"]).find(name) == ["found"] * matches


def test_a_driver_of_a_device_says_so(modules: kmod.Modules) -> None:
    resolved = modules.resolve([], ["virtio:d00000002v00001AF4"])
    assert resolved[-1].reason == "answers to virtio:d00000002v00001AF4"


def test_built_in_aliases(modules: kmod.Modules) -> None:
    assert modules.is_builtin("pci:v00001AF4d00001001sv00001AF4sd00000002bc01sc00i00")
    assert not modules.is_builtin("pci:v00008086d00001001sv00001AF4sd00000002bc01sc00i00")
    assert not modules.is_builtin("y")


# --- parsers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [("dm-mod", "dm_mod"), ("usb:d[0-2]-x", "usb:d[0-2]_x"), ("a-[b", "a_[b"), ("", "")],
)
def test_normal_names(name: str, expected: str) -> None:
    assert depmod.normal(name) == expected


def test_all_softdep_lines_of_a_module_count() -> None:
    parsed = depmod.parse_softdep("softdep x pre: a b post: c\nsoftdep x pre: d\n\n# comment\noptions x y\nsoftdep\n")
    assert parsed == {"x": depmod.SoftDependencies(pre=("a", "b", "d"), post=("c",))}


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n", "alias", "alias \n", "alias x\n"])
def test_broken_aliases_are_passed_over(text: str) -> None:
    assert depmod.parse_aliases(text).find("x") == []


# --- firmware ----------------------------------------------------------------------------------------------------


def firmware_root(tmp_path: Path, *wanted: str) -> kmod.Modules:
    module = elfmaker.module(*(("firmware", name) for name in wanted), ("license", "GPL"))
    root = write(tmp_path, {f"{DIR}/modules.dep": "kernel/card.ko:\n", f"{DIR}/kernel/card.ko": module})
    return kmod.Modules(root, DIR)


def firmware(modules: kmod.Modules) -> tuple[list[str], tuple[str, ...]]:
    found, missing = modules.firmware(modules.resolve(["card"]))
    return [each.path for each in found], missing


def test_firmware_is_found_where_the_kernel_looks_first(tmp_path: Path) -> None:
    modules = firmware_root(tmp_path, "v/one.bin", "v/two.bin", "three.bin", "four.bin")
    updates = "/lib/firmware/updates"
    places = (
        "/lib/firmware/v/one.bin",
        f"{updates}/v/one.bin",
        f"{updates}/{RELEASE}/v/one.bin",
        f"/lib/firmware/{RELEASE}/v/two.bin",
        "/lib/firmware/v/two.bin",
        f"{updates}/three.bin.xz",
        f"/lib/firmware/{RELEASE}/three.bin",
        "/lib/firmware/four.bin.zst",
    )
    write(tmp_path, dict.fromkeys(places, b""))
    assert firmware(modules) == (
        [
            f"{updates}/{RELEASE}/v/one.bin",
            f"/lib/firmware/{RELEASE}/v/two.bin",
            f"{updates}/three.bin.xz",
            "/lib/firmware/four.bin.zst",
        ],
        (),
    )


def test_missing_firmware_is_a_warning(tmp_path: Path) -> None:
    assert firmware(firmware_root(tmp_path, "none.bin")) == ([], ("card: firmware none.bin is not installed",))


def test_firmware_may_be_a_pattern(tmp_path: Path) -> None:
    modules = firmware_root(tmp_path, "brcm/*-sdio.bin")
    write(
        tmp_path,
        dict.fromkeys((f"/lib/firmware/brcm/{name}" for name in ("a-sdio.bin.xz", "b-sdio.bin", "c.bin")), b""),
    )
    assert firmware(modules) == (["/lib/firmware/brcm/a-sdio.bin.xz", "/lib/firmware/brcm/b-sdio.bin"], ())


def test_a_listed_module_that_is_gone_is_named(tmp_path: Path) -> None:
    modules = firmware_root(tmp_path)
    os.unlink(tmp_path / DIR.lstrip("/") / "kernel/card.ko")
    with pytest.raises(HostError, match=rf"^{DIR}/kernel/card\.ko: no such file$"):
        firmware(modules)


# --- against modprobe --------------------------------------------------------------------------------------------


def modprobe(root: str, release: str, asked: list[str]) -> dict[str, list[str]]:
    """Return what modprobe would load for each name, in order; a built-in module's line ends the list of each."""
    mark = next(iter(sorted(depmod.parse_builtin(Path(f"{root}/lib/modules/{release}/modules.builtin").read_text()))))
    interleaved = [word for name in asked for word in (name, mark)]
    command = ["modprobe", "-C", "/dev/null", "-d", root, "-S", release, "-a", "-n", "--show-depends", *interleaved]
    result = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert not result.stderr[:1000]
    output = result.stdout
    found: dict[str, list[str]] = {}
    remaining = iter(asked)
    loaded: list[str] = []
    for line in output.splitlines():
        kind, what = line.split(maxsplit=1)
        if kind == "insmod":
            loaded.append(depmod.module_name(what))
        elif what == mark:
            found[next(remaining)] = list(dict.fromkeys(loaded))
            loaded = []
    assert next(remaining, None) is None
    return found


@pytest.mark.skipif(shutil.which("modprobe") is None, reason="modprobe is not installed")
def test_every_module_of_real_kernels_as_modprobe_loads_it() -> None:
    for release, root in kernels.roots().items():
        modules = kmod.Modules(Root(root), f"/lib/modules/{release}")
        asked = sorted(modules.files)
        expected = modprobe(root, release, asked)
        ours = {name: names(modules.resolve([name])) for name in asked}
        assert len(ours) > 500
        # Of several softdep lines modprobe takes the first.
        more = {name for name in asked if several_lines(release, root) & {name, *expected[name]}}
        assert {name: each for name, each in ours.items() if name not in more} == {
            name: each for name, each in expected.items() if name not in more
        }
        assert 0 < len(more) < 20
        for name in more:
            assert [each for each in ours[name] if each in expected[name]] == expected[name]
        # These are what a btrfs can be made with.
        for checksum in ("crc32c", "xxhash64", "sha256", "blake2b-256"):
            implementations = set(modules.find(f"crypto-{checksum}"))
            assert implementations <= set(ours["btrfs"])
            assert implementations or modules.is_builtin(f"crypto-{checksum}")


def several_lines(release: str, root: str) -> set[str]:
    """Return the modules with more than one line in modules.softdep."""
    lines = Path(f"{root}/lib/modules/{release}/modules.softdep").read_text().splitlines()
    named = [depmod.normal(line.split()[1]) for line in lines if line.startswith("softdep ")]
    return {name for name in named if named.count(name) > 1}


@pytest.mark.skipif(shutil.which("modprobe") is None, reason="modprobe is not installed")
def test_aliases_of_real_kernels_as_modprobe_resolves_them() -> None:
    for release, root in kernels.roots().items():
        modules = kmod.Modules(Root(root), f"/lib/modules/{release}")
        lines = Path(f"{root}/lib/modules/{release}/modules.alias").read_text().splitlines()[1::97]
        asked = sorted({alias_example(line.split()[1]) for line in lines})
        expected = modprobe(root, release, asked)
        assert {alias: names(modules.resolve([alias])) for alias in asked} == expected


def alias_example(pattern: str) -> str:
    """Return a name that a pattern matches."""
    return re.sub(r"\[(.)[^]]*]", r"\1", re.sub(r"[*?]", "0", pattern))


# --- what is kept of modules that were unpacked -----------------------------------------------------------------------


def packed_module(tmp_path: Path) -> tuple[kmod.Modules, Path]:
    """Return a kernel with one compressed module that asks for firmware, and the file of the module."""
    content = lzma.compress(elfmaker.module(("firmware", "none.bin")), check=lzma.CHECK_CRC32)
    root = write(tmp_path, {f"{DIR}/modules.dep": "kernel/card.ko.xz:\n", f"{DIR}/kernel/card.ko.xz": content})
    return kmod.Modules(root, DIR), tmp_path / DIR.lstrip("/") / "kernel/card.ko.xz"


def spoil(path: Path) -> None:
    """Write something else to a file, of the same size and time."""
    status = path.stat()
    path.write_bytes(b"x" * status.st_size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_what_was_unpacked_for_its_firmware_is_not_unpacked_again(tmp_path: Path) -> None:
    modules, path = packed_module(tmp_path)
    modules.firmware(modules.resolve(["card"]))
    spoil(path)
    assert module_files.take(str(path)) == elfmaker.module(("firmware", "none.bin"))
    # Once: the memory is given back.
    assert module_files.take(str(path))[:1] == b"x"


def test_a_module_that_has_changed_is_read_again(tmp_path: Path) -> None:
    modules, path = packed_module(tmp_path)
    modules.firmware(modules.resolve(["card"]))
    path.write_bytes(b"new")
    assert module_files.take(str(path)) == b"new"


def test_a_module_that_is_no_file_is_named(tmp_path: Path) -> None:
    modules, path = packed_module(tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(HostError, match=rf"^{DIR}/kernel/card\.ko\.xz: no such file$"):
        modules.content(f"{DIR}/kernel/card.ko.xz")
