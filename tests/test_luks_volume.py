"""LUKS headers: what cryptsetup writes, and what it would write where its device-mapper is missing here.

cryptsetup(8) makes headers on a file as long as its library has the cipher of the key slots. Volumes with other ciphers
or with integrity need device-mapper: their headers are real ones with another JSON area, by the LUKS2 specification.
"""

import json
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdump_initramfs.formats import luks, luks_volume
from kdump_initramfs.formats.luks_volume import Integrity, KeySlot, Segment, Volume
from tests import programs

UUID = "1f2e3d4c-5b6a-4988-9f2e-3d4c5b6a7988"
AREA_OFFSET = 4096


def formatted(directory: Path, *options: str) -> bytes:
    """Return the head of a volume that cryptsetup has made."""
    programs.need("cryptsetup")
    disk = directory / "disk"
    with open(disk, "wb") as stream:
        stream.truncate(20 << 20)
    words = ["cryptsetup", "luksFormat", "-q", "--uuid", UUID, "--pbkdf-force-iterations", "1000", *options]
    subprocess.run([*words, str(disk), "-"], input=b"secret", check=True, capture_output=True)
    with open(disk, "rb") as stream:
        return stream.read(luks.HEAD_BYTES)


def made_up(area: object, head: bytes = b"") -> bytes:
    """Return a header of LUKS2 with this JSON area."""
    head = head or luks.MAGIC + (2).to_bytes(2, "big") + (16384).to_bytes(8, "big")
    head = head.ljust(luks.UUID_OFFSET, b"\0") if len(head) < luks.UUID_OFFSET else head[: luks.UUID_OFFSET]
    return ((head + UUID.encode()).ljust(AREA_OFFSET, b"\0") + json.dumps(area).encode()).ljust(16384, b"\0")


def area(segment: dict[str, object], **more: object) -> dict[str, object]:
    return {"keyslots": {}, "segments": {"0": {"type": "crypt", "offset": "0", **segment}}, **more}


def parsed(head: bytes) -> Volume:
    found = luks_volume.parse(head)
    assert found
    return found


# --- what cryptsetup writes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("cipher", ["aes-xts-plain64", "aes-cbc-essiv:sha256"])
@pytest.mark.parametrize("digest", ["sha256", "sha512"])
def test_volume_of_version_1_has_one_cipher_for_all(cipher: str, digest: str, tmp_path: Path) -> None:
    found = parsed(formatted(tmp_path, "--type", "luks1", "--cipher", cipher, "--hash", digest))
    slot = KeySlot(type="luks1", encryption=cipher)
    assert found == Volume(
        version=1,
        uuid=UUID,
        segments=(Segment(type="crypt", encryption=cipher),),
        key_slots=(slot,),
    )


def test_volume_of_version_2_has_slots_of_their_own(tmp_path: Path) -> None:
    found = parsed(
        formatted(
            tmp_path,
            *("--type", "luks2", "--cipher", "aes-cbc-essiv:sha256", "--sector-size", "512", "--hash", "sha512"),
            *("--keyslot-cipher", "aes-xts-plain64", "--keyslot-key-size", "512"),
            *("--pbkdf", "argon2id", "--pbkdf-memory", "1024", "--pbkdf-force-iterations", "4"),
        )
    )
    assert found.segments == (Segment(type="crypt", encryption="aes-cbc-essiv:sha256"),)
    (slot,) = found.key_slots
    assert (slot.type, slot.encryption) == ("luks2", "aes-xts-plain64")
    assert luks_volume.data_requests(found) == tuple(f"crypto-{name}" for name in ("aes", "cbc", "essiv", "sha256"))
    assert luks_volume.key_slot_requests(found) == tuple(f"crypto-{name}" for name in ("aes", "ecb", "xts"))
    assert not found.is_being_reencrypted
    assert not found.requirements


# --- what it would write -----------------------------------------------------------------------------------------

CIPHERS = {
    "xchacha12,aes-adiantum-plain64": "adiantum aes nhpoly1305 xchacha12",
    "serpent-xts-plain64": "ecb serpent xts",
    "twofish-cbc-essiv:sha256": "cbc essiv sha256 twofish",
    "aria-xts-plain64": "aria ecb xts",
    "cipher_null-ecb": "cipher_null ecb",
}
TAGS = {
    "hmac(sha256)": ("aes-xts-random", "aes authenc ecb hmac sha256 xts"),
    "poly1305": ("chacha20-random", "chacha20 poly1305 rfc7539"),
    "aead": ("aegis128-random", "aegis128"),
}


@pytest.mark.parametrize(("cipher", "asked"), CIPHERS.items())
def test_cipher_of_the_data_is_asked_for(cipher: str, asked: str, tmp_path: Path) -> None:
    head = made_up(area({"encryption": cipher}), formatted(tmp_path, "--type", "luks2", "--pbkdf", "pbkdf2"))
    assert luks_volume.data_requests(parsed(head)) == tuple(f"crypto-{name}" for name in asked.split())


@pytest.mark.parametrize(("tag", "encryption", "asked"), [(tag, *words) for tag, words in TAGS.items()])
def test_volume_with_integrity_is_told_apart(tag: str, encryption: str, asked: str) -> None:
    described = {"type": tag, "journal_encryption": "ctr(aes)", "journal_integrity": "hmac(sha512)"}
    found = parsed(made_up(area({"encryption": encryption, "integrity": described})))
    assert found.needs_integrity
    assert found.segments[0].integrity == Integrity(
        type=tag, journal_encryption="ctr(aes)", journal_integrity="hmac(sha512)"
    )
    journal = {"aes", "ctr", "hmac", "sha512"}
    assert {*luks_volume.data_requests(found)} == {f"crypto-{name}" for name in {*asked.split()} | journal}


def test_journal_that_is_neither_encrypted_nor_summed_asks_for_nothing() -> None:
    described = {"type": "aead", "journal_encryption": "none", "journal_integrity": "none"}
    found = parsed(made_up(area({"encryption": "aegis128-random", "integrity": described})))
    assert luks_volume.data_requests(found) == ("crypto-aegis128",)


@pytest.mark.parametrize(
    ("segment", "more"),
    [
        ({"flags": ["in-reencryption"]}, {}),
        ({"flags": ["backup-previous"]}, {}),
        ({}, {"config": {"requirements": {"mandatory": ["online-reencrypt-v2"]}}}),
        ({}, {"config": {"requirements": {"mandatory": ["offline-reencrypt"]}}}),
    ],
)
def test_volume_that_is_being_reencrypted_is_told_apart(segment: dict[str, object], more: dict[str, object]) -> None:
    assert parsed(made_up(area({"encryption": "aes-xts-plain64", **segment}, **more))).is_being_reencrypted


def test_requirements_are_told() -> None:
    more = {"config": {"requirements": {"mandatory": ["opal", "inline-hw-tags", 1]}}}
    assert parsed(made_up(area({}, **more))).requirements == ("opal", "inline-hw-tags")


# --- what is none ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", [b"", luks.MAGIC, luks.MAGIC.ljust(600, b"\0"), made_up([]), made_up("text")])
def test_what_is_no_header_is_none(head: bytes) -> None:
    assert luks_volume.parse(head) is None


@pytest.mark.parametrize("area", [{}, {"segments": 1}, {"segments": {"0": 1}, "keyslots": [], "config": None}])
def test_header_without_the_usual_parts_has_none_of_them(area: object) -> None:
    assert parsed(made_up(area)) == Volume(version=2, uuid=UUID)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["segments", "keyslots", "integrity", "encryption", "area", "kdf", "type", "config", "flags"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(JSON)
def test_any_json_is_a_volume_or_none(content: object) -> None:
    found = luks_volume.parse(made_up(content))
    if found:
        luks_volume.data_requests(found)
        luks_volume.key_slot_requests(found)


@given(st.binary(max_size=700))
def test_any_bytes_after_the_magic_are_a_volume_or_none(tail: bytes) -> None:
    luks_volume.parse(luks.MAGIC + tail)
