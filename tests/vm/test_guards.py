"""The traps that other tools have fallen into: each has a test, which must fail on a build without its guard."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from msgspec import Struct

from kdump_initramfs.model import HostFacts, ImageRecord
from tests import capture
from tests.vm import test_faults as faults
from tests.vm import test_matrix as matrix

pytestmark = pytest.mark.guest

COLLECTORS = "lib/kdump/hooks/70-vmcore.sh"
DEVICES = "lib/kdump/devices.sh"
DIRECTORY = "lib/kdump/directory.sh"


class Trap(Struct, frozen=True):
    # File of the image -> pieces of it -> what is there instead.
    guards: Mapping[str, Mapping[str, str]]
    # A test, what it finds wrong then, and the fixtures that it takes.
    test: Callable[..., None]
    harm: str
    fixtures: tuple[str, ...] = ("tmp_path", "core")


def core_that_ends_early(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, core: faults.Core) -> None:
    matrix.test_a_whole_dump_is_there_in_the_end("core-ends-early", "ext4", tmp_path, tmp_path_factory, core)


def collector_that_writes_garbage(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, core: faults.Core) -> None:
    matrix.test_a_whole_dump_is_there_in_the_end("collector-garbage", "ext4", tmp_path, tmp_path_factory, core)


IN_MATRIX = ("tmp_path", "tmp_path_factory", "core")
TRAPS = {
    "how the stages of a pipe ended": Trap(
        {COLLECTORS: {'stages_succeeded && [ "$(recall read)" = "$(stat -c %s /proc/vmcore)" ]': ":"}},
        core_that_ends_early,
        r"\['0'\] == \[\]",
        IN_MATRIX,
    ),
    "exit status 0 for what is no dump": Trap(
        {COLLECTORS: {"&& begins_with \"$1\" 'KDUMP   '": ""}},
        collector_that_writes_garbage,
        "check memory",
        IN_MATRIX,
    ),
    "a read-only file system that mounts": Trap(
        {DEVICES: {'    check_writable "$_place"\n': ""}},
        faults.test_a_read_only_disk_is_passed_over,
        "could only be mounted read-only",
    ),
    "storage that lies": Trap(
        {
            DIRECTORY: {
                'conv=notrunc,fsync 2>/dev/null ||\n                die "$2 did not reach the device"': "conv=notrunc",
                "            drop_caches\n": "",
            },
        },
        faults.test_what_a_lying_store_has_lost_is_not_called_a_dump,
        "nothing could be saved",
        ("tmp_path", "small_store"),
    ),
    "a dump into the memory": Trap(
        {
            DEVICES: {
                '|| die "cannot mount $1 ($fs_type)"': "|| :",
                '    check_carrier "$_place" "$@"\n': "",
                '    check_writable "$_place"\n': "",
            },
        },
        faults.test_nothing_is_written_into_memory_where_the_target_cannot_be_mounted,
        "nothing could be saved",
    ),
}


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> faults.Core:
    return faults.make_core(tmp_path_factory.mktemp("core"), matrix.CORE_MIB)


small_store = faults.small_store


def remove(guards: Mapping[str, Mapping[str, str]], image: Path) -> None:
    def change(pieces: Mapping[str, str]) -> Callable[[str], str]:
        def changed(text: str) -> str:
            for piece, instead in pieces.items():
                if text.count(piece) != 1:
                    raise ValueError(f"not a guard of today: {piece}")
                text = text.replace(piece, instead)
            return text

        return changed

    capture.patch_image(image, {path: change(pieces) for path, pieces in guards.items()})


@pytest.mark.parametrize("trap", TRAPS.values(), ids=TRAPS.keys())
def test_without_its_guard_the_test_of_a_trap_fails(
    trap: Trap, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    build = capture.build_image

    def build_without(kernel: str, host: HostFacts, output: Path, *overrides: str) -> ImageRecord:
        described = build(kernel, host, output, *overrides)
        remove(trap.guards, output)
        return described

    monkeypatch.setattr(capture, "build_image", build_without)
    fixtures = [request.getfixturevalue(name) for name in trap.fixtures]
    with pytest.raises(AssertionError, match=trap.harm):
        trap.test(*fixtures)
