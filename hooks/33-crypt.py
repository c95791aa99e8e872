"""Open the LUKS devices that targets stand on, with the key file that /etc/crypttab names."""

from kdump_initramfs.config import Config
from kdump_initramfs.errors import HostError, KdumpError, raise_together
from kdump_initramfs.model import (
    BlockDevice,
    Contribution,
    CryptEntry,
    File,
    HostFacts,
    OnFailure,
    Phase,
    TargetFacts,
)

# What dm-crypt and cryptsetup ask the kernel for by name, as aliases of modules; one that a kernel has built in, or
# does not have, is passed over.
_ALGORITHMS = (
    *("crypto-aes", "crypto-xts", "crypto-cbc", "crypto-ecb", "crypto-essiv", "crypto-sha1", "crypto-sha256"),
    *("crypto-sha512", "crypto-hmac"),
)
# Options of crypttab(5) without which the key file alone does not open the device.
_NOT_FOLLOWED = frozenset({"header", "keyfile-offset", "keyfile-size", "keyscript", "offset", "skip"})
_PREFIX = ("CRYPT-LUKS1-", "CRYPT-LUKS2-")


def contribute(config: Config, host: HostFacts) -> Contribution | None:
    devices = {position: _devices(target) for position, target in enumerate(host.targets)}
    every = {device.name: (host.targets[position], device) for position, found in devices.items() for device in found}
    if not every:
        return None
    if not host.tools.cryptsetup:
        raise HostError("cryptsetup: no such program, but the dump target is encrypted", hint="install cryptsetup")
    keys = _keys(host, list(every.values()))
    return Contribution(
        binaries=(host.tools.cryptsetup,),
        modules=("dm_mod", "dm_crypt"),
        modaliases=_ALGORITHMS,
        entries=tuple(
            File(path=key, source=key, mode=0o600, reason="key file of crypttab") for key in sorted(set(keys.values()))
        ),
        target_settings={
            position: {
                "KDUMP_CRYPTSETUP": host.tools.cryptsetup,
                # For each: UUID of its header, name, dm UUID, key file. The name is ours, the same for all targets.
                "KDUMP_CRYPT": " ".join(
                    f"{_header_uuid(device)} kdump{number} {_dm_uuid(device)}kdump{number} {keys[device.dm_name]}"
                    for device in found
                    for number in [list(every).index(device.name)]
                ),
            }
            for position, found in devices.items()
            if found
        },
        provides=tuple(every),
        phase=Phase.STORAGE,
        on_failure=OnFailure.STOP,
    )


def _devices(target: TargetFacts) -> tuple[BlockDevice, ...]:
    """Return the encrypted devices, the lowest first: the order in which they can be opened."""
    return tuple(device for device in reversed(target.stack) if device.kind == "crypt")


def _header_uuid(device: BlockDevice) -> str:
    """Return the UUID of the LUKS header, which dm/uuid has without dashes: CRYPT-LUKS2-UUID-NAME."""
    raw = device.dm_uuid.split("-")[2]
    return "-".join((raw[:8], raw[8:12], raw[12:16], raw[16:20], raw[20:]))


def _dm_uuid(device: BlockDevice) -> str:
    """Return dm/uuid without the name at its end."""
    return "-".join(device.dm_uuid.split("-")[:3]) + "-"


def _keys(host: HostFacts, devices: list[tuple[TargetFacts, BlockDevice]]) -> dict[str, str]:
    """Return name -> key file; what stands against opening a device unattended is raised for all of them together."""
    entries = {entry.name: entry for entry in host.crypttab}
    errors: list[KdumpError] = [
        problem
        for target, device in devices
        if (problem := _problem(host, target, device, entries.get(device.dm_name))) is not None
    ]
    raise_together(errors)
    return {device.dm_name: entries[device.dm_name].key_file for _, device in devices}


def _problem(host: HostFacts, target: TargetFacts, device: BlockDevice, entry: CryptEntry | None) -> KdumpError | None:
    where = f"{target.name}: {device.name} ({device.dm_name})"
    if not device.dm_uuid.startswith(_PREFIX):
        return HostError(
            f"{where} is encrypted, but not by LUKS", hint="name a target that is on LUKS or not encrypted"
        )
    if entry is None or not entry.key_file.startswith("/"):
        return HostError(
            f"{where} is opened by a passphrase, which nobody can type after a crash",
            hint="add a key file with cryptsetup luksAddKey and name it in /etc/crypttab, or name another target",
        )
    unknown = sorted({option.partition("=")[0] for option in entry.options} & _NOT_FOLLOWED)
    if unknown:
        return HostError(
            f"{where}: what /etc/crypttab says of it ({', '.join(unknown)}) is not followed after a crash",
            hint="add a whole file as a key with cryptsetup luksAddKey and name that, or name another target",
        )
    needed = max((below.luks_kdf_kib for below in target.under(device)), default=0) << 10
    if host.reserved_bytes and needed > host.reserved_bytes // 2:
        return HostError(
            f"{where} takes {needed >> 20} MiB to open (Argon2), and {host.reserved_bytes >> 20} MiB are reserved",
            hint="add the key with cryptsetup luksAddKey --pbkdf pbkdf2, or enlarge crashkernel=",
        )
    return None
