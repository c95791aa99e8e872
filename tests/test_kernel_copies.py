"""Copies of kernels, of those that kexec cannot take or may not find, beside the image."""

from pathlib import Path

import msgspec
import pytest

from kdump_initramfs import build as spine
from kdump_initramfs import config
from kdump_initramfs.errors import HostError, LoadError
from kdump_initramfs.host.root import Root
from kdump_initramfs.image import inspect, record
from kdump_initramfs.loader import kexec, state, status
from kdump_initramfs.model import Kernel
from kdump_initramfs.rehearsal import storage, victim
from tests import kernelmaker, trees

RELEASE = "6.1.0-35-amd64"
VMLINUZ = f"/boot/vmlinuz-{RELEASE}"
NOAUTO = "file /etc/fstab LABEL=boot /boot ext4 noauto 1 2"


def change(root: Root, text: str) -> None:
    trees.make(text, Path(root.directory))


def copies(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.kernel-*"))


def build(root: Root, tmp_path: Path) -> str:
    path = str(tmp_path / "out" / "initrd.img")
    Path(path).parent.mkdir(exist_ok=True)
    spine.build(root, config.Config(), output=path)
    return path


def test_unified_image_is_unpacked_beside_the_capture_image(machine: Root, tmp_path: Path) -> None:
    change(machine, f"kernel {VMLINUZ} {RELEASE} uki")
    image = build(machine, tmp_path)
    described = record.read(image)
    (copy,) = copies(tmp_path / "out")
    assert copy.read_bytes() == kernelmaker.bzimage(RELEASE)
    assert copy.stat().st_mode & 0o777 == 0o600
    assert (described.kernel_copy, described.kernel_copy_sha256) == (copy.name, record.sha256_of(str(copy)))
    assert described.manifest.kernel_sha256 == record.sha256_of(machine.host(VMLINUZ))
    command = kexec.command(machine, config.Config(), image)
    assert command.words[2] == command.kernel == str(copy)


def test_plain_image_is_loaded_from_where_it_is(machine: Root, tmp_path: Path) -> None:
    image = build(machine, tmp_path)
    assert copies(tmp_path / "out") == []
    command = kexec.command(machine, config.Config(), image)
    assert (command.words[2], command.kernel) == (VMLINUZ, machine.host(VMLINUZ))


def test_next_build_removes_the_copy_that_is_of_no_use_any_more(machine: Root, tmp_path: Path) -> None:
    change(machine, f"kernel {VMLINUZ} {RELEASE} uki")
    build(machine, tmp_path)
    (first,) = copies(tmp_path / "out")
    place = Path(machine.host(VMLINUZ))
    place.write_bytes(kernelmaker.uki(kernelmaker.bzimage(RELEASE, signed=True), uname=RELEASE))
    build(machine, tmp_path)
    (second,) = copies(tmp_path / "out")
    assert first != second
    change(machine, f"kernel {VMLINUZ} {RELEASE}")
    build(machine, tmp_path)
    assert copies(tmp_path / "out") == []


def test_build_that_fails_leaves_no_copy_and_what_was_there(machine: Root, tmp_path: Path) -> None:
    change(machine, f"kernel {VMLINUZ} {RELEASE} uki")
    image = build(machine, tmp_path)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    packed_twice = kernelmaker.pack("gzip", kernelmaker.pack("gzip", kernelmaker.bzimage(RELEASE)))
    Path(machine.host(VMLINUZ)).write_bytes(packed_twice)
    with pytest.raises(HostError, match=r"what is packed in it is packed once more \(packed\)"):
        build(machine, tmp_path)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert record.read(image).kernel_copy in before


@pytest.mark.parametrize("kind", ["lz4", "lzo"])
def test_kernel_that_cannot_be_unpacked_is_an_error_of_the_build(kind: str, machine: Root, tmp_path: Path) -> None:
    Path(machine.host(VMLINUZ)).write_bytes(kernelmaker.pack(kind, kernelmaker.bzimage(RELEASE)))
    with pytest.raises(HostError, match=f"{kind}: a compression that cannot be unpacked here"):
        build(machine, tmp_path)


def test_copy_is_loaded_while_boot_is_not_mounted(machine: Root, tmp_path: Path) -> None:
    change(machine, NOAUTO)
    image = build(machine, tmp_path)
    (copy,) = copies(tmp_path / "out")
    change(machine, f"remove {VMLINUZ}\nfile /sys/kernel/kexec/crash_loaded 1")
    command = kexec.command(machine, config.Config(), image)
    assert command.words[2] == str(copy)
    state.write(machine, image=image, described=command.record, words=command.words)
    assert status.read(machine, config.Config()).stale == ()


def test_kernel_that_was_replaced_is_seen_in_spite_of_the_copy(machine: Root, tmp_path: Path) -> None:
    change(machine, NOAUTO)
    image = build(machine, tmp_path)
    change(machine, f"kernel {VMLINUZ} 6.1.0-36-amd64")
    with pytest.raises(LoadError, match=r"is kernel 6\.1\.0-36-amd64, the image was built for"):
        kexec.command(machine, config.Config(), image)


@pytest.mark.parametrize(
    ("content", "problem"), [(None, "no such file, but kexec loads it"), (b"x", "is not the kernel that the image")]
)
def test_copy_that_is_gone_or_changed_is_not_loaded(
    content: bytes | None, problem: str, machine: Root, tmp_path: Path
) -> None:
    change(machine, NOAUTO)
    image = build(machine, tmp_path)
    (copy,) = copies(tmp_path / "out")
    copy.unlink()
    if content is not None:
        copy.write_bytes(content)
    with pytest.raises(LoadError, match=problem) as caught:
        kexec.command(machine, config.Config(), image)
    assert caught.value.hint == "run: kdump-initramfs build"


def locked_down(root: Root, content: bytes) -> None:
    Path(root.host(VMLINUZ)).write_bytes(content)
    change(root, "file /sys/kernel/security/lockdown none [integrity] confidentiality")


def test_kernel_that_lost_its_signature_with_its_wrapping_is_not_tried_under_lockdown(
    machine: Root, tmp_path: Path
) -> None:
    """The kernel would refuse it, and has freed what was loaded by then."""
    locked_down(machine, kernelmaker.uki(kernelmaker.bzimage(RELEASE), uname=RELEASE, signed=True))
    image = build(machine, tmp_path)
    with pytest.raises(LoadError, match=r"has no signature of its own, but the kernel is locked down"):
        kexec.command(machine, config.Config(), image)


def test_signed_kernel_in_a_unified_image_is_loaded_under_lockdown(machine: Root, tmp_path: Path) -> None:
    locked_down(machine, kernelmaker.uki(kernelmaker.bzimage(RELEASE, signed=True), uname=RELEASE, signed=True))
    assert kexec.command(machine, config.Config(), build(machine, tmp_path)).words[3] == "-s"


def test_plain_copy_has_the_signature_of_its_original(machine: Root, tmp_path: Path) -> None:
    locked_down(machine, kernelmaker.bzimage(RELEASE))
    change(machine, NOAUTO)
    assert kexec.command(machine, config.Config(), build(machine, tmp_path)).words[3] == "-s"


def test_victim_of_a_rehearsal_has_what_kexec_gets(machine: Root, tmp_path: Path) -> None:
    change(machine, f"kernel {VMLINUZ} {RELEASE} uki\nelf /usr/sbin/mkfs.ext4")
    image = build(machine, tmp_path)
    (copy,) = copies(tmp_path / "out")
    command = kexec.command(machine, config.Config(), image, running=[])
    target = command.record.manifest.targets[0]
    output = str(tmp_path / "victim.img")
    victim.build(machine, config.Config(), command, target, storage.recipe(target, 1 << 30), {}, output)
    assert inspect.extract(output, str(copy)) == kernelmaker.bzimage(RELEASE)
    assert copies(tmp_path) == []


def test_record_without_a_copy_is_one_of_an_older_build(machine: Root, tmp_path: Path) -> None:
    image = build(machine, tmp_path)
    described = record.read(image)
    text = record.to_json(described).replace(b'"kernel_copy"', b'"was_not_there"')
    assert msgspec.json.decode(text, type=type(described)).kernel_copy == ""
    assert Kernel(release="1", image="/i", modules_dir="/m", initramfs_compressions=None).copied_because == ""
