"""What logical volumes need of device-mapper, by LVM's metadata as `vgcfgbackup` writes it."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdump_initramfs.formats import lvm_segments, lvm_text
from kdump_initramfs.formats.lvm_segments import Needs
from kdump_initramfs.image import kmod
from tests import kernel_names, kernels

LINEAR = 'type = "striped" stripe_count = 1 stripes = ["pv0", 0]'
STRIPED = 'type = "striped" stripe_count = 2 stripes = ["pv0", 0, "pv1", 0]'


def group(volumes: Mapping[str, str]) -> lvm_text.Section:
    """Return a volume group with these volumes, each of the segments that are parted by a semicolon."""
    return lvm_text.section(lvm_text.parse(f"vg {{ {text(volumes)} }}"), "vg")


def text(volumes: Mapping[str, str]) -> str:
    described = []
    for name, segments in volumes.items():
        parts = enumerate(segments.split(";"), 1)
        inside = " ".join(f"segment{number} {{ extent_count = 10 {segment} }}" for number, segment in parts)
        described.append(f'{name} {{ id = "x" status = ["READ", "VISIBLE"] {inside} }}')
    physical = " ".join(f'{name} {{ device = "/dev/{name}" }}' for name in ("pv0", "pv1"))
    return f"physical_volumes {{ {physical} }} logical_volumes {{ {' '.join(described)} }}"


def needs(volumes: Mapping[str, str], volume: str = "lv") -> Needs:
    found = lvm_segments.needs(group(volumes), volume)
    assert found
    return found


def raid(level: str, *, meta: bool = True) -> dict[str, str]:
    """Return the volumes of an array of two."""
    words = [f'"lv_{kind}_{each}"' for each in (0, 1) for kind in (("rmeta", "rimage") if meta else ("rimage",))]
    key = "raid0_lvs" if level == "raid0" else "raids"
    return {
        "lv": f'type = "{level}" device_count = 2 {key} = [{", ".join(words)}]',
        **{word.strip('"'): LINEAR for word in words},
    }


THIN = {
    "lv": 'type = "thin" thin_pool = "pool" transaction_id = 1 device_id = 1',
    "pool": 'type = "thin-pool" metadata = "pool_tmeta" pool = "pool_tdata" chunk_size = 128',
    "pool_tmeta": LINEAR,
    "pool_tdata": LINEAR,
}
SNAPSHOT = {
    "lv": LINEAR,
    "copy": STRIPED,
    "snapshot0": 'type = "snapshot" chunk_size = 8 origin = "lv" cow_store = "copy"',
}
# By what it is: the volumes, the targets, and what is asked for besides those of the targets' names.
VOLUMES: Mapping[str, tuple[Mapping[str, str], str, str]] = {
    "linear": ({"lv": LINEAR}, "linear", "dm-mod"),
    "striped": ({"lv": STRIPED}, "striped", "dm-mod"),
    "both": ({"lv": f"{LINEAR};{STRIPED}"}, "linear striped", "dm-mod"),
    "origin of a snapshot": (
        SNAPSHOT,
        "linear snapshot snapshot-origin striped",
        "dm-mod dm-snapshot dm-snapshot-origin",
    ),
    "merging": (
        {**SNAPSHOT, "snapshot0": 'type = "snapshot" chunk_size = 8 origin = "lv" merging_store = "copy"'},
        "linear snapshot snapshot-merge snapshot-origin striped",
        "dm-mod dm-snapshot dm-snapshot-merge dm-snapshot-origin",
    ),
    "mirror": (
        {
            "lv": 'type = "mirror" mirror_log = "lv_mlog" mirrors = ["lv_mimage_0", 0, "lv_mimage_1", 0]',
            **dict.fromkeys(("lv_mlog", "lv_mimage_0", "lv_mimage_1"), LINEAR),
        },
        "linear mirror",
        "dm-log dm-mirror dm-mod",
    ),
    "pvmove": (
        {
            "lv": 'type = "striped" stripe_count = 1 stripes = ["pvmove0", 0]',
            "pvmove0": 'type = "mirror" mirror_count = 2 mirrors = ["pv0", 0, "pv1", 0]',
        },
        "linear mirror",
        "dm-log dm-mirror dm-mod",
    ),
    **{
        level: (raid(level), "linear raid", f"dm-mod dm-raid md-level-{number}")
        for level, number in (
            *(("raid0_meta", 0), ("raid1", 1), ("raid10", 10), ("raid10_near", 10), ("raid4", 4), ("raid5", 5)),
            *(("raid5_ls", 5), ("raid5_n", 5), ("raid6", 6), ("raid6_zr", 6), ("raid6_ls_6", 6), ("raid6_n_6", 6)),
        )
    },
    "raid0": (raid("raid0", meta=False), "linear raid", "dm-mod dm-raid md-level-0"),
    "raid with integrity": (
        {
            **raid("raid1"),
            "lv_rimage_0": (
                'type = "integrity" origin = "lv_rimage_0_iorig" data_sectors = 81920 mode = "bitmap" tag_size = 4 '
                'block_size = 512 internal_hash = "crc32c" meta_dev = "lv_rimage_0_imeta"'
            ),
            "lv_rimage_0_iorig": LINEAR,
            "lv_rimage_0_imeta": LINEAR,
        },
        "integrity linear raid",
        "crypto-crc32c dm-integrity dm-mod dm-raid md-level-1",
    ),
    "thin": (THIN, "linear thin thin-pool", "dm-mod dm-thin-pool"),
    "thin with an origin outside": (
        {**THIN, "lv": f'{THIN["lv"]} external_origin = "outside"', "outside": 'type = "zero"'},
        "linear thin thin-pool zero",
        "dm-mod dm-thin-pool dm-zero",
    ),
    "thin pool on an array": (
        {**THIN, "pool_tdata": raid("raid5")["lv"], **{name: LINEAR for name in raid("raid5") if name != "lv"}},
        "linear raid thin thin-pool",
        "dm-mod dm-raid dm-thin-pool md-level-5",
    ),
    "cache": (
        {
            "lv": 'type = "cache" cache_pool = "fast" origin = "lv_corig"',
            "fast": 'type = "cache-pool" data = "fast_cdata" metadata = "fast_cmeta" policy = "smq"',
            **dict.fromkeys(("lv_corig", "fast_cdata", "fast_cmeta"), LINEAR),
        },
        "cache linear",
        "dm-cache dm-cache-default dm-cache-smq dm-mod",
    ),
    "cache on one volume": (
        {
            "lv": 'type = "cache+CACHE_USES_CACHEVOL" cache_pool = "fast_cvol" origin = "lv_corig" policy = "cleaner"',
            **dict.fromkeys(("lv_corig", "fast_cvol"), LINEAR),
        },
        "cache linear",
        "dm-cache dm-cache-cleaner dm-mod",
    ),
    "writecache": (
        {
            "lv": 'type = "writecache" origin = "lv_wcorig" writecache = "fast_cvol" writecache_block_size = 4096',
            **dict.fromkeys(("lv_wcorig", "fast_cvol"), LINEAR),
        },
        "linear writecache",
        "dm-mod dm-writecache",
    ),
    "vdo": (
        {
            "lv": 'type = "vdo" vdo_pool = "vpool0" vdo_offset = 0',
            "vpool0": 'type = "vdo-pool" data = "vpool0_vdata" header_size = 1024 virtual_extents = 100',
            "vpool0_vdata": LINEAR,
        },
        "linear vdo",
        "dm-mod dm-vdo",
    ),
    "holes": ({"lv": f'{LINEAR};type = "error";type = "zero"'}, "error linear zero", "dm-mod dm-zero"),
}


@pytest.mark.parametrize(("volumes", "targets", "asked"), VOLUMES.values(), ids=VOLUMES.keys())
def test_volume_needs_the_targets_of_all_that_it_is_on(volumes: Mapping[str, str], targets: str, asked: str) -> None:
    found = needs({**volumes, "not-in-it": 'type = "mirror" mirrors = ["pv0", 0]'})
    assert found.targets == tuple(targets.split())
    assert found.requests == tuple(asked.split())
    assert found.unknown == ()
    assert {*found.volumes} == {name for name in volumes if name != "snapshot0"}


def test_snapshot_needs_what_its_origin_needs() -> None:
    found = needs(SNAPSHOT, "copy")
    assert (found.targets, {*found.volumes}) == (needs(SNAPSHOT).targets, {"lv", "copy"})
    assert {*found.physical} == {"pv0", "pv1"}


def test_volume_beside_a_snapshot_needs_none() -> None:
    assert needs({**SNAPSHOT, "other": LINEAR}, "other") == Needs(
        targets=("linear",), requests=("dm-mod",), volumes=("other",), physical=("pv0",)
    )


def test_origin_of_a_thin_snapshot_is_not_below_it() -> None:
    found = needs({**THIN, "lv": f'{THIN["lv"]} origin = "first"', "first": THIN["lv"]})
    assert "first" not in found.volumes


def test_area_is_a_physical_volume_before_it_is_a_logical_one() -> None:
    assert needs({"lv": LINEAR, "pv0": 'type = "zero"'}).targets == ("linear",)


@pytest.mark.parametrize("kind", ["replicator", "raid7", "raid6_of_tomorrow", "clone"])
def test_type_that_is_not_known_is_told(kind: str) -> None:
    found = needs(
        {"lv": 'type = "thin" thin_pool = "pool"', "pool": f'type = "{kind}+FLAG" pool = "data"', "data": LINEAR}
    )
    assert found.unknown == (kind,)


def test_volume_that_is_not_there_is_none() -> None:
    assert lvm_segments.needs(group({"lv": LINEAR}), "other") is None
    assert lvm_segments.needs({}, "lv") is None


def test_volume_that_is_on_itself_has_an_end() -> None:
    volumes = {"lv": 'type = "cache" origin = "lv" cache_pool = "two"', "two": 'type = "thin" thin_pool = "lv"'}
    assert needs(volumes).volumes == ("lv", "two")


def test_real_kernels_have_an_answer_to_all_that_is_asked_for() -> None:
    asked = {name for volumes, _, _ in VOLUMES.values() for name in needs(volumes).requests}
    for release, root in kernels.roots().items():
        answered = kernel_names.answered(root, release)
        missing = {name for name in asked if kmod.normal(name) not in answered}
        # dm-vdo came with 6.9; a kernel for clouds has no CONFIG_DM_VDO at all.
        assert missing <= {"dm-vdo"}, release
        assert ("dm-vdo" in missing) is ("CONFIG_DM_VDO=" not in kernel_names.configured(root, release))


SECTION = st.recursive(
    st.integers()
    | st.sampled_from(["lv", "snapshot", "thin", "raid1", "striped", "cache"])
    | st.lists(st.text(max_size=3)),
    lambda inner: st.dictionaries(
        st.sampled_from(["logical_volumes", "lv", "segment1", "type", "origin", "cow_store", "stripes", "thin_pool"]),
        inner,
    ),
    max_leaves=30,
)


@given(SECTION)
def test_any_section_is_a_group_with_the_volume_or_without(section: object) -> None:
    if isinstance(section, dict):
        lvm_segments.needs({"logical_volumes": section}, "lv")
