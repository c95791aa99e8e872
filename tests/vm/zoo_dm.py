"""Exhibits of device-mapper: its target types as dmsetup makes them, LVM's segment types, and cryptsetup's devices."""

import re

from tests.vm.zoo import EITHER, REFUSED, SAVED, Exhibit, Outcome

# $ZOO is a name that no other exhibit has.
_CLOSE = "dmsetup remove --retry $ZOO"


def _table(table: str, parts: int = 1, *, how: str = "", needs: str = "", before: str = "") -> Exhibit:
    kind = re.sub(r"\$\(\(.*?\)\)", "n", table).split()[2]
    return Exhibit(
        how=how or f"`dmsetup create`, target `{kind}`",
        make=f's=$(size $1)\n{before}\ndm $ZOO "{table}"',
        parts=parts,
        unmake=_CLOSE,
        needs=(needs,) if needs else (),
        words=kind,
    )


TABLES = {
    "dm linear": _table("0 $s linear $1 0"),
    "dm striped": _table("0 $((s * 2)) striped 2 128 $1 0 $2 0", 2),
    "dm mirror": _table("0 $s mirror core 2 1024 nosync 2 $1 0 $2 0", 2, needs="dm_mirror"),
    "dm raid1": _table("0 $s raid raid1 4 0 nosync region_size 1024 2 - $1 - $2", 2, needs="dm_raid"),
    "dm raid5": _table("0 $((s * 2)) raid raid5_ls 2 128 nosync 3 - $1 - $2 - $3", 3, needs="dm_raid"),
    "dm snapshot": _table("0 $s snapshot $1 $2 P 8", 2, needs="dm_snapshot"),
    "dm snapshot-origin": _table("0 $s snapshot-origin $1", needs="dm_snapshot"),
    "dm thin": Exhibit(
        how="`dmsetup create`, target `thin` in a `thin-pool`",
        make="""
            dm $ZOO-pool "0 $(size $2) thin-pool $1 $2 128 0" > pool
            dmsetup message $ZOO-pool 0 "create_thin 0"
            dm $ZOO "0 131072 thin $(cat pool) 0"
        """,
        parts=2,
        unmake="dmsetup remove --retry $ZOO; dmsetup remove --retry $ZOO-pool",
        needs=("dm_thin_pool",),
        words="thin",
    ),
    "dm cache": _table("0 $s cache $1 $2 $3 128 1 writeback default 0", 3, needs="dm_cache"),
    "dm writecache": _table("0 $s writecache s $1 $2 4096 0", 2, needs="dm_writecache"),
    "dm crypt": _table("0 $s crypt aes-xts-plain64 $key 0 $1 0", needs="dm_crypt", before="key=$(printf '%064d' 7)"),
    "dm delay": _table("0 $s delay $1 0 1", needs="dm_delay"),
    "dm era": _table("0 $s era $1 $2 4096", 2, needs="dm_era"),
    "dm flakey": _table("0 $s flakey $1 0 3600 0", needs="dm_flakey"),
    "dm log-writes": _table("0 $s log-writes $1 $2", 2, needs="dm_log_writes"),
    "dm multipath": _table("0 $s multipath 2 queue_mode bio 0 1 1 round-robin 0 1 1 $1 1000", needs="dm_multipath"),
    "dm switch": _table("0 $s switch 2 128 0 $1 0 $2 0", 2, needs="dm_switch"),
    "dm unstriped": _table("0 $((s / 2)) unstriped 2 128 0 $1 0", needs="dm_unstripe"),
    "dm linear, as if LVM had made it": Exhibit(
        how="`dmsetup create --uuid LVM-...`, in no volume group",
        make='dm $ZOO "0 $(size $1) linear $1 0" --uuid LVM-$(printf "%064d" 1)',
        parts=1,
        unmake=_CLOSE,
        words="LVM|logical volume|linear",
    ),
    "dm delay below LVM": Exhibit(
        how="LVM on `delay` of dmsetup",
        make="""
            # At an offset, so that LVM finds its label by one way alone.
            delayed=$(dm $ZOO "0 $(($(size $1) - 2048)) delay $1 2048 1")
            volume $ZOO "$delayed" -- --extents 100%FREE
        """,
        parts=1,
        unmake="drop_group $ZOO; dmsetup remove --retry $ZOO",
        needs=("dm_delay",),
        words="delay",
    ),
    "dm integrity": Exhibit(
        how="`integritysetup`",
        make="""
            integritysetup format --batch-mode --no-wipe $1
            integritysetup open $1 $ZOO
            # Whatever is written first is never read before.
            dd if=/dev/zero of=/dev/mapper/$ZOO bs=1M oflag=direct 2> /dev/null || true
            echo /dev/mapper/$ZOO
        """,
        parts=1,
        unmake="integritysetup close $ZOO",
        reopen="integritysetup open $1 $ZOO",
        needs=("dm_integrity",),
        words=r"integrity",
        right=EITHER,
    ),
    "dm verity": Exhibit(
        how="`veritysetup`, read-only",
        make="""
            mkfs.ext4 -q -F -b 4096 $1
            root=$(veritysetup format $1 $2 | sed -n 's/^Root hash:[[:space:]]*//p')
            veritysetup open $1 $ZOO $2 "$root"
            echo /dev/mapper/$ZOO
        """,
        parts=2,
        mkfs="",
        options="ro",
        unmake="veritysetup close $ZOO",
        needs=("dm_verity",),
        words=r"verity|read-only",
    ),
}

_GROUP = "drop_group $ZOO"


def _volume(
    arguments: str, parts: int, *, needs: str = "", right: frozenset[Outcome] = SAVED, then: str = ""
) -> Exhibit:
    return Exhibit(
        how=f"`lvcreate {arguments}`" + (f", `{then}`" if then else ""),
        make=f'volume $ZOO "$@" -- {arguments}' + (f"\n{{ {then}; }} > /dev/null\nudevadm settle" if then else ""),
        parts=parts,
        unmake=_GROUP,
        reopen="vgchange --quiet --activate y",
        needs=(needs,) if needs else (),
        words=r"logical volume|LVM|lvm",
        right=right,
    )


VOLUMES = {
    "LVM linear": _volume("--size 80M", 1),
    "LVM mirror": _volume("--type mirror --mirrors 1 --mirrorlog core --nosync --size 80M", 2, needs="dm_mirror"),
    "LVM raid0": _volume("--type raid0 --stripes 2 --size 80M", 2, needs="dm_raid"),
    "LVM raid4": _volume("--type raid4 --stripes 2 --nosync --size 80M", 3, needs="dm_raid"),
    "LVM raid6": _volume("--type raid6 --stripes 3 --size 80M", 5, needs="dm_raid"),
    "LVM raid10": _volume("--type raid10 --stripes 2 --mirrors 1 --nosync --size 80M", 4, needs="dm_raid"),
    "LVM snapshot itself": Exhibit(
        how="`lvcreate --snapshot`, the snapshot as the target",
        make="""
            node=$(volume $ZOO $1 -- --size 64M)
            mkfs.ext4 -q -F "$node"
            lvcreate --quiet --snapshot --size 24M --name snap $ZOO/lv > /dev/null
            udevadm settle
            echo /dev/$ZOO/snap
        """,
        parts=1,
        mkfs="",
        unmake=_GROUP,
        reopen="vgchange --quiet --activate y",
        needs=("dm_snapshot",),
        words=r"snapshot|COW|cow",
        right=EITHER,
    ),
    "LVM thin snapshot of an external origin": Exhibit(
        how="`lvcreate --thin` of a read-only origin",
        make="""
            node=$(volume $ZOO $1 $2 -- --size 64M)
            mkfs.ext4 -q -F "$node"
            lvchange --quiet --permission r $ZOO/lv
            lvchange --quiet --activate n $ZOO/lv
            lvcreate --quiet --type thin-pool --size 64M --name pool $ZOO > /dev/null
            lvcreate --quiet --type thin --thinpool pool --name snap $ZOO/lv > /dev/null
            lvchange --quiet --activate y --ignoreactivationskip $ZOO/snap
            udevadm settle
            echo /dev/$ZOO/snap
        """,
        parts=2,
        mkfs="",
        unmake=_GROUP,
        reopen="vgchange --quiet --activate y --ignoreactivationskip $ZOO",
        needs=("dm_thin_pool",),
        words=r"thin|logical volume",
        right=EITHER,
    ),
    "LVM writecache": _volume(
        "--size 64M",
        2,
        needs="dm_writecache",
        then="lvcreate --quiet --activate n --zero n --wipesignatures n --size 24M --name fast $ZOO $2; "
        "lvconvert --quiet --yes --type writecache --cachevol fast $ZOO/lv",
    ),
    "LVM cachevol": _volume(
        "--size 64M",
        2,
        needs="dm_cache",
        then="lvcreate --quiet --activate n --zero n --wipesignatures n --size 24M --name fast $ZOO $2; "
        "lvconvert --quiet --yes --type cache --cachevol fast $ZOO/lv",
    ),
}

_KEY = "key=/etc/keys/$ZOO"


def _luks(arguments: str, *, right: frozenset[Outcome] = SAVED, needs: tuple[str, ...] = (), parts: int = 1) -> Exhibit:
    return Exhibit(
        how=f"`cryptsetup luksFormat {arguments}`",
        make=f"luks $ZOO $1 {arguments}",
        parts=parts,
        unmake="cryptsetup close $ZOO; sed -i '/^'$ZOO' /d' /etc/crypttab",
        reopen=f"{_KEY}\ncryptsetup open --key-file $key $1 $ZOO",
        needs=("dm_crypt", *needs),
        words=r"LUKS|crypt|integrity",
        right=right,
    )


CRYPT = {
    "LUKS2, serpent": _luks("--type luks2 --cipher serpent-xts-plain64"),
    "LUKS2, twofish-cbc-essiv": _luks("--type luks2 --cipher twofish-cbc-essiv:sha256 --key-size 256"),
    "LUKS1, camellia": _luks("--type luks1 --cipher camellia-xts-plain64 --hash sha512"),
    "LUKS2 with integrity": _luks("--type luks2 --integrity hmac-sha256", right=EITHER, needs=("dm_integrity",)),
    "LUKS2, header on another device": Exhibit(
        how="`cryptsetup luksFormat --header`",
        make="luks $ZOO $1 --type luks2 --header $2",
        parts=2,
        unmake="cryptsetup close $ZOO; sed -i '/^'$ZOO' /d' /etc/crypttab",
        reopen=f"{_KEY}\ncryptsetup open --key-file $key --header $2 $1 $ZOO",
        needs=("dm_crypt",),
        words=r"header|LUKS",
        right=EITHER,
    ),
    "TrueCrypt-like plain device": Exhibit(
        how="`cryptsetup open --type plain`",
        make="""
            key_file /etc/keys/$ZOO
            cryptsetup open --type plain --batch-mode --cipher aes-xts-plain64 --key-size 256 \\
                --key-file /etc/keys/$ZOO $1 $ZOO
            echo /dev/mapper/$ZOO
        """,
        parts=1,
        unmake="cryptsetup close $ZOO",
        needs=("dm_crypt",),
        words=r"not by LUKS|plain",
        right=REFUSED,
    ),
}
