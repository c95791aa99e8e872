"""Names of algorithms: what is asked for, and whether real kernels have an answer to it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdump_initramfs.formats import kernel_crypto
from kdump_initramfs.image import kmod
from tests import kernel_names, kernels

# By cipher and tag, what is asked for, without "crypto-".
CIPHERS = {
    ("aes-xts-plain64", ""): "aes ecb xts",
    ("aes-cbc-essiv:sha256", ""): "aes cbc essiv sha256",
    ("aes", ""): "aes cbc",
    ("aes-plain", ""): "aes cbc",
    ("aes-ecb", ""): "aes ecb",
    ("aes:64-cbc-lmk", ""): "aes cbc md5",
    ("aes-cbc-tcw", ""): "aes cbc crc32",
    ("aes-cbc-elephant", ""): "aes cbc ecb",
    ("aes-cbc-eboiv", ""): "aes cbc",
    ("xchacha12,aes-adiantum-plain64", ""): "adiantum aes nhpoly1305 xchacha12",
    ("xchacha20,aes-adiantum-plain64", ""): "adiantum aes nhpoly1305 xchacha20",
    ("serpent-lrw-benbi", ""): "ecb lrw serpent",
    ("twofish-xts-plain64", ""): "ecb twofish xts",
    ("camellia-cbc-essiv:sha512", ""): "camellia cbc essiv sha512",
    ("cast6-xts-plain", ""): "cast6 ecb xts",
    ("blowfish-cbc-plain", ""): "blowfish cbc",
    ("cipher_null-ecb", ""): "cipher_null ecb",
    ("capi:xts(aes)-plain64", ""): "aes ecb xts",
    ("capi:cbc(aes)-essiv:sha256", ""): "aes cbc essiv sha256",
    ("capi:essiv(cbc(aes),sha256)-plain64", ""): "aes cbc essiv sha256",
    ("capi:adiantum(xchacha12,aes)-plain64", ""): "adiantum aes nhpoly1305 xchacha12",
    ("capi:authenc(hmac(sha256),xts(aes))-random", "aead"): "aes authenc ecb hmac sha256 xts",
    ("aes-xts-random", "hmac(sha256)"): "aes authenc ecb hmac sha256 xts",
    ("aes-xts-plain64", "cmac(aes)"): "aes authenc cmac ecb xts",
    ("serpent-xts-random", "hmac(sha512)"): "authenc ecb hmac serpent sha512 xts",
    ("chacha20-random", "poly1305"): "chacha20 poly1305 rfc7539",
    ("aegis128-random", "aead"): "aegis128",
    ("aes-gcm-random", "aead"): "aes ctr gcm ghash",
    ("aes-ccm-random", "aead"): "aes cbcmac ccm ctr rfc4309",
    ("aes-xts-plain64", "none"): "aes ecb xts",
}
# Of which not every kernel has the driver: by the option of its configuration.
OPTIONAL = {
    ("aria-xts-plain64", ""): ("aria ecb xts", "CONFIG_CRYPTO_ARIA"),
    ("sm4-cbc-plain64", ""): ("cbc sm4", "CONFIG_CRYPTO_SM4_GENERIC"),
    ("aes-hctr2-plain64", ""): ("aes hctr2 polyval xctr", "CONFIG_CRYPTO_HCTR2"),
}
ALGORITHMS = {
    "crc32c": "crc32c",
    "xxhash64": "xxhash64",
    "blake2b-256": "blake2b-256",
    "hmac(sha256)": "hmac sha256",
    "cts(cbc(aes))": "aes cbc cts",
    "sha3-512": "sha3-512",
    "": "",
    "no algorithm": "",
}


def named(words: str) -> tuple[str, ...]:
    return tuple(f"crypto-{word}" for word in words.split())


@pytest.mark.parametrize(
    ("spec", "integrity", "asked"),
    [(*spec, words) for spec, words in CIPHERS.items()] + [(*spec, words) for spec, (words, _) in OPTIONAL.items()],
)
def test_cipher_of_dm_crypt_asks_for_its_algorithms(spec: str, integrity: str, asked: str) -> None:
    assert kernel_crypto.dm_crypt(spec, integrity) == named(asked)


@pytest.mark.parametrize(("name", "asked"), ALGORITHMS.items())
def test_algorithm_asks_for_what_is_in_its_name(name: str, asked: str) -> None:
    assert kernel_crypto.requests(name) == named(asked)


def test_every_name_is_one_that_real_kernels_answer_to() -> None:
    asked = {name for spec in CIPHERS for name in kernel_crypto.dm_crypt(*spec)}
    asked |= {name for each in ALGORITHMS for name in kernel_crypto.requests(each)}
    for release, root in kernels.roots().items():
        answered = kernel_names.answered(root, release)
        assert not {name for name in asked if kmod.normal(name) not in answered}, release


def test_name_without_an_answer_is_one_that_the_kernel_was_built_without() -> None:
    for release, root in kernels.roots().items():
        answered, config = kernel_names.answered(root, release), kernel_names.configured(root, release)
        for spec, (_, option) in OPTIONAL.items():
            known = all(kmod.normal(name) in answered for name in kernel_crypto.dm_crypt(*spec))
            assert known is (f"{option}=" in config), spec


@given(st.text(max_size=200), st.text(max_size=60))
def test_any_text_is_a_cipher_or_none(spec: str, integrity: str) -> None:
    for name in kernel_crypto.dm_crypt(spec, integrity):
        assert name.startswith("crypto-")
        assert len(name) < 140
