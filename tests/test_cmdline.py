"""The capture kernel's command line."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdump_initramfs.errors import LoadError
from kdump_initramfs.loader import cmdline
from kdump_initramfs.loader.cmdline import APPENDED, MAX_BYTES, REMOVED


def capture(*running: str, machine: str = "x86_64", **more: Any) -> list[str]:
    return cmdline.capture(running, machine=machine, **more).split(" ")


def test_every_rule_has_a_reason_and_is_there_once() -> None:
    assert all(rule.reason for rule in (*REMOVED, *APPENDED))
    for rules in (REMOVED, APPENDED):
        names = [rule.parameter for rule in rules]
        assert len(names) == len(set(names))


def test_no_rule_appends_what_another_removes_without_replacing_it() -> None:
    kept = {"panic", "cma", "hugetlb_cma", "swiotlb", "vmcp_cma"}
    removed = {rule.parameter for rule in REMOVED}
    assert {rule.parameter.partition("=")[0] for rule in APPENDED} & removed <= kept


@pytest.mark.parametrize("parameter", ["ixgbe.max_vfs=4", "mlx5_core.probe-vf=1", "i40e.num_vfs", "scsi-mod.scan=none"])
def test_parameter_that_hurts_reaches_no_module(parameter: str) -> None:
    assert parameter not in capture(parameter)
    assert "max_vfs.x=1" in capture("max_vfs.x=1")


@pytest.mark.parametrize("rule", [rule for rule in REMOVED if not rule.machines], ids=lambda rule: str(rule.parameter))
def test_what_hurts_is_removed_on_every_machine(rule: cmdline.Rule) -> None:
    given_one = f"{rule.parameter}x=1" if rule.parameter.endswith(".") else f"{rule.parameter}=was-here"
    for machine in MAX_BYTES:
        line = capture("before", given_one, "after", machine=machine)
        assert given_one not in line
        assert line[:2] == ["before", "after"]


@pytest.mark.parametrize(
    "kept",
    [
        "console=ttyS0,115200n8",
        "roots=1",
        "rooted",
        "iommu=pt",
        "rdx.y=1",
        "memory=1",
        "mem_sleep_default=deep",
        "r",
        "=x",
    ],
)
def test_what_only_looks_alike_is_kept(kept: str) -> None:
    assert kept in capture(kept)


@pytest.mark.parametrize(
    "removed",
    ["softlockup-panic=1", "softlockup_panic=1", "log-buf-len=1M", '"root=/dev/a b"', 'init="/bin/sh -c x"', "ro"],
)
def test_dash_and_underscore_and_quotes_make_no_difference(removed: str) -> None:
    assert cmdline.capture([removed, "x"], machine="x86_64") == cmdline.capture(["x"], machine="x86_64")


# As administrators write them.
HURTS = """
kgdbwait kgdboc=ttyS0,115200 kgdboc_earlycon=pl011 ekgdboc=kbd kgdbdbgp=0 kgdbcon kgdbts=V1F100
kernelcore=1G kernelcore=mirror movablecore=50% movable_node highmem=512M
memtest memtest=17 numa=fake=4 numa=fake=2G
reserve_mem=2M:4096:trace kho=on kho_scratch=1G,1G,1G liveupdate=on
slab_debug slab_debug=FZPU slub_debug=FZ,kmalloc-64 debug_objects debug_pagealloc=on page_poison=1 kmemleak=on
noinitrd initrdmem=0x1000,64M retain_initrd bootconfig prompt_ramdisk=1
rootwait rootdelay=30 resumewait resumedelay=5 resume_offset=1234 ip=dhcp nfsroot=10.0.0.1:/srv
hugepages=1024 hugetlb_cma_only=1 cma_pernuma=64M numa_cma=0:64M thp_shmem=16K:always coherent_pool=64M
dhash_entries=1048576 tcpmhash_entries=4096 uhash_entries=65536 profile=2
ftrace=function ftrace_filter=*lock* trace_event=sched:* trace_buf_size=64M trace_instance=foo tp_printk stacktrace
locktorture.torture_type=mutex_lock rcutorture.nreaders=4 rcuscale.nreaders=8
kunit.enable=1 torture.verbose_sleep_duration=1
clocksource-wdtest.holdoff=1 fail_page_alloc=1,100,0,-1 failslab=1,1,0,-1 test_suspend=mem
initcall_debug boot_delay=100 pause_on_oops=60
sysctl.kernel.panic_on_oops=1 sysctl/kernel/softlockup_panic=1 kgdboc.kgdboc=ttyS0
kgdbts.kgdbts=V1F100 sysctl.vm.nr_hugepages=512
nmi_watchdog=panic,1 panic_print=0x7f smp.panic_on_ipistall=1 workqueue.panic_on_stall=3 kmsan.panic=1 kasan.fault=panic
isolcpus=nohz,domain,2-7 nohz_full=2-7 rcu_nocbs=2-7 irqaffinity=0,1 possible_cpus=64
ima_policy=secure_boot ima_appraise=enforce evm=fix
"""

# What the capture kernel needs as the crashed one did, and what looks like the above.
KEPT = """
console=ttyS0,115200n8 earlycon=pl011,0x9000000 earlyprintk=ttyS0 loglevel=7 ignore_loglevel
intel_iommu=on iommu=pt iommu.strict=0 amd_iommu=off pci=nommconf pcie_aspm=off acpi=force acpi_rsdp=0x7fe3014
nvme_core.default_ps_max_latency_us=0 megaraid_sas.msix_disable=1 module_blacklist=nouveau modprobe.blacklist=nouveau
lockdown=integrity module.sig_enforce=1 mem_encrypt=on efi=noruntime noefi reboot=pci nolapic tsc=unstable
numa_balancing=disable nmi_watchdog=0 kmemleak=off kasan=off kasan.mode=sync dma_debug=off
transparent_hugepage=madvise cryptomgr.notests nohibernate hashdist=0 memhp_default_state=online
raid=noautodetect cio_ignore=all,!condev ipv6.disable=1 sysctl_x=1 tracefs=1 kernelcores=1
"""


@pytest.mark.parametrize("given_one", HURTS.split())
def test_what_hurts_is_removed_as_it_is_written(given_one: str) -> None:
    for machine in MAX_BYTES:
        line = capture("before", given_one, "after", machine=machine)
        assert given_one not in line
        assert line[:2] == ["before", "after"]


@pytest.mark.parametrize("given_one", KEPT.split())
def test_what_is_needed_is_kept(given_one: str) -> None:
    for machine in MAX_BYTES:
        assert given_one in capture(given_one, machine=machine)


@pytest.mark.parametrize("given_one", ['"numa=fake=4"', 'numa="fake=4"', 'nmi-watchdog="panic"'])
def test_quotes_around_a_value_make_no_difference(given_one: str) -> None:
    assert cmdline.capture([given_one, "x"], machine="aarch64") == cmdline.capture(["x"], machine="aarch64")


@pytest.mark.parametrize(
    ("given_one", "machine"),
    [
        ("add_efi_memmap", "x86_64"),
        ("xmon=early", "ppc64le"),
        ("fadump=on", "ppc64le"),
        ("fadump_reserve_mem=1G", "ppc64le"),
        ("vmpanic=STOP", "s390x"),
    ],
)
def test_what_hurts_on_one_machine_is_removed_there(given_one: str, machine: str) -> None:
    assert given_one not in capture(given_one, machine=machine)
    assert given_one in capture(given_one, machine="aarch64")


def test_what_follows_two_dashes_is_not_for_the_kernel() -> None:
    line = capture("a", "--", "single", "b")
    assert line[0] == "a"
    assert not {"--", "single", "b"} & set(line)


def test_only_the_machines_that_know_a_parameter_get_it() -> None:
    lines = {machine: set(capture(machine=machine)) for machine in MAX_BYTES}
    assert {"irqpoll", "nokaslr", "mce=off", "reset_devices"} <= lines["x86_64"]
    assert "reset_devices" in lines["aarch64"]
    assert not {"irqpoll", "nokaslr", "mce=off", "numa=off"} & lines["aarch64"]
    assert not {"reset_devices", "irqpoll", "nokaslr"} & lines["s390x"]
    assert "vmcp_cma=0" in lines["s390x"]
    assert all("panic=10" in line and "nr_cpus=1" in line for line in lines.values())


def test_parameter_of_one_machine_is_kept_on_others() -> None:
    assert "prot_virt=1" not in capture("prot_virt=1", machine="s390x")
    assert "prot_virt=1" in capture("prot_virt=1", machine="x86_64")


@pytest.mark.parametrize(
    ("machine", "cpus", "apicid", "expected"),
    [
        ("x86_64", 1, 0, ["nr_cpus=1"]),
        ("x86_64", 4, 0, ["nr_cpus=4", "disable_cpu_apicid=0"]),
        ("x86_64", 4, 12, ["nr_cpus=4", "disable_cpu_apicid=12"]),
        ("x86_64", 4, None, ["nr_cpus=4"]),
        ("aarch64", 4, 0, ["nr_cpus=4"]),
    ],
)
def test_several_cpus_leave_out_the_one_that_booted(
    machine: str, cpus: int, apicid: int | None, expected: list[str]
) -> None:
    assert capture(machine=machine, cpus=cpus, boot_apicid=apicid)[-len(expected) :] == expected


def test_configured_parameters_are_removed_and_come_last() -> None:
    line = capture("console=tty0", "x=1", remove=["console"], append=["panic=0", 'y="a b"'])
    assert "console=tty0" not in line
    assert " ".join(line).endswith('nr_cpus=1 panic=0 y="a b"')


@pytest.mark.parametrize("machine", sorted(MAX_BYTES))
def test_longest_line_that_fits_is_taken_and_one_more_byte_is_not(machine: str) -> None:
    free = MAX_BYTES[machine] - 64 - len(cmdline.capture((), machine=machine)) - 2
    assert cmdline.capture(["x" * free], machine=machine)
    with pytest.raises(LoadError, match=f"a {machine} kernel takes less than {MAX_BYTES[machine]}") as caught:
        cmdline.capture(["x" * (free + 1)], machine=machine)
    assert "kernel.remove" in str(caught.value.hint)


def test_length_is_counted_in_bytes() -> None:
    with pytest.raises(LoadError):
        cmdline.capture(["é" * 900], machine="x86_64")


@given(st.lists(st.binary(min_size=1, max_size=8), max_size=8))
def test_any_command_line_gives_one(running: list[bytes]) -> None:
    words = [word.decode("utf-8", "surrogateescape") for word in running]
    assert " panic=10 " in cmdline.capture(words, machine="x86_64")
