"""Open the LUKS devices that targets stand on: with a key file, or with a volume key that the kernel hands over.

The key file is the one that /etc/crypttab names. For a device that has none, or whose key takes too much memory to
derive, the crashed kernel leaves the volume key in the memory of the capture kernel (kernel/crash_dump_dm_crypt.c, and
loader/volume_keys.py here); this hook only ever knows what that key is called.
"""

import re
from collections.abc import Iterable

from kdump_initramfs.config import Config
from kdump_initramfs.errors import HostError, KdumpError, raise_together
from kdump_initramfs.model import (
    VOLUME_KEY_PREFIX,
    Contribution,
    CryptEntry,
    File,
    HostFacts,
    StorageLayer,
)
from kdump_initramfs.storage import CryptDevice, LuksHeader, OnBlockDevices, layers

# What dm-crypt and cryptsetup ask the kernel for by name, as aliases of modules; one that a kernel has built in, or
# does not have, is passed over.
_ALGORITHMS = (
    *("crypto-aes", "crypto-xts", "crypto-cbc", "crypto-ecb", "crypto-essiv", "crypto-sha1", "crypto-sha256"),
    *("crypto-sha512", "crypto-hmac"),
)
# Options of crypttab(5) without which what lies on the device is not enough to open it, whatever the key.
_NOT_FOLLOWED = frozenset({"header", "offset", "skip"})
# The same, without which the key file alone does not open it.
_NOT_FOLLOWED_WITH_KEY_FILE = _NOT_FOLLOWED | {"keyfile-offset", "keyfile-size", "keyscript"}
# Behind the type there are the UUID of the header, without dashes, and the name.
_is_luks = re.compile(r"CRYPT-LUKS[12]-[0-9a-f]{32}-").match
# What cryptsetup(8) and its sisters open besides (CRYPT_* of libcryptsetup.h; CRYPT_LUKS2_HW_OPAL and CRYPT_SUBDEV
# of its lib/internal.h).
_OTHERS = {
    "CRYPT-VERITY-": "a device of dm-verity, which cannot be written to",
    "CRYPT-INTEGRITY-": "a device of dm-integrity, which is not opened after a crash",
    "CRYPT-SUBDEV-": "a device of dm-integrity, which is not opened after a crash",
    "CRYPT-LUKS2-OPAL-": "encrypted by the drive itself (OPAL), which is not unlocked after a crash",
}
# The one whose volume keys cryptsetup puts into a keyring.
_LUKS2 = "CRYPT-LUKS2-"
# Where the kernel passes dmcryptkeys= on (Documentation/admin-guide/kdump/kdump.rst).
_MACHINES = ("x86_64",)
# KEY_DESC_MAX_LEN of kernel/crash_dump_dm_crypt.c, less the NUL.
_DESCRIPTION_BYTES = 127
# Of a volume key that was restored in the capture kernel: its type there, as keyctl(1) and cryptsetup(8) write it.
_RESTORED = "%user:"


def contribute(config: Config, host: HostFacts) -> Contribution | None:
    encrypted = layers(host.targets, CryptDevice)
    if not encrypted:
        return None
    if not host.tools.cryptsetup:
        raise HostError("cryptsetup: no such program, but the dump target is encrypted", hint="install cryptsetup")
    keys = _keys(host, encrypted.found)
    # The name that each gets, the same for all targets.
    names = {name: f"kdump{number}" for number, name in enumerate(encrypted.names)}
    return StorageLayer(
        binaries=(host.tools.cryptsetup,),
        modules=("dm_mod", "dm_crypt"),
        modaliases=(*_ALGORITHMS, *_requests(encrypted.found)),
        entries=tuple(
            File(path=key, source=key, mode=0o600, reason="key file of crypttab")
            for key in sorted(set(keys.values()))
            if key.startswith("/")
        ),
        target_settings={
            target: {
                "KDUMP_CRYPTSETUP": host.tools.cryptsetup,
                # For each: UUID of its header, name, dm UUID, key.
                "KDUMP_CRYPT": " ".join(
                    f"{_header_uuid(device)} {name} {_dm_uuid(device)}{name} {keys[device.dm_name]}"
                    for device in found
                    for name in [names[device.name]]
                ),
            }
            for target, found in encrypted.by_target.items()
        },
        provides=encrypted.names,
        volume_keys=tuple(key.removeprefix(_RESTORED) for key in keys.values() if key.startswith(_RESTORED)),
    )


def _headers(target: OnBlockDevices, device: CryptDevice) -> list[LuksHeader]:
    return [below.content.luks for below in target.under(device) if below.content.luks is not None]


def _requests(found: Iterable[tuple[OnBlockDevices, CryptDevice]]) -> tuple[str, ...]:
    """Return what the kernel asks for to open these devices, as their headers and their tables say."""
    headers = [header for target, device in found for header in _headers(target, device)]
    wanted = (
        *(name for header in headers for name in header.requests),
        *(name for _, each in found for name in each.requests),
    )
    return tuple(dict.fromkeys(wanted))


def _header_uuid(device: CryptDevice) -> str:
    """Return the UUID of the LUKS header, which dm/uuid has without dashes: CRYPT-LUKS2-UUID-NAME."""
    raw = device.dm_uuid.split("-")[2]
    return "-".join((raw[:8], raw[8:12], raw[12:16], raw[16:20], raw[20:]))


def _dm_uuid(device: CryptDevice) -> str:
    """Return dm/uuid without the name at its end."""
    return "-".join(device.dm_uuid.split("-")[:3]) + "-"


def _keys(host: HostFacts, devices: Iterable[tuple[OnBlockDevices, CryptDevice]]) -> dict[str, str]:
    """Return name -> what opens the device: the path of a key file, or %user:DESCRIPTION of a volume key.

    What stands against opening a device unattended is raised for all of them together.
    """
    entries = {entry.name: entry for entry in host.crypttab}
    keys: dict[str, str] = {}
    errors: list[KdumpError] = []
    for target, device in devices:
        entry = entries.get(device.dm_name)
        problem = _problem(host, target, device, entry)
        if problem is None and entry is not None:
            keys[device.dm_name] = entry.key_file
        elif description := _volume_key(host, device, entry):
            keys[device.dm_name] = f"{_RESTORED}{description}"
        elif problem is not None:
            errors.append(_with_volume_key_hint(host, device, problem))
    raise_together(errors)
    return keys


def _problem(
    host: HostFacts, target: OnBlockDevices, device: CryptDevice, entry: CryptEntry | None
) -> KdumpError | None:
    """Return what stands against opening the device with a key file."""
    where = f"{target.name}: {device.name} ({device.dm_name})"
    if not _is_luks(device.dm_uuid):
        known = (text for start, text in _OTHERS.items() if device.dm_uuid.startswith(start))
        what = next(known, "encrypted, but not by LUKS")
        return HostError(f"{where} is {what}", hint="name a target that is on LUKS or not encrypted")
    for header in _headers(target, device):
        if header.problem:
            return HostError(f"{where} {header.problem}", hint="name a target that is on plain LUKS or not encrypted")
    if entry is None or not entry.key_file.startswith("/"):
        return HostError(
            f"{where} is opened by a passphrase, which nobody can type after a crash",
            hint="add a key file with cryptsetup luksAddKey and name it in /etc/crypttab, or name another target",
        )
    unknown = sorted(_options(entry) & _NOT_FOLLOWED_WITH_KEY_FILE)
    if unknown:
        return HostError(
            f"{where}: what /etc/crypttab says of it ({', '.join(unknown)}) is not followed after a crash",
            hint="add a whole file as a key with cryptsetup luksAddKey and name that, or name another target",
        )
    needed = max((header.kdf_kib for header in _headers(target, device)), default=0) << 10
    if host.reserved_bytes and needed > host.reserved_bytes // 2:
        return HostError(
            f"{where} takes {needed >> 20} MiB to open (Argon2), and {host.reserved_bytes >> 20} MiB are reserved",
            hint="add the key with cryptsetup luksAddKey --pbkdf pbkdf2, or enlarge crashkernel=",
        )
    return None


def _options(entry: CryptEntry) -> set[str]:
    return {option.partition("=")[0] for option in entry.options}


# --- volume keys -------------------------------------------------------------------------------------------------


def _volume_key(host: HostFacts, device: CryptDevice, entry: CryptEntry | None) -> str:
    """Return the description of the device's volume key, if it can be handed over; else ""."""
    if not _can_hand_over(host, device, entry) or not host.tools.cryptsetup_takes_volume_keys:
        return ""
    own = _own_description(device)
    known = (_linked(entry) if entry else "") or (own if own in host.volume_keys else "")
    return known if len(known.encode("utf-8", "surrogateescape")) <= _DESCRIPTION_BYTES else ""


def _can_hand_over(host: HostFacts, device: CryptDevice, entry: CryptEntry | None) -> bool:
    """Tell whether the kernel can hand over a volume key that opens this device, wherever it comes from."""
    is_whole = entry is None or not _options(entry) & _NOT_FOLLOWED
    can = host.kernel.hands_over_volume_keys and host.machine in _MACHINES
    return can and bool(_is_luks(device.dm_uuid)) and device.dm_uuid.startswith(_LUKS2) and is_whole


def _linked(entry: CryptEntry) -> str:
    """Return the description of the key that is linked when the device is opened (crypttab(5), systemd 257); or "".

    It must be a logon key, which is what the kernel looks for, and in root's own keyring (@u): that of the session
    (@s) is not there for `load`.
    """
    start = "link-volume-key=@u::%logon:"
    return next((option.removeprefix(start) for option in entry.options if option.startswith(start)), "")


def _own_description(device: CryptDevice) -> str:
    return f"{VOLUME_KEY_PREFIX}{_header_uuid(device)}"


def _with_volume_key_hint(host: HostFacts, device: CryptDevice, problem: KdumpError) -> KdumpError:
    """Return the problem with a hint that tells of volume keys too, where the kernel hands them over."""
    if not _can_hand_over(host, device, None):
        return problem
    key = f"@u::%logon:{_own_description(device)}"
    update = "" if host.tools.cryptsetup_takes_volume_keys else "update cryptsetup to 2.7 and "
    return HostError(
        str(problem),
        hint=f"{update}have its volume key handed over: add link-volume-key={key} to its options in /etc/crypttab "
        f"(systemd 257), or run cryptsetup open --test-passphrase --link-vk-to-keyring {key} /dev/{device.below[0]} "
        f"at boot; or {problem.hint}",
    )
