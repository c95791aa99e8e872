"""Kernel images as distributions build them: what they tell, and what comes out of them."""

import os
import subprocess
from pathlib import Path

import pytest

from kdump_initramfs.formats import kernel_image, kernel_payload
from kdump_initramfs.formats.kernel_image import KernelImage
from tests import kernelmaker, kernels, programs
from tests.test_kernel_image import attempt, read, told, unpacked


def test_real_kernels_of_x86_tell_what_they_are() -> None:
    for release, root in kernels.roots().items():
        with open(f"{root}/boot/vmlinuz-{release}", "rb") as stream:
            found = kernel_image.read(stream, release)
        assert (found.format, found.machine, found.release) == ("bzImage", "x86_64", release)
        assert (found.is_relocatable, found.has_64bit_entry, found.has_efi_handover) == (True, True, True)
        assert found.compression in ("xz", "zstd", "lz4")


def test_real_kernel_unpacks_to_what_says_its_release() -> None:
    packed = 0
    for release, root in kernels.roots().items():
        with open(f"{root}/boot/vmlinuz-{release}", "rb") as stream:
            found = kernel_image.read(stream, release)
            if found.compression == "zstd":
                packed += 1
                anonymous = KernelImage(
                    format="bzImage",
                    compression=found.compression,
                    payload_offset=found.payload_offset,
                    payload_bytes=found.payload_bytes,
                )
                assert kernel_payload.release(stream, anonymous, release) == release
    if not packed:
        pytest.skip(f"none of {', '.join(kernels.roots())} is packed by zstd")


# Where systemd-boot-efi of Debian has the part of a unified image that runs first.
STUB = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub"


def test_real_unified_image_gives_back_its_kernel(tmp_path: Path) -> None:
    """Made as systemd-stub(7) tells it, by objcopy."""
    programs.need("objcopy")
    if not os.path.isfile(STUB):
        pytest.skip(f"{STUB}: not installed (systemd-boot-efi)")
    release, root = next(iter(kernels.roots().items()))
    image = Path(f"{root}/boot/vmlinuz-{release}")
    (tmp_path / "uname").write_text(f"{release}\n")
    (tmp_path / "initrd").write_bytes(bytes(100_000))
    sections = {".uname": tmp_path / "uname", ".linux": image, ".initrd": tmp_path / "initrd"}
    words = ["objcopy"]
    for number, (name, path) in enumerate(sections.items(), start=1):
        words += ["--add-section", f"{name}={path}", "--change-section-vma", f"{name}={number * 0x4000000:#x}"]
    subprocess.run([*words, STUB, str(tmp_path / "it.efi")], check=True)
    content = (tmp_path / "it.efi").read_bytes()
    found = read(content)
    assert (found.format, found.machine, found.release) == ("uki", "x86_64", release)
    assert unpacked(content) == image.read_bytes()


FOREIGN = {
    "i386": ("bzImage", "i686"),
    "arm64": ("Image", "aarch64"),
    "ppc64el": ("vmlinux", "ppc64le"),
    "s390x": ("s390", "s390x"),
    "riscv64": ("Image", "riscv64"),
}


@pytest.mark.parametrize("architecture", FOREIGN)
def test_real_kernel_of_another_architecture_tells_what_it_is(architecture: str) -> None:
    path, release = kernels.foreign(architecture)
    with open(path, "rb") as stream:
        found = kernel_image.read(stream, path)
        assert (found.format, found.machine) == FOREIGN[architecture]
        assert kernel_payload.release(stream, found, path) == release
        assert kernel_payload.config(stream, found, path) is None


@pytest.mark.parametrize("architecture", FOREIGN)
def test_real_kernel_that_is_cut_off_is_no_exception(architecture: str) -> None:
    path, _ = kernels.foreign(architecture)
    with open(path, "rb") as stream:
        head = stream.read(0x14000)
    for size in (0, 63, 64, 0x10000, 0x10010, 0x10430, os.path.getsize(path) // 2):
        attempt(head[:size])


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_real_image_packed_as_zboot_comes_out_as_it_was(kind: str) -> None:
    path, release = kernels.foreign("arm64")
    whole = Path(path).read_bytes()
    content = kernelmaker.zboot("aarch64", kind, whole)
    assert told(content)[0] == release
    assert unpacked(content) == whole
