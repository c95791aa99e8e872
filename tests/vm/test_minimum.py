"""The least crashkernel= of each kernel, by rehearsals, against what `estimate` says before any of them.

The everyday run takes one kernel, and tells no more than that the estimate is enough and that so much less is not.
KDUMP_TEST_FULL=1 (tests/run --full) takes all three, and looks closer.
"""

import os
from pathlib import Path

import pytest

from kdump_initramfs import config
from kdump_initramfs.host.root import Root
from kdump_initramfs.image import record
from kdump_initramfs.loader import needs
from kdump_initramfs.rehearsal import minimum, rehearse
from tests import capture

pytestmark = [pytest.mark.guest, pytest.mark.long]

TIMEOUT_S = 240
# How much more than the minimum an estimate may be.
LEEWAY_MIB = 32
FULL = bool(os.environ.get("KDUMP_TEST_FULL"))
# With one MiB less than may be, a rehearsal must fail.
STEP_MIB = 8 if FULL else LEEWAY_MIB + 1


def kinds() -> tuple[capture.KernelKind, ...]:
    return ("cloud", "generic", "new") if FULL else ("cloud",)


@pytest.mark.parametrize("kind", kinds())
def test_estimate_is_enough_and_not_much_more(kind: capture.KernelKind, tmp_path: Path) -> None:
    kernel = capture.release(kind)
    image = str(tmp_path / "capture.img")
    capture.build_image(kernel, capture.facts(capture.target()), Path(image))
    configuration = config.load(root=str(tmp_path), overrides=capture.kernel_overrides(kernel))
    described = record.read(image)
    estimated = needs.of_image(Root(), configuration, image, described).estimated_mib
    options = rehearse.Options(accel="tcg", memory_mib=512, timeout_s=TIMEOUT_S)
    # That the estimate itself is enough is the first thing tried.
    low_mib = estimated - (6 if FULL else 1) * STEP_MIB
    bounds = minimum.Bounds(low_mib=low_mib, high_mib=estimated, step_mib=STEP_MIB)
    found = minimum.find(Root(), configuration, image, options, bounds)
    assert found.minimum_mib <= estimated <= found.minimum_mib + LEEWAY_MIB, "\n".join(minimum.summary(found))
    assert needs.of_image(Root(), configuration, image, described).measured_mib >= found.minimum_mib
