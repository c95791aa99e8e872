"""What the kernel's crypto API asks modprobe for when somebody wants an algorithm: crypto-NAME, and the names within.

Sources, of the kernel: crypto_larval_lookup() in crypto/api.c and crypto_lookup_template() in crypto/algapi.c ask for
"crypto-%s"; a template takes its parameters apart itself. crypt_ctr_cipher_old(), crypt_ctr_cipher_new() and the IV
modes of drivers/md/dm-crypt.c; Documentation/admin-guide/device-mapper/dm-crypt.rst. Of cryptsetup: cipher_c2dm() in
lib/libdevmapper.c, for how a header's words become a table's.
"""

import re
from collections.abc import Iterable

# Of names such as authenc(hmac(sha256),xts(aes)); "crypto-" and the name fit into CRYPTO_MAX_ALG_NAME.
_NAME = re.compile(r"[A-Za-z0-9_.+-]+")
_API = re.compile(r"[A-Za-z0-9_.+,()-]{1,127}")

# What a template asks for without being told (crypto_grab_*() and crypto_alloc_*() with a name of its own).
_IMPLIED = {
    "adiantum": ("nhpoly1305",),  # crypto/adiantum.c: "nhpoly1305" unless a third parameter says otherwise
    "ccm": ("cbcmac", "ctr"),  # crypto/ccm.c
    "gcm": ("ctr", "ghash"),  # crypto/gcm.c
    "hctr2": ("polyval", "xctr"),  # crypto/hctr2.c
    "lrw": ("ecb",),  # crypto/lrw.c
    "xts": ("ecb",),  # crypto/xts.c
}

# What an IV mode takes besides the cipher (crypt_iv_*_ctr()); all others take nothing.
_OF_IV = {"lmk": ("md5",), "tcw": ("crc32",), "elephant": ("ecb", "aes")}
_IV_MODES = frozenset(
    {"plain", "plain64", "plain64be", "essiv", "benbi", "null", "eboiv", "elephant", "lmk", "tcw", "random"}
)
# Tags that are no algorithm: dm-crypt's word for "the cipher does it itself", and for "none".
_NO_TAG = frozenset({"", "aead", "none"})


def requests(*api_names: str) -> tuple[str, ...]:
    """Return what the kernel asks modprobe for so that algorithms such as "xts(aes)" or "crc32c" are there, sorted."""
    return tuple(sorted({f"crypto-{name}" for api_name in api_names for name in _with_implied(api_name)}))


def dm_crypt(spec: str, integrity: str = "") -> tuple[str, ...]:
    """Return what the kernel asks for to run dm-crypt with a cipher such as "aes-xts-plain64" or "capi:xts(aes)-null".

    `integrity` is the tag as LUKS2 and dm-crypt name it: "aead", "hmac(sha256)", "poly1305"; "" if there is none.
    """
    cipher, iv, options = _split(spec, authenticated=integrity not in {"", "none"})
    names = [cipher, *_OF_IV.get(iv, ())]
    if iv == "essiv":
        names += ["essiv", options]
    return requests(*names, *_of_tag(integrity))


def _with_implied(api_name: str) -> Iterable[str]:
    names = _NAME.findall(api_name) if _API.fullmatch(api_name) else []
    return (each for name in names for each in (name, *_IMPLIED.get(name, ())))


def _of_tag(integrity: str) -> tuple[str, ...]:
    if integrity in _NO_TAG:
        return ()
    return (integrity, "rfc7539") if integrity == "poly1305" else (integrity, "authenc")


def _split(spec: str, *, authenticated: bool) -> tuple[str, str, str]:
    """Return the API's name of the cipher, the IV mode, and what follows its colon."""
    if spec.startswith("capi:"):
        cipher, _, iv = spec.removeprefix("capi:").rpartition("-")
        mode, _, options = iv.partition(":")
        return (cipher, mode, options) if mode in _IV_MODES else (spec.removeprefix("capi:"), "", "")
    first, _, rest = spec.partition("-")
    cipher = first.partition(":")[0]
    chain, _, iv = rest.partition("-")
    if not iv and chain.partition(":")[0] in _IV_MODES and (authenticated or chain != "plain"):
        # An algorithm that is no mode of a cipher: aegis128-random, chacha20-random.
        chain, iv = "", chain
    elif chain in {"", "plain"} and not iv:
        # As it was before modes had names (crypt_ctr_cipher_old(): "for compatibility").
        chain, iv = "cbc", "plain"
    mode, _, options = iv.partition(":")
    return _api_name(chain, cipher), mode, options


def _api_name(chain: str, cipher: str) -> str:
    if chain == "ccm":
        return f"rfc4309(ccm({cipher}))"
    return f"{chain}({cipher})" if chain else cipher
