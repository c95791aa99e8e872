"""Save the memory of the crashed kernel, by the collectors of a ladder: the first that succeeds ends it."""

from kdump_initramfs.config import Config
from kdump_initramfs.errors import HostError
from kdump_initramfs.formats import makedumpfile
from kdump_initramfs.model import Contribution, HostFacts, Saver, Text

# Option of makedumpfile(8) for each compression, in the order of preference: lzo is the fastest by far, zlib the
# slowest, and a machine that dumps is down.
_MAKEDUMPFILE_OPTIONS = {"lzo": "-l", "snappy": "-p", "zstd": "-z", "zlib": "-c"}


def contribute(config: Config, host: HostFacts) -> Contribution:
    collectors = _collectors(config, host)
    copy_compression = _copy_compression(config, host)
    lost = makedumpfile.lost_pages(host.tools.makedumpfile_blind_from, host.kernel.release)
    dump_level = makedumpfile.safe_level(config.vmcore.dump_level, lost)
    # What is left out beside that where the dump does not fit.
    least = dump_level | makedumpfile.safe_level("auto", lost)
    warnings = _warnings(collectors, config, host, lost)
    return Saver(
        binaries=tuple(
            path
            for path in (_makedumpfile(collectors, host), _zstd(copy_compression, host), _age(config, host))
            if path
        ),
        entries=_recipients(config),
        settings={
            "KDUMP_COLLECTORS": " ".join(collectors),
            "KDUMP_MAKEDUMPFILE_ARGUMENTS": " ".join(_makedumpfile_arguments(collectors, config, host, dump_level)),
            # For where the dump does not fit; nothing where it cannot become smaller.
            "KDUMP_LEAST_ARGUMENTS": " ".join(_makedumpfile_arguments(collectors, config, host, least))
            if dump_level != least
            else "",
            # What the record of the dump says of it.
            "KDUMP_LEVEL_NOTE": "; ".join(warnings),
            "KDUMP_STALL_S": str(config.capture.stall_s),
            "KDUMP_COPY_COMPRESSION": copy_compression,
            "KDUMP_ZSTD": _zstd(copy_compression, host),
            # Encrypts on the way; nothing where the vmcore is not encrypted.
            "KDUMP_AGE": _age(config, host),
        },
        required=True,
        unlimited=True,
        warnings=warnings,
    )


def _collectors(config: Config, host: HostFacts) -> tuple[str, ...]:
    match config.vmcore.collector:
        case "dmesg" | "copy" as alone:
            return (alone,)
        case "makedumpfile" if not host.tools.makedumpfile:
            raise HostError(
                "makedumpfile: no such program, but vmcore.collector asks for it",
                hint="install makedumpfile, or leave vmcore.collector at auto for a plain copy",
            )
        case "auto" if not host.tools.makedumpfile:
            return ("copy",)
        case _:
            return ("makedumpfile", "copy")


def _makedumpfile(collectors: tuple[str, ...], host: HostFacts) -> str:
    return host.tools.makedumpfile if "makedumpfile" in collectors else ""


def _makedumpfile_arguments(
    collectors: tuple[str, ...], config: Config, host: HostFacts, dump_level: int
) -> tuple[str, ...]:
    if "makedumpfile" not in collectors:
        return ()
    wanted: str = config.vmcore.compression
    able = host.tools.makedumpfile_compressions
    if wanted in ("auto", "gzip"):
        wanted = next((kind for kind in _MAKEDUMPFILE_OPTIONS if kind in able), "none")
    elif wanted != "none" and wanted not in able:
        raise HostError(
            f"{host.tools.makedumpfile}: was built without {wanted}, which vmcore.compression asks for",
            hint=f"it can: {', '.join(able) or 'nothing'}; or leave vmcore.compression at auto",
        )
    # Messages: 2 common, 4 error, 16 report; no progress, which is a carriage return for every per cent.
    option = _MAKEDUMPFILE_OPTIONS.get(wanted)
    return (*([option] if option else []), "-d", str(dump_level), "--message-level", "22")


def _warnings(collectors: tuple[str, ...], config: Config, host: HostFacts, lost: str) -> tuple[str, ...]:
    if not lost or "makedumpfile" not in collectors:
        return ()
    wanted = config.vmcore.dump_level
    pair = f"{host.tools.makedumpfile} takes {lost} of kernel {host.kernel.release} for user data"
    if wanted == "auto":
        return (f"{pair}: dump level {makedumpfile.safe_level(wanted, lost)} instead of 31, which keeps user data",)
    if not makedumpfile.loses_pages(wanted, lost):
        return ()
    return (f"{pair}: at vmcore.dump_level = {wanted} the dump lacks them, and crash(8) may not be able to read it",)


def _copy_compression(config: Config, host: HostFacts) -> str:
    wanted = config.vmcore.compression
    if wanted in ("none", "gzip"):
        return wanted
    if wanted == "zstd" and not host.tools.zstd and config.vmcore.collector == "copy":
        raise HostError("zstd: no such program, but vmcore.compression asks for it", hint="install zstd, or take gzip")
    # Behind makedumpfile the copy is a last resort: busybox has gzip, and zstd would be the largest file of the image.
    if "makedumpfile" in _collectors(config, host) and wanted == "auto":
        return "gzip"
    return "zstd" if host.tools.zstd else "gzip"


def _zstd(copy_compression: str, host: HostFacts) -> str:
    return host.tools.zstd if copy_compression == "zstd" else ""


def _age(config: Config, host: HostFacts) -> str:
    if not config.vmcore.encrypt_to:
        return ""
    if not host.tools.age:
        raise HostError("age: no such program, but vmcore.encrypt_to asks for it", hint="install age")
    return host.tools.age


def _recipients(config: Config) -> tuple[Text, ...]:
    keys = config.vmcore.encrypt_to
    if not keys:
        return ()
    content = "".join(f"{key}\n" for key in keys)
    return (Text(path="/etc/kdump/recipients", content=content, reason="public keys of vmcore.encrypt_to"),)
