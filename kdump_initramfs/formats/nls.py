"""Character sets that a mount asks the kernel for: nls_NAME (load_nls(), fs/nls/nls_base.c).

Sources, of the kernel: fat_fill_super() of fs/fat/inode.c, exfat_fill_super() of fs/exfat/super.c, ntfs_load_nls() of
fs/ntfs3/super.c, load_nls() of fs/jfs/super.c; defaults are of the configuration (CONFIG_FAT_DEFAULT_CODEPAGE, …).
"""

from collections.abc import Mapping, Sequence

# Where the configuration is not known: fs/fat/Kconfig, fs/exfat/Kconfig, fs/nls/Kconfig.
_DEFAULTS = {
    "CONFIG_FAT_DEFAULT_CODEPAGE": "437",
    "CONFIG_FAT_DEFAULT_IOCHARSET": "iso8859-1",
    "CONFIG_EXFAT_DEFAULT_IOCHARSET": "utf8",
    "CONFIG_NLS_DEFAULT": "iso8859-1",
}
TYPES = frozenset({"vfat", "msdos", "exfat", "ntfs3"})


def requests(fs_type: str, options: Sequence[str], config: Mapping[str, str]) -> tuple[str, ...]:
    """Return what the kernel asks modprobe for, by mount options ("codepage=850") and its configuration, sorted."""
    words = dict(option.partition("=")[::2] for option in options)

    def chosen(option: str, default: str) -> str:
        return words.get(option) or config.get(default, _DEFAULTS[default]).strip('"')

    names = set()
    if fs_type in {"vfat", "msdos"}:
        names.add(f"cp{chosen('codepage', 'CONFIG_FAT_DEFAULT_CODEPAGE')}")
    if fs_type == "vfat":
        names.add(chosen("iocharset", "CONFIG_FAT_DEFAULT_IOCHARSET"))
    elif fs_type == "exfat":
        # It needs no table for UTF-8: the kernel has its own.
        names |= {chosen("iocharset", "CONFIG_EXFAT_DEFAULT_IOCHARSET")} - {"utf8"}
    elif fs_type == "ntfs3":
        names |= {words.get("nls") or chosen("iocharset", "CONFIG_NLS_DEFAULT")} - {"utf8"}
    return tuple(sorted(f"nls_{name}" for name in names))
