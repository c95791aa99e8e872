"""Thin pools are looked after until their target is closed, and one that is full does not keep it from being closed."""

import time

import pytest

from tests import capture, saving
from tests.capture import LOG, Environment

pytestmark = pytest.mark.skipif(not capture.can_enter(), reason="needs root that may make namespaces and device nodes")

POOL = "the-vg/pool"
TIMEOUT = "/sys/module/dm_thin_pool/parameters/no_space_timeout"


@pytest.fixture
def thin(environment: Environment) -> Environment:
    """Return an environment whose first target is on a thin volume, and an lvm that tells when it looks."""
    library = "/lib/kdump/process.sh"
    # The processes of the chroot are not at /proc there.
    environment.write(library, environment.read(library).replace('"/proc/$1/stat"', '"/.proc/$1/stat"'))
    saving.set_all(environment, KDUMP_LVM_POOLS=POOL)
    answers(environment, "true")
    return environment


def answers(environment: Environment, extend: str) -> None:
    """Have lvm activate the volume, and do this when a pool is to be extended."""
    looks = 'if [ -e /run/kdump/closed ]; then echo closed; else echo open; fi >>/looks; echo "$*" >>/asked'
    activates = 'mkdir -p /sys/block/dm-0/dm; echo "$LV" >/sys/block/dm-0/dm/uuid'
    environment.program("/usr/sbin/lvm", f"case $1 in lvextend) {looks}; {extend} ;; *) {activates} ;; esac")


def looks(environment: Environment) -> list[str]:
    return environment.read("/looks").split()


def test_pool_is_looked_at_once_more_when_the_target_is_closed(thin: Environment) -> None:
    thin.shell("assemble 35-lvm; sleep 1; end_keepers 20")
    assert thin.read("/asked").splitlines()[0] == f"lvextend --quiet --use-policies --noudevsync {POOL}"
    found = looks(thin)
    assert found[-1] == "closed"
    assert "open" in found
    assert not thin.exists("/run/kdump/keepers")
    assert thin.read("/run/kdump/sessions") == ""


def test_a_look_that_has_begun_is_brought_to_its_end(thin: Environment) -> None:
    answers(thin, "sleep 2; echo ended >>/ended")
    thin.shell("assemble 35-lvm; sleep 1; end_keepers 20")
    assert looks(thin) == ["open", "closed"]
    assert thin.read("/ended").split() == ["ended", "ended"]


def test_nobody_is_waited_for_where_there_is_no_pool(thin: Environment) -> None:
    saving.set_all(thin, KDUMP_LVM_POOLS="")
    thin.shell("assemble 35-lvm; end_keepers 20")
    assert not thin.exists("/looks")


def test_a_hook_that_is_run_again_does_not_look_twice(thin: Environment) -> None:
    thin.shell("assemble 35-lvm; run_hook 35-lvm; run_hook 35-lvm; wc -l </run/kdump/keepers >/count; end_keepers 20")
    assert thin.read("/count").strip() == "1"


def test_another_target_on_the_pool_looks_after_it_again(thin: Environment) -> None:
    """What looked after it for the first has gone with its session, and the volume is there already."""
    thin.shell(
        "assemble 35-lvm; end_keepers 20; rm -f /run/kdump/closed /looks; assemble 35-lvm; sleep 1; end_keepers 20"
    )
    assert looks(thin)[0] == "open"
    assert looks(thin)[-1] == "closed"


def test_a_pool_that_cannot_be_extended_is_said_once_and_is_in_the_record(thin: Environment) -> None:
    answers(thin, 'echo "  Insufficient free space: 1 extents needed, but only 0 available" >&2; exit 5')
    thin.shell("assemble 35-lvm; sleep 3; end_keepers 20")
    assert len(looks(thin)) > 2
    assert thin.read(LOG).count("Insufficient free space") == 1
    failed = [step for step in thin.steps() if step.status == 5]
    assert [step.name for step in failed] == [f"35-lvm lvextend {POOL}"]


def test_two_pools_have_a_step_each(thin: Environment) -> None:
    saving.set_all(thin, KDUMP_LVM_POOLS="g/a g/b")
    answers(thin, 'echo "no room in $5"; exit 5')
    thin.shell("assemble 35-lvm; sleep 2; end_keepers 20")
    assert [step.name for step in thin.steps() if step.status == 5] == ["35-lvm lvextend g/a", "35-lvm lvextend g/b"]


HANGS = "trap '' TERM INT HUP; sleep 1000"


def test_a_look_that_hangs_does_not_keep_the_target_open(thin: Environment) -> None:
    answers(thin, HANGS)
    began = time.monotonic()
    ended = thin.shell("assemble 35-lvm; sleep 1; end_keepers 2; echo closed")
    assert ended.output.endswith("closed\n")
    assert time.monotonic() - began < 15
    assert "35-lvm: has not come to an end within 2 s" in thin.read(LOG)


@pytest.mark.parametrize("extend", ["true", HANGS], ids=["extended", "hangs"])
def test_a_close_that_hangs_has_its_time_and_no_more(extend: str, thin: Environment) -> None:
    """As umount(8) does of a pool that is full, until dm-thin gives up."""
    answers(thin, extend)
    (thin.directory / "first").mkdir()
    close = "/lib/kdump/hooks/50-target-disk.sh"
    thin.write(close, 'case $1 in close) sleep 1000 ;; esac\nmkdir -p "/$KDUMP_DIRECTORY"\nexit 1\n')
    thin.append("/etc/kdump/settings", "export KDUMP_HOOK_TIMEOUT_S=2\n")
    began = time.monotonic()
    ended = thin.shell(". /lib/kdump/lib.sh; sh /lib/kdump/target.sh 0 || echo failed; cat /run/kdump/sessions")
    assert ended.output.endswith("failed\n")
    assert time.monotonic() - began < 20
    (step,) = [step for step in thin.steps() if step.name == "50-target-disk close"]
    assert (step.status, 200 <= step.took_cs < 1000) == (124, True)


@pytest.mark.parametrize(
    ("now", "then"), [("60", "30"), ("0", "30"), ("3600", "30"), ("20", "20"), ("30", "30"), (None, None)]
)
def test_a_write_waits_for_a_full_pool_no_longer_than_the_close(
    now: str | None, then: str | None, thin: Environment
) -> None:
    if now is not None:
        thin.write(TIMEOUT, f"{now}\n")
    thin.append("/etc/kdump/settings", "export KDUMP_HOOK_TIMEOUT_S=60\n")
    thin.shell("assemble 35-lvm; end_keepers 20")
    assert thin.exists(TIMEOUT) is (then is not None)
    assert then is None or thin.read(TIMEOUT).strip() == then
