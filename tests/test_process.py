"""What may hang: sessions that are ended when their time is over, or when nothing comes of them."""

import time
from pathlib import Path

import pytest

from tests import capture
from tests.capture import DROP_CACHES, LOG, Environment

pytestmark = pytest.mark.skipif(not capture.can_enter(), reason="needs root that may make namespaces and device nodes")

LIBRARY = "/lib/kdump/process.sh"


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    directory = tmp_path_factory.mktemp("image")
    output = directory / "capture.img"
    capture.build_image(capture.release("cloud"), capture.facts(capture.target()), output, "image.compression=none")
    return Environment.unpack(output, directory / "root")


@pytest.fixture
def environment(unpacked: Environment, tmp_path: Path) -> Environment:
    made = unpacked.copy_to(tmp_path / "root")
    # The processes of the chroot are not at /proc there.
    made.write(LIBRARY, made.read(LIBRARY).replace("/proc/", "/.proc/").replace("/.proc/sys/", "/proc/sys/"))
    return made


@pytest.mark.parametrize(("command", "status"), [("true", 0), ("sh -c 'exit 7'", 7), ("sh -c 'kill -9 $$'", 137)])
def test_status_of_what_ends_in_time_is_returned(command: str, status: int, environment: Environment) -> None:
    ended = environment.shell(f"bounded 20 {command}; echo $?; cat /run/kdump/sessions")
    assert ended.output == f"{status}\n"


# What a hook may have left running when its time is over.
HANGING = {
    "itself": "sleep 1000",
    "a child": "sh -c 'sleep 1000; :'",
    "one that does not listen": "sh -c \"trap '' TERM INT HUP; sleep 1000; :\"",
    "one in a session of its own": "sh -c '. /lib/kdump/lib.sh; . /lib/kdump/process.sh; bounded 500 sleep 1000'",
    "one that was watched": "sh -c '. /lib/kdump/lib.sh; . /lib/kdump/process.sh; watched 500 true sleep 1000'",
}


# What is killed ends a moment later, and may then wait for process 1 to ask how.
ALL_HAVE_ENDED = """
nobody_sleeps() {
    for _status in /.proc/[0-9]*/status; do
        ! grep -sq '^Name:.*sleep' "$_status" || ! grep -sq '^State:.[RSD]' "$_status" || return 1
    done
}
wait_for 5 nobody_sleeps || grep '^Name' /.proc/[0-9]*/status
"""


@pytest.mark.parametrize("command", HANGING.values(), ids=HANGING.keys())
def test_all_of_it_is_ended_when_its_time_is_over(command: str, environment: Environment) -> None:
    start = time.monotonic()
    ended = environment.shell(f"bounded 1 {command}; echo $?; cat /run/kdump/sessions; {ALL_HAVE_ENDED}")
    assert ended.output == "124\n"
    assert time.monotonic() - start < 10


def test_what_was_begun_before_goes_on(environment: Environment) -> None:
    ended = environment.shell("sleep 1000 & other=$!\nbounded 1 sleep 1000 || :\nis_running $other && echo alive")
    assert ended.output == "alive\n"


def test_what_makes_no_progress_is_ended(environment: Environment) -> None:
    start = time.monotonic()
    ended = environment.shell("watched 2 true sleep 1000; echo $?; cat /run/kdump/sessions")
    assert ended.output == "124\n"
    assert 2 <= time.monotonic() - start < 12


PROGRESS = {
    "its file grows": (
        "size() { stat -c %s /grows; }",
        "sh -c 'for i in 1 2 3 4 5 6 7 8; do sleep 1; echo >>/grows; done'",
    ),
    # Processes come and go: what counts is all that the session has used.
    "it computes": (
        "size() { echo same; }",
        "sh -c 'end=$(($(date +%s) + 8)); while [ $(date +%s) -lt $end ]; do :; done'",
    ),
}


@pytest.mark.parametrize(("size", "command"), PROGRESS.values(), ids=PROGRESS.keys())
def test_what_makes_progress_may_take_its_time(size: str, command: str, environment: Environment) -> None:
    environment.write("/grows", "")
    ended = environment.shell(f"{size}\nwatched 3 size {command}; echo $?")
    assert ended.output == "0\n"


def test_output_that_is_too_much_is_cut(environment: Environment) -> None:
    script = "/lib/kdump/hooks/99-loud.sh"
    environment.write(script, "seq 1000000\nexit 3\n")
    assert environment.shell("run_bounded_hook 99-loud").status == 1
    assert environment.steps()[-1].status == 3
    assert 200_000 < len(environment.read(LOG)) < 300_000


@pytest.mark.parametrize("script", ["exit 1", "sleep 1000", "kill -9 $PPID", "yes", "exec <&- >&- 2>&-; sleep 1000"])
def test_scripts_of_the_administrator_cost_their_time_and_no_more(script: str, environment: Environment) -> None:
    for name, text in (("00-bad", script), ("01-good", 'echo "good got $*"')):
        environment.program(f"/etc/kdump/post.d/{name}", text)
    ended = environment.shell("export KDUMP_HOOK_TIMEOUT_S=2; run_scripts post saved 0; echo goes on")
    assert ended.output.endswith("goes on\n")
    assert "good got saved 0" in environment.read(LOG)
    assert [step.name for step in environment.steps()] == ["post 00-bad", "post 01-good"]
    assert environment.steps()[0].status != 0
    assert environment.steps()[0].took_cs < 1000


# Each of these ends without a parent, and waits for process 1 to ask how. Till then it counts as a process.
ORPHANS = """\
for number in 1 2 3 4 5 6 7 8; do (sleep 0.3 &); done
sleep 3
echo "ended: $(grep -s '^State:.Z' /.proc/[0-9]*/status | wc -l)"
"""


@pytest.mark.parametrize("silence", ["", "make_silence\n"])
def test_what_nobody_waits_for_is_reaped_meanwhile(silence: str, environment: Environment) -> None:
    environment.write("/orphans", ORPHANS)
    assert environment.shell(f"{silence}bounded 20 sh /orphans").output == "ended: 0\n"


def test_memory_of_which_nothing_can_be_dropped_keeps_nobody_waiting_for_long(environment: Environment) -> None:
    # This waits for a reader, as the kernel does for a file system whose device hangs.
    environment.shell(f"rm {DROP_CACHES}; mkfifo {DROP_CACHES}")
    ended = environment.shell("drop_caches; echo $?", timeout_s=20)
    assert ended.output == "0\n"
    assert "nothing can be read back from a device" in environment.read(LOG)


def test_a_device_that_hangs_is_asked_once_and_only_after_a_target_has_hung(environment: Environment) -> None:
    environment.write("/dev/vda", b"xx")
    # This waits for a writer.
    ask = "device_content='0 1 78 1 1 78'; answers vda && echo vda; answers vdz && echo vdz"
    ended = environment.shell(f"mkfifo /dev/vdz; {ask}; : >/run/kdump/hung; {ask}; {ask}; cat /run/kdump/hung")
    assert ended.output.split() == ["vda", "vdz", "vda", "vda", "vdz"]
    assert environment.read(LOG).count("vdz does not answer") == 1


def test_who_asks_whether_devices_answer_waits_no_longer_for_one_that_is_missing(environment: Environment) -> None:
    environment.write("/dev/vda", b"xx")
    ask = "device_content='0 1 78 1 1 78'; : >/run/kdump/hung; look() { answers vda; return 1; }"
    assert environment.shell(f"{ask}; wait_for 1 look || echo over", timeout_s=15).output == "over\n"
