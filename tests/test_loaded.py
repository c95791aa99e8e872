"""Modules that the running kernel uses: what is read of them, and which of them come along."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from msgspec import structs

from kdump_initramfs import build, config
from kdump_initramfs.formats import proc_modules
from kdump_initramfs.formats.proc_modules import LoadedModule
from kdump_initramfs.host import loaded as host_loaded
from kdump_initramfs.host import probe
from kdump_initramfs.host.root import Root
from kdump_initramfs.image import basis, kmod, loaded
from kdump_initramfs.model import HostFacts, Module
from kdump_initramfs.storage import (
    Array,
    BlockDevice,
    CryptDevice,
    DirectoryTarget,
    Disk,
    Filesystem,
    LogicalVolume,
    MultipathDevice,
    Partition,
    TargetFacts,
)
from tests import capture, kernels

MODULES = """\
xxhash_generic 16384 1 - Live 0x0000000000000000
btrfs 1802240 1 - Live 0x0000000000000000
raid6_pq 122880 1 btrfs, Live 0x0000000000000000
libcrc32c 16384 3 btrfs,xfs,nf_conntrack, Live 0x0000000000000000
dm_mod 184320 4 dm_crypt,dm_snapshot, Live 0x0000000000000000
dm_snapshot 53248 1 - Live 0x0000000000000000
dm_bufio 49152 1 dm_snapshot, Live 0x0000000000000000
snd_pcm 159744 0 - Live 0x0000000000000000
old 20480 2 - Unloading 0x0000000000000000
permanent 16384 1 [permanent], Live 0x0000000000000000
no_unload 16384 - - Live 0x0000000000000000
nls_cp850 16384 1 - Live 0x0000000000000000 (O)
af_alg 40960 1 algif_skcipher, Live 0x0000000000000000
algif_skcipher 16384 0 - Live 0x0000000000000000
"""
CRYPTO = """\
name         : xxhash64
driver       : xxhash64-generic
module       : xxhash_generic
priority     : 100
refcnt       : 2
selftest     : passed
internal     : no
type         : shash

name         : crc32c
driver       : crc32c-intel
module       : crc32c_intel
refcnt       : 1
type         : shash

name         : xts(aes)
driver       : xts-aes-aesni
module       : aesni-intel
refcnt       : 3
type         : skcipher

name         : sha256
module       : kernel
refcnt       : 9
type         : shash
"""


def names(text: str, crypto: str = "") -> list[str]:
    return [module.name for module in proc_modules.parse(text, crypto)]


def test_what_only_modules_use_is_not_in_use() -> None:
    # But for the one that cryptsetup has used for a moment.
    in_use = ["algif_skcipher", "btrfs", "dm_mod", "dm_snapshot", "nls_cp850", "permanent", "xxhash_generic"]
    assert names(MODULES, CRYPTO) == in_use
    assert names("") == names("\n\nnonsense\n") == []


def test_algorithms_that_are_in_use_are_those_with_a_further_reference() -> None:
    found = {module.name: module.algorithms for module in proc_modules.parse(MODULES, CRYPTO)}
    assert found["xxhash_generic"] == ("shash xxhash64",)
    assert found["btrfs"] == ()
    (aes,) = proc_modules.parse("aesni_intel 1 2 - Live 0x0\n", CRYPTO)
    assert aes.algorithms == ("skcipher xts(aes)",)


def test_another_kernel_than_the_running_one_has_loaded_nothing(tmp_path: Path) -> None:
    (tmp_path / "proc/sys/kernel").mkdir(parents=True)
    (tmp_path / "proc/sys/kernel/osrelease").write_text("6.1.0\n")
    (tmp_path / "proc/modules").write_text(MODULES)
    root = Root(str(tmp_path))
    assert [module.name for module in host_loaded.read(root, "6.1.0")][1:3] == ["btrfs", "dm_mod"]
    assert host_loaded.read(root, "6.1.1") == ()


def test_facts_have_them_for_an_image_of_this_machine_and_its_kernel(host_root: Callable[[str], Root]) -> None:
    root = host_root("debian-lvm-ext4")
    Path(root.directory, "proc/modules").write_text(MODULES)
    Path(root.directory, "proc/crypto").write_text(CRYPTO)

    def found(*overrides: str, facts_of: HostFacts | None = None) -> list[str]:
        loaded_config = config.load(root=root.directory, overrides=overrides)
        facts = probe.read(root, loaded_config, facts_of=facts_of)
        return [module.name for module in facts.loaded_modules]

    assert "xxhash_generic" in found()
    assert found("image.mode=generic") == []
    facts = probe.read(root, config.load(root=root.directory))
    assert "xxhash_generic" in found(facts_of=facts)
    assert found("image.mode=generic", facts_of=facts) == []
    assert found(facts_of=structs.replace(facts, kernel=structs.replace(facts.kernel, release="6.6.6"))) == []
    # What is loaded changes all the time, and makes no image stale.
    assert basis.essential(facts).loaded_modules == ()


# --- which of them come along ----------------------------------------------------------------------------------------


LAYERS: Mapping[str, BlockDevice] = {
    "crypt": CryptDevice(name="dm-1", number="8:0", size_bytes=0),
    "disk": Disk(name="sda", number="8:0", size_bytes=0),
    "lvm": LogicalVolume(name="dm-0", number="8:0", size_bytes=0),
    "md": Array(name="md0", number="8:0", size_bytes=0, level="raid10"),
    "multipath": MultipathDevice(name="dm-2", number="8:0", size_bytes=0),
    "partition": Partition(name="sda1", number="8:0", size_bytes=0),
}


def stack(fs: str, *kinds: str) -> DirectoryTarget:
    devices = tuple(LAYERS[kind] for kind in kinds)
    return DirectoryTarget(
        kind="path",
        name="/c",
        directory="",
        filesystem=Filesystem(type=fs, uuid="u"),
        stack=devices,
        devices=(devices[0].name,),
    )


def module(name: str, *algorithms: str) -> LoadedModule:
    return LoadedModule(name=name, algorithms=algorithms)


# A desktop with a bit of everything.
IN_USE = (
    module("adiantum", "skcipher adiantum(xchacha12-simd,aes-generic,nhpoly1305-generic)"),
    module("algif_skcipher"),
    module("blake2b_generic", "shash blake2b-256"),
    module("cmac", "shash cmac(aes)"),
    module("crc32_generic", "shash crc32"),
    module("crc32c_generic", "shash crc32c"),
    module("dm_crypt"),
    module("dm_integrity"),
    module("dm_raid"),
    module("dm_round_robin"),
    module("dm_snapshot"),
    module("dm_thin_pool"),
    module("e1000e"),
    module("intel_qat", "skcipher xts(aes)"),
    module("nls_iso8859_1"),
    module("quota_v2"),
    module("raid10"),
    module("scsi_dh_rdac"),
    module("snd_pcm"),
    module("xxhash_generic", "shash xxhash64"),
)


def chosen(target: TargetFacts, explained: Sequence[str] = (), in_use: Sequence[LoadedModule] = IN_USE) -> set[str]:
    release = capture.release("generic")
    known = kmod.Modules(Root(kernels.roots()[release]), f"/lib/modules/{release}")
    host: HostFacts = capture.facts(target)
    facts = HostFacts(
        hostname="h", machine="x86_64", kernel=host.kernel, targets=host.targets, loaded_modules=tuple(in_use)
    )
    return set(loaded.unexplained(facts, known, set(explained)))


@pytest.mark.parametrize(
    ("target", "found"),
    [
        (stack("ext4", "partition", "disk"), {"crc32_generic", "crc32c_generic", "quota_v2"}),
        (stack("xfs", "disk"), {"crc32_generic", "crc32c_generic"}),
        (stack("vfat", "disk"), set()),
        (stack("exfat", "disk"), {"nls_iso8859_1"}),
        (stack("btrfs", "disk"), {"blake2b_generic", "crc32_generic", "crc32c_generic", "xxhash_generic"}),
        (stack("vfat", "md", "disk"), {"raid10"}),
        (stack("vfat", "multipath", "disk"), {"dm_round_robin", "scsi_dh_rdac"}),
    ],
)
def test_of_what_is_in_use_only_that_comes_along_which_a_layer_can_have_asked_for(
    target: TargetFacts, found: set[str]
) -> None:
    # Multipath may use any target of device-mapper; those that are told of here are enough.
    without = [each for each in IN_USE if not each.name.startswith("dm_") or each.name == "dm_round_robin"]
    assert chosen(target, in_use=without) == found


def test_a_volume_asks_for_targets_of_device_mapper_but_not_for_ciphers() -> None:
    wanted = {"dm_integrity", "dm_raid", "dm_snapshot", "dm_thin_pool", "raid10"}
    assert chosen(stack("vfat", "lvm", "disk")) == {*wanted, "crc32_generic", "crc32c_generic", "xxhash_generic"}


def test_an_encrypted_device_asks_for_ciphers_but_not_for_those_of_an_accelerator() -> None:
    found = chosen(stack("vfat", "crypt", "disk"))
    assert found >= {"adiantum", "algif_skcipher", "dm_crypt", "dm_integrity"}
    assert not found & {"intel_qat", "e1000e", "snd_pcm", "raid10", "dm_snapshot"}


def test_what_is_explained_or_unknown_to_this_kernel_does_not_come_along() -> None:
    target = stack("btrfs", "disk")
    assert chosen(target, ["xxhash_generic", "blake2b_generic", "crc32_generic", "crc32c_generic"]) == set()
    assert chosen(target, in_use=[module("sum_of_nowhere", "shash sum")]) == set()


# --- in a plan -------------------------------------------------------------------------------------------------------


def reasons(target: TargetFacts, in_use: Sequence[LoadedModule], *overrides: str) -> dict[str, str]:
    """Return the modules of an image for the kernel that the facts are of: name -> reason."""
    release = capture.release("generic")
    elsewhere = capture.facts(target)
    kernel = type(elsewhere.kernel)(release=release, image="/x", modules_dir="/x", initramfs_compressions=None)
    facts = HostFacts(
        hostname="h", machine="x86_64", kernel=kernel, targets=elsewhere.targets, loaded_modules=tuple(in_use)
    )
    planned = build.plan(
        Root(), config.load(overrides=[*capture.kernel_overrides(release), *overrides]), facts_of=facts
    )
    return {
        entry.path.rpartition("/")[2].removesuffix(".ko"): entry.reason
        for entry in planned.entries
        if isinstance(entry, Module)
    }


def test_they_come_along_with_their_reason_and_with_what_they_need() -> None:
    target = capture.target(lvm=True)
    found = reasons(target, IN_USE)
    assert found["dm_snapshot"].endswith(loaded.REASON)
    assert found["dm_bufio"].startswith("module dm_bufio: needed by dm_")
    assert "dm_crypt" not in found
    assert "dm_snapshot" not in reasons(target, ())


def test_what_was_to_be_left_out_is_left_out() -> None:
    assert "dm_snapshot" not in reasons(capture.target(lvm=True), IN_USE, 'image.omit_modules=["dm_snapshot"]')


def test_a_plain_stack_gets_nothing_that_its_hooks_do_not_name() -> None:
    for target in (capture.target(), capture.target(fs="xfs"), capture.target(partition=True)):
        usual = [module("crc32c_generic", "shash crc32c"), module("nls_utf8"), module("aesni_intel", "skcipher x")]
        assert reasons(target, usual).keys() == reasons(target, ()).keys()
