"""Drivers of generic images: what is chosen, and that the shell finds after the crash what modprobe would find."""

import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from kdump_initramfs import build, config
from kdump_initramfs.host.root import Root
from kdump_initramfs.image import drivers, kmod
from kdump_initramfs.model import DriverSet, Module
from tests import capture, kernels, programs
from tests.test_kmod import alias_example

RELEASE = "6.9.0-test"
DIR = f"/lib/modules/{RELEASE}"
DEP = """\
kernel/drivers/ata/ahci.ko: kernel/drivers/ata/libata.ko
kernel/drivers/ata/libata.ko:
kernel/drivers/ata/sata-tape.ko: kernel/drivers/ata/libata.ko
kernel/drivers/ata_like/other.ko:
kernel/drivers/block/loop.ko:
kernel/drivers/net/nic.ko:
kernel/drivers/scsi/offload.ko: kernel/drivers/net/nic.ko
kernel/lib/crc.ko:
"""
ALIAS = """\
alias pci:v*d*sv*sd*bc01sc06i01* ahci
alias pci:v00001077d*sv*sd*bc*sc*i* offload
alias pci:v00001AF4d*sv*sd*bc*sc*i* other
alias scsi:t-0x01* sata-tape
alias devname:loop-control loop
alias char-major-7-* loop
alias pci:v00001078d*sv*sd*bc*sc*i* built_in
"""
STORAGE = DriverSet(
    directories=("kernel/drivers/ata", "kernel/drivers/block", "kernel/drivers/scsi"),
    independent_of=("kernel/drivers/net",),
)


@pytest.fixture
def modules(tmp_path: Path) -> kmod.Modules:
    directory = tmp_path / DIR.lstrip("/")
    directory.mkdir(parents=True)
    (directory / "modules.dep").write_text(DEP)
    (directory / "modules.alias").write_text(ALIAS)
    (directory / "modules.softdep").write_text("softdep ahci pre: crc\n")
    return kmod.Modules(Root(str(tmp_path)), DIR)


def names(found: tuple[kmod.Module, ...]) -> list[str]:
    return [module.name for module in found]


def test_what_devices_ask_for_is_chosen_with_what_it_needs(modules: kmod.Modules) -> None:
    chosen = drivers.choose(modules, [STORAGE])
    assert {name: names(order) for name, order in chosen.order.items()} == {
        "ahci": ["libata", "crc", "ahci"],
        "sata_tape": ["libata", "sata_tape"],
    }
    assert names(chosen.modules) == ["libata", "crc", "ahci", "sata_tape"]
    assert chosen.aliases == (("pci:v*d*sv*sd*bc01sc06i01*", "ahci"), ("scsi:t-0x01*", "sata_tape"))


def test_what_is_left_out_by_name_is_not_there(modules: kmod.Modules) -> None:
    tapeless = DriverSet(directories=STORAGE.directories, without=("sata_tape",))
    assert drivers.choose(modules, [tapeless]).order.keys() == {"ahci", "offload"}
    assert drivers.choose(modules, [STORAGE], omit=["ahci"]).order.keys() == {"sata_tape"}


def test_without_a_set_nothing_is_chosen(modules: kmod.Modules) -> None:
    assert drivers.choose(modules, []).modules == ()


def test_the_order_is_a_line_of_files_for_each_driver(modules: kmod.Modules) -> None:
    text = drivers.order_text(drivers.choose(modules, [STORAGE]), "/m")
    assert text == "ahci: /m/libata.ko /m/crc.ko /m/ahci.ko\nsata_tape: /m/libata.ko /m/sata_tape.ko\n"


# --- the function of the shell ----------------------------------------------------------------------------------------


def answers(script: str, devices: list[str]) -> list[list[str]]:
    """Return the drivers that busybox's shell finds for each device."""
    programs.need("busybox")
    # A line of its own ends the answers for each.
    loop = 'while read -r device; do drivers_of "$device"; echo .; done'
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(script)
        file.flush()
        words = ["busybox", "sh", "-euc", f". {file.name}\n{loop}"]
        text = "".join(f"{device}\n" for device in devices)
        found = subprocess.run(words, input=text, capture_output=True, text=True, check=True).stdout
    return [answer.split() for answer in found.split(".\n")[:-1]]


@pytest.mark.parametrize(
    ("pattern", "modalias", "matches"),
    [
        ("virtio:d00000002v*", "virtio:d00000002v00001AF4", True),
        ("virtio:d00000002v*", "virtio:d00000012v00001AF4", False),
        ("usb:v152Dp0567d011[4-7]dc*", "usb:v152Dp0567d0115dc00", True),
        ("usb:v152Dp0567d011[4-7]dc*", "usb:v152Dp0567d0118dc00", False),
        ("usb:v152Dp0567d011[!4]dc*", "usb:v152Dp0567d0114dc00", False),
        ("usb:v152Dp0567d011[!4]dc*", "usb:v152Dp0567d0115dc00", True),
        ("pci:v00008086d????sv*", "pci:v00008086d1234sv1", True),
        ("pci:v00008086d????sv*", "pci:v00008086d123sv1", False),
        ("platform:sdhci-x", "platform:sdhci_x", True),
        ("acpi*:PNP0A.8:*", "acpi:PNP0A.8:", True),
        ("acpi*:PNP0A.8:*", "acpi:PNP0AX8:", False),
        ("of:N*T*Ca/b+c(d)^$Cx", "of:NfooTbarCa/b+c(d)^$Cx", True),
        ("of:N*T*Ca/b+c(d)^$Cx", "of:NfooTbarCaXbb+c(d)^$Cx", False),
        ("pci:v*d*bc01sc06i01*", "xpci:v1d1bc01sc06i01", False),
        ("scsi:t-0x00", "scsi:t-0x00more", False),
        ("of:N$(reboot)`x`;'\"&|<>#~ *", "of:N$(reboot)`x`;'\"&|<>#~ y", True),
    ],
)
def test_a_pattern_matches_as_fnmatch_does(pattern: str, modalias: str, matches: bool) -> None:  # noqa: FBT001
    script = drivers.alias_script([("pci:v00000001d*", "before"), (pattern, "the_driver"), ("usb:v0001p*", "behind")])
    assert answers(script, [modalias]) == [["the_driver"] * matches]


def test_a_device_with_several_drivers_gets_them_all() -> None:
    patterns = [("pci:v00008086d*", "one"), ("pci:v*d*bc01*", "two"), ("pci:v00008086d00001234*", "three")]
    devices = ["pci:v00008086d00001234bc01", "pci:v00008086d00000001bc02"]
    found = answers(drivers.alias_script(patterns), devices)
    assert [sorted(each) for each in found] == [["one", "three", "two"], ["one"]]


def test_the_shell_finds_for_devices_of_real_kernels_what_modprobe_would() -> None:
    for release, root in kernels.roots().items():
        modules = kmod.Modules(Root(root), f"/lib/modules/{release}")
        chosen = drivers.choose(modules, [DriverSet(directories=("kernel/drivers",))])
        devices = sorted({alias_example(pattern) for pattern, _ in chosen.aliases[::11]})
        assert len(devices) > 100
        found = answers(drivers.alias_script(chosen.aliases), devices)
        assert [set(each) for each in found] == [
            {name for name in modules.find(kmod.normal(device)) if name in chosen.order} for device in devices
        ]


@pytest.mark.parametrize("kind", ["generic", "new", "cloud"])
def test_network_drivers_come_along_where_they_are_asked_for(kind: capture.KernelKind) -> None:
    words = [*capture.kernel_overrides(capture.release(kind)), "image.mode=generic"]
    host = capture.facts(capture.target())

    def modules(*more: str) -> set[str]:
        planned = build.plan(Root(), config.load(overrides=[*words, *more]), facts_of=host)
        return {os.path.basename(entry.path) for entry in planned.entries if isinstance(entry, Module)}

    without, found = modules(), modules("image.network_drivers=true")
    assert without < found
    assert "virtio_net.ko" in found - without
    if kind != "cloud":
        assert found - without >= {"e1000e.ko", "mlx5_core.ko", "igb.ko", "vmxnet3.ko", "realtek.ko"}
    assert not {"mac80211.ko", "iwlwifi.ko", "cfg80211.ko"} & found
