"""Drivers of generic images: what is chosen, and that the shell finds after the crash what modprobe would find."""

import os
import subprocess
import tempfile
from pathlib import Path

import pytest
from msgspec.structs import replace

from kdump_initramfs import build, config, hooks
from kdump_initramfs.errors import Problems
from kdump_initramfs.formats import depmod, modprobe_conf
from kdump_initramfs.host import probe
from kdump_initramfs.host.root import Root
from kdump_initramfs.image import drivers, kmod
from kdump_initramfs.model import DriverSet, Module
from tests import capture, elfmaker, kernels, programs
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


# --- drivers that are no part of the kernel's tree --------------------------------------------------------------------

# What a vendor's driver calls, by kind.
HBA = ("scsi_host_alloc", "scsi_add_host_with_dma", "pci_enable_device")
NIC = ("alloc_etherdev_mqs", "register_netdev", "pci_enable_device")


def vendor(tmp_path: Path, dep: str, alias: str, **calls: tuple[str, ...]) -> kmod.Modules:
    """Return the kernel of above with more modules; `calls` are those of modules by name, the others call nothing."""
    directory = tmp_path / DIR.lstrip("/")
    directory.mkdir(parents=True)
    replaced = {kmod.module_name(line.partition(":")[0]) for line in dep.splitlines()}
    kept = [line for line in DEP.splitlines() if kmod.module_name(line.partition(":")[0]) not in replaced]
    (directory / "modules.dep").write_text("".join(f"{line}\n" for line in kept) + dep)
    (directory / "modules.alias").write_text(ALIAS + alias)
    (directory / "modules.order").write_text("".join(f"{line.partition(':')[0]}\n" for line in DEP.splitlines()))
    for line in dep.splitlines():
        path = line.partition(":")[0]
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        name = kmod.module_name(path)
        (directory / path).write_bytes(elfmaker.calling(*calls.get(name, ()), own=["cleanup_module"]))
    return kmod.Modules(Root(str(tmp_path)), DIR)


@pytest.mark.parametrize(
    ("dep", "alias", "calls", "expected"),
    [
        # It replaces a module of the kernel, wherever it is.
        ("updates/ahci.ko: kernel/drivers/ata/libata.ko\n", "", {}, "ahci"),
        ("updates/dkms/ahci.ko: kernel/drivers/ata/libata.ko\n", "", {}, "ahci"),
        ("extra/vendor-ahci/ahci.ko: kernel/drivers/ata/libata.ko\n", "", {}, "ahci"),
        ("weak-updates/ahci/ahci.ko: kernel/drivers/ata/libata.ko\n", "", {}, "ahci"),
        # The vendor has kept the directory.
        ("extra/x/drivers/scsi/x.ko:\n", "alias pci:v0000ABCDd*sv*sd*bc*sc*i* x\n", {}, "x"),
        ("updates/drivers/ata/x.ko:\n", "alias pci:v0000ABCDd*sv*sd*bc*sc*i* x\n", {}, "x"),
        # It is for mass storage, or for the devices of a driver that is.
        ("extra/x.ko:\n", "alias pci:v0000ABCDd*sv*sd*bc01sc04i* x\n", {}, "x"),
        ("misc/x.ko:\n", "alias scsi:t-0x01* x\n", {}, "x"),
        # It does what such a driver does, or what it needs does.
        ("extra/x.ko:\n", "alias pci:v0000ABCDd*sv*sd*bc*sc*i* x\n", {"x": HBA}, "x"),
        ("kernel/extra/x.ko:\n", "alias pci:v0000ABCDd*sv*sd*bc*sc*i* x\n", {"x": ("device_add_disk",)}, "x"),
        ("vmware/x.ko: vmware/y.ko\nvmware/y.ko:\n", "alias pci:v0000ABCDd*sv*sd*bc*sc*i* x\n", {"y": HBA}, "x"),
        # It does not.
        ("extra/x.ko:\n", "alias pci:v0000ABCDd*sv*sd*bc*sc*i* x\n", {"x": NIC}, ""),
        ("updates/dkms/x.ko:\n", "alias pci:v0000ABCDd*sv*sd*bc03sc00i* x\n", {}, ""),
        ("updates/dkms/nic.ko:\n", "alias pci:v0000ABCDd*sv*sd*bc02sc00i* nic\n", {"nic": NIC}, ""),
        # It needs what this set must not need.
        ("extra/x.ko: kernel/drivers/net/nic.ko\n", "alias pci:v0000ABCDd*sv*sd*bc01sc04i* x\n", {"x": HBA}, ""),
        ("extra/x.ko: extra/nic.ko\nextra/nic.ko:\n", "alias pci:v0000ABCDd*sv*sd*bc01sc04i* x\n", {"x": HBA}, ""),
    ],
)
def test_a_driver_from_outside_of_the_tree_belongs_by_evidence(
    dep: str, alias: str, calls: dict[str, tuple[str, ...]], expected: str, tmp_path: Path
) -> None:
    wanted = replace(STORAGE, calls=("scsi_add_host_with_dma", "device_add_disk"), devices=("pci:*bc01sc*",))
    modules = vendor(tmp_path, dep, alias, **calls)
    chosen = drivers.choose(modules, [wanted])
    assert chosen.order.keys() == {"ahci", "sata_tape", *filter(None, [expected])}
    if expected:
        assert chosen.order[expected][-1].path == f"{DIR}/{dep.partition(':')[0]}"


def test_a_link_of_weak_updates_leads_to_the_file(tmp_path: Path) -> None:
    dep = "weak-updates/x.ko:\n"
    modules = vendor(tmp_path, dep, "alias pci:v0000ABCDd*sv*sd*bc01sc04i* x\n")
    link = tmp_path / DIR.lstrip("/") / "weak-updates/x.ko"
    link.rename(tmp_path / "x.ko")
    (tmp_path / "lib/modules/6.8.0/extra").mkdir(parents=True)
    (tmp_path / "x.ko").rename(tmp_path / "lib/modules/6.8.0/extra/x.ko")
    link.symlink_to("/lib/modules/6.8.0/extra/x.ko")
    wanted = replace(STORAGE, devices=("pci:*bc01sc*",))
    found = drivers.choose(modules, [wanted]).order["x"][-1]
    assert modules.content(found.path) == elfmaker.calling(own=["cleanup_module"])


def test_real_drivers_call_what_tells_of_them() -> None:
    """The evidence for drivers from elsewhere, tried on those of the kernel: as if they were a vendor's."""
    wanted = hooks_of_drivers()
    for release, root in kernels.roots().items():
        modules = kmod.Modules(Root(root), f"/lib/modules/{release}")
        callers = {
            "ahci",
            "megaraid_sas",
            "mpt3sas",
            "nvme",
            "sdhci_pci",
            "virtio_blk",
            "virtio_scsi",
            "aacraid",
            "hpsa",
        }
        there = [name for name in sorted(callers) if name in modules.files]
        assert there
        calls = {name: modules.calls(modules.files[name][0]) & set(wanted.calls) for name in there}
        assert all(calls.values()), calls
        others = [name for name in ("e1000e", "snd_hda_intel", "i915", "virtio_net") if name in modules.files]
        assert not any(modules.calls(modules.files[name][0]) & set(wanted.calls) for name in others)


def hooks_of_drivers() -> DriverSet:
    """Return the set of the hook for storage."""
    host = capture.facts(capture.target())
    settings = config.load(overrides=[*capture.kernel_overrides(capture.release("generic")), "image.mode=generic"])
    runs = hooks.contribute(settings, probe.read(Root(), settings, facts_of=host), root=Root(), problems=Problems())
    return next(run.contribution.drivers for run in runs if run.name == "25-drivers" and run.contribution.drivers)


# --- what the site wants for no device --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ("blacklist ahci", {"sata_tape"}),
        ("blacklist sata-tape", {"ahci"}),
        # What another driver needs is loaded.
        ("blacklist libata", {"ahci", "sata_tape"}),
        ("install libata /bin/false", set()),
        ("install ahci /bin/true", {"sata_tape"}),
        ("install ahci /sbin/modprobe --ignore-install ahci && echo loaded", {"ahci", "sata_tape"}),
        ("alias ahci off", {"sata_tape"}),
        ("alias pci:v0000ABCDd* ahci", {"ahci", "sata_tape"}),
    ],
)
def test_what_is_blacklisted_gets_no_device(settings: str, expected: set[str], tmp_path: Path) -> None:
    vendor(tmp_path, "", "")
    settled = kmod.Modules(
        Root(str(tmp_path)), DIR, settings=modprobe_conf.parse([("/etc/modprobe.d/x.conf", settings)])
    )
    chosen = drivers.choose(settled, [STORAGE])
    assert chosen.order.keys() == expected
    assert (("pci:v0000ABCDd*", "ahci") in chosen.aliases) == ("ABCD" in settings)


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
            {name for name in modules.find(depmod.normal(device)) if name in chosen.order} for device in devices
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
