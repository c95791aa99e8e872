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
