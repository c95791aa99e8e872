"""What a failed rehearsal says: the likely cause on the console, what to try, and the last lines."""

import pytest

from kdump_initramfs.errors import ConfigError
from kdump_initramfs.rehearsal import diagnose, rehearse, reservation
from kdump_initramfs.rehearsal.rehearse import Options, Result
from kdump_initramfs.rehearsal.verify import Check
from tests import command

VICTIM = """\
[    0.000000] Linux version 6.1.0-35-cloud-amd64 (debian-kernel@lists.debian.org)
[    0.000000] Command line: console=ttyS0 crashkernel=64M panic=1
[    0.900000] Run /init as init process
rehearsal: making the storage
rehearsal: loading the capture kernel
"""
CRASH = """\
rehearsal: crashing
[    9.100000] sysrq: Trigger a crash
[    9.100001] Kernel panic - not syncing: sysrq triggered crash
[    9.100002] CPU: 0 PID: 1 Comm: sh Not tainted 6.1.0-35-cloud-amd64
"""
START = """\
[    0.000000] Linux version 6.1.0-35-cloud-amd64 (debian-kernel@lists.debian.org)
[    0.400000] Trying to unpack rootfs image as initramfs...
"""
INIT = "[    0.900000] Run /init as init process\nkdump: [1.05] capture environment of kernel 6.1.0-35-cloud-amd64\n"
PANIC = "[    2.000000] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100\n"

# What the capture kernel said, with the likely cause and what to try.
CAPTURES = {
    "nothing": ("", "did not start, or said nothing", "--crashkernel"),
    "out of memory": (
        f"{START}{INIT}[    1.5] Out of memory: Killed process 88 (makedumpfile) total-vm:80000kB\n",
        "ran out of memory",
        "--crashkernel",
    ),
    "no process left": (
        f"{START}[    0.8] Kernel panic - not syncing: System is deadlocked on memory\n",
        "ran out of memory",
        "--crashkernel",
    ),
    "killer": (f"{START}{INIT}[    1.5] insmod invoked oom-killer: gfp_mask=0xcc0\n", "ran out of memory", "estimate"),
    "a program": (f"{START}{INIT}sh: can't fork: Cannot allocate memory\n", "ran out of memory", "--crashkernel"),
    "page": (
        f"{START}{INIT}[  1.5] swapper/0: page allocation failure: order:9, mode:0xcc0\n",
        "ran out of memory",
        "--crashkernel",
    ),
    "unpacking": (
        f"{START}[    0.6] Initramfs unpacking failed: write error\n{PANIC}",
        "ran out of memory while it unpacked the image",
        "--crashkernel",
    ),
    "another compression": (
        f"{START}[    0.6] Initramfs unpacking failed: compression method zstd not configured\n{PANIC}",
        "cannot unpack the image: compression method zstd not configured",
        "image.compression",
    ),
    "no initramfs": (
        f"{START}[    0.9] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)\n",
        "found no /init",
        "CONFIG_BLK_DEV_INITRD",
    ),
    "no init": (
        f"{START}[    0.9] Kernel panic - not syncing: No working init found.  Try passing init= option to kernel.\n",
        "found no /init",
        "reserve more",
    ),
    "no device": (
        (
            f"{START}{INIT}kdump: [6.1] no device with file system UUID 7b0e4ff0 after 5 s; there are: none\n"
            "kdump: [6.2] target 0 failed\n"
        ),
        "no device with file system UUID 7b0e4ff0",
        "image.extra_modules",
    ),
    "a request": (
        (
            f"{START}{INIT}kdump: [3.1] the kernel asked for crypto-xxhash64, which is not in this image\n"
            "kdump: [6.1] cannot mount vda1 (btrfs)\nkdump: [6.2] target 0 failed\n"
        ),
        "the kernel asked for crypto-xxhash64",
        "image.extra_modules",
    ),
    "no room": (
        f"{START}{INIT}kdump: [4.1] no room for a vmcore: -5 bytes beyond what must stay free\n",
        "did not fit",
        "vmcore.dump_level",
    ),
    "mount": (
        f"{START}{INIT}kdump: [4.1] cannot mount vda1 (xfs)\n",
        "could not be mounted: vda1 (xfs)",
        "lines before",
    ),
    "deadline": (f"{START}{INIT}kdump: [600.0] the deadline of 600 s has passed\n", "600 s", "capture.deadline_s"),
    "budget": (
        f"{START}{INIT}kdump: [90.0] target 1 has not come to an end within 89 s\n",
        "not done within 89 s",
        "budget_s",
    ),
    "own words": (
        f"{START}{INIT}kdump: [3.0] nothing could be saved: vda1 takes no write\n",
        "vda1 takes no write",
        "--keep",
    ),
    "collector": (f"{START}{INIT}kdump: [3.0] collector copy failed: stall (status 124)\n", "copy failed", "--keep"),
    "a panic": (
        f"{START}[    0.7] Kernel panic - not syncing: Timeout: Not all CPUs entered broadcast exception handler\n",
        "panicked: Timeout: Not all CPUs",
        "kernel.append",
    ),
    "a fault": (
        f"{START}[    0.7] BUG: unable to handle page fault for address: ffff\n",
        "has a fault",
        "kernel.version",
    ),
    "no words": (f"{START}{INIT}kdump: [3.0] saved to target 0\n", "does not tell", "--keep"),
}


@pytest.mark.parametrize(("said", "cause", "remedy"), CAPTURES.values(), ids=CAPTURES.keys())
def test_the_console_tells_why(said: str, cause: str, remedy: str) -> None:
    found = diagnose.diagnose(VICTIM + CRASH + said)
    assert cause in found.cause
    assert remedy in found.remedy
    assert found.lines
    assert found.lines[-1] in (said or CRASH)
    assert len(found.lines) <= 20


@pytest.mark.parametrize(
    ("said", "cause", "remedy"),
    [
        ("crashkernel reservation failed - No suitable area found.", "could not reserve the memory", "--memory"),
        ("Could not find a free area of memory of 0x2b7a000 bytes...", "do not fit", "--crashkernel"),
        ("kexec_file_load failed: Cannot assign requested address", "do not fit", "--crashkernel"),
        ("[ 0.5] Out of memory: Killed process 1 (init)", "the guest ran out of memory", "--memory"),
        ("[ 0.5] Kernel panic - not syncing: VFS: Unable to mount root fs", "before the crash", "--memory"),
        ("", "did not come to the crash", "--timeout"),
    ],
)
def test_what_happens_before_the_crash_is_not_the_capture_kernel(said: str, cause: str, remedy: str) -> None:
    found = diagnose.diagnose(f"{VICTIM}{said}\n")
    assert cause in found.cause
    assert remedy in found.remedy


def test_the_panic_that_was_asked_for_is_no_cause() -> None:
    found = diagnose.diagnose(VICTIM + CRASH + START + INIT)
    assert "panicked" not in found.cause


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        ("", "did not end"),
        (START + INIT, "did not end in time"),
        (START + PANIC, "the capture kernel panicked"),
    ],
)
def test_a_guest_that_does_not_end(said: str, cause: str) -> None:
    assert cause in diagnose.diagnose(VICTIM + CRASH + said, timed_out=True).cause


@pytest.mark.parametrize("console", ["", "\n", "\0\xff", "rehearsal: crashing", "x" * 100_000, "{0}{nothing}\n"])
def test_any_console_has_an_answer(console: str) -> None:
    found = diagnose.diagnose(console)
    assert found.cause
    assert found.remedy


def test_what_is_shown_is_the_end_and_obeyed_by_no_terminal() -> None:
    said = "".join(f"\x1b[31mline {number}\x1b[0m\x1b]0;title\x07\r\n\n" for number in range(100))
    found = diagnose.diagnose(VICTIM + CRASH + START + said)
    assert found.lines == tuple(f"line {number}" for number in range(80, 100))


def test_words_of_the_console_are_no_pattern() -> None:
    said = f"{START}[ 0.7] Kernel panic - not syncing: {{0}} {{broken}} %s\n"
    assert diagnose.diagnose(VICTIM + CRASH + said).cause == "the capture kernel panicked: {0} {broken} %s"


def test_the_summary_has_cause_remedy_and_lines() -> None:
    result = Result(
        kernel_release="6.1",
        image="/image",
        accel="tcg",
        crashkernel="64M",
        checks=(Check(name="one dump was saved", passed=False, detail="0 dumps; on the disk: nothing"),),
        seconds={},
        diagnosis=diagnose.diagnose(VICTIM + CRASH + CAPTURES["out of memory"][0]),
    )
    lines = list(rehearse.summary(result))
    assert "likely cause: the capture kernel ran out of memory" in lines
    assert any(line.startswith("try: reserve more: --crashkernel") for line in lines)
    assert lines[lines.index("the last lines of the console:") + 1].startswith("  | [    0.000000] Linux version")


# --- what no guest is needed for ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("lots", "not a value that the kernel accepts"),
        ("0", "reserves nothing"),
        ("0M", "reserves nothing"),
        ("0x0", "reserves nothing"),
        ("-1", "not a value"),
        ("1X", "not a value"),
        ("", "not a value"),
        (" 64M", "not a value"),
        ("64M ", "not a value"),
        ("64 M", "not a value"),
        ("64MB", "not a value"),
        ("6.4M", "not a value"),
        ("64M,up", "not a value"),
        ("64M quiet", "not a value"),
        ("٦٤M", "not a value"),
        ("64M@", "not a value"),
        ("2G-:64M", "reserves nothing"),
        ("64", "that is 64 bytes"),
        ("512K", "that is 524288 bytes"),
        ("1024M", "does not fit"),
        ("1G", "does not fit"),
        ("1T", "does not fit"),
        ("600M,high crashkernel=500M,low", "does not fit"),
        ("512M-2G:1G", "does not fit"),
    ],
)
def test_a_reservation_that_cannot_be_made_is_refused(asked: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        reservation.check(asked, 1024)
    assert str(caught.value).startswith(f"--crashkernel {asked}: ")
    assert said in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    "asked",
    [
        *("64M", "192m", "65536K", "0x4000000", "0x4000K", "67108864", "256M@16M", "256M,high", "100M,low", "128M,cma"),
        *("512M-2G:64M,2G-:128M", "0-:64M", "1G-4G:192M@16M", "256M,high crashkernel=72M,low"),
    ],
)
def test_a_reservation_that_the_kernel_takes_is_taken(asked: str) -> None:
    reservation.check(asked, 1024)


@pytest.mark.parametrize("options", [{"memory_mib": 0}, {"memory_mib": -1}, {"timeout_s": 0}, {"timeout_s": -5}])
def test_numbers_of_which_no_guest_can_be_made(options: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="not 1 or more"):
        rehearse.check_options(Options(**options))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "words", [("--crashkernel", "lots"), ("--crashkernel=-1",), ("--memory", "0"), ("--timeout", "0")]
)
def test_it_is_refused_before_anything_else(words: tuple[str, ...]) -> None:
    problem, _ = command.complaint(command.run("rehearse", "6.1.0", "--image", "/no/such/image", *words))
    assert problem.startswith(words[0].partition("=")[0])
