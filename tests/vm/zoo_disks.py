"""Exhibits of arrays, loop devices, disks of memory and of a network, and hardware that QEMU plays."""

from tests.vm.zoo import EITHER, SAVED, Exhibit, Outcome


def _array(
    level: str,
    parts: int,
    options: str = "--assume-clean",
    *,
    needs: str,
    right: frozenset[Outcome] = SAVED,
) -> Exhibit:
    return Exhibit(
        how=f"`mdadm --create --level {level} {options}`",
        make=f'array $ZOO {level} "$@" -- {options}',
        parts=parts,
        unmake='drop_array $ZOO "$@"',
        reopen="assemble",
        needs=(needs,),
        words=r"md|array",
        right=right,
    )


def _container(metadata: str) -> Exhibit:
    return Exhibit(
        how=f"`mdadm --create --metadata {metadata}`, RAID1 in the container",
        make=f"""
            export IMSM_NO_PLATFORM=1 IMSM_DEVNAME_AS_SERIAL=1
            # mdadm takes no partition for IMSM.
            container $ZOO-outer $(losetup --find --show $1) $(losetup --find --show $2) -- --metadata {metadata}
            inside $ZOO-outer $ZOO
        """,
        parts=2,
        unmake="mdadm --stop /dev/md/$ZOO; mdadm --stop /dev/md/$ZOO-outer; losetup --detach-all",
        needs=("raid1",),
        words=rf"{metadata}|external|container|IMSM|DDF",
    )


ARRAYS = {
    "md linear": _array("linear", 2, "--rounding 64", needs="linear"),
    "md raid4": _array("4", 3, needs="raid456"),
    "md raid1, metadata 0.90": _array("1", 2, "--assume-clean --metadata 0.90", needs="raid1"),
    "md raid1, metadata 1.0 and a bitmap": _array(
        "1", 2, "--assume-clean --metadata 1.0 --bitmap internal", needs="raid1"
    ),
    "md raid5 with a journal": Exhibit(
        how="`mdadm --create --level 5 --write-journal`",
        make="array $ZOO 5 $1 $2 $3 -- --write-journal $4",
        parts=4,
        unmake='drop_array $ZOO "$@"',
        reopen="assemble",
        needs=("raid456",),
        words=r"md|array|journal",
        right=EITHER,
    ),
    "md faulty": _array("faulty", 1, "", needs="faulty", right=EITHER),
    "md multipath": _array("multipath", 1, "--force", needs="multipath", right=EITHER),
    "md IMSM": _container("imsm"),
    "md DDF": _container("ddf"),
}

_BACKING = "mkfs.ext4 -q -F $1; mkdir -p /run/$ZOO; mount $1 /run/$ZOO; truncate -s 80M /run/$ZOO/file"
_DETACH = "losetup --detach {node}; umount /run/$ZOO"

LOOPS = {
    "loop, at an offset": Exhibit(
        how="`losetup --offset`",
        make=f"{_BACKING}\nlosetup --find --show --offset 1048576 /run/$ZOO/file",
        parts=1,
        unmake=_DETACH,
        reopen="mkdir -p /run/$ZOO; mount $1 /run/$ZOO\nlosetup --find --offset 1048576 /run/$ZOO/file",
        needs=("loop",),
        right=SAVED,
    ),
    "loop on a part of a file": Exhibit(
        how="`losetup --sizelimit`",
        make=f"{_BACKING}\nlosetup --find --show --sizelimit 41943040 /run/$ZOO/file",
        parts=1,
        unmake=_DETACH,
        needs=("loop",),
        words="loop",
    ),
    "loop on a block device": Exhibit(
        how="`losetup` of a partition",
        make="losetup --find --show $1",
        parts=1,
        unmake="losetup --detach {node}",
        reopen="losetup --find $1",
        needs=("loop",),
        words="loop",
        right=EITHER,
    ),
    "loop on tmpfs": Exhibit(
        how="`losetup` of a file in /run",
        make="truncate -s 64M /run/$ZOO; losetup --find --show /run/$ZOO",
        unmake="losetup --detach {node}; rm /run/$ZOO",
        needs=("loop",),
        words="loop|tmpfs",
    ),
    "loop on a removed file": Exhibit(
        how="`losetup`, then `rm`",
        make=f"{_BACKING}\nlosetup --find --show /run/$ZOO/file\nrm /run/$ZOO/file",
        parts=1,
        unmake=_DETACH,
        needs=("loop",),
        words="loop",
    ),
}

MEMORY = {
    "zram": Exhibit(
        how="`disksize` of zram",
        make="modprobe zram; udevadm settle; echo 64M > /sys/block/zram0/disksize; udevadm settle; echo /dev/zram0",
        unmake="echo 1 > /sys/block/zram0/reset; rmmod zram",
        needs=("zram",),
        words="zram|memory",
    ),
    "brd": Exhibit(
        how="`modprobe brd`",
        make="modprobe brd rd_nr=1 rd_size=65536; udevadm settle; echo /dev/ram0",
        unmake="rmmod brd",
        needs=("brd",),
        words="ram|memory|brd",
    ),
    "null_blk": Exhibit(
        how="null_blk with `memory_backed`",
        make="""
            configfs; modprobe null_blk nr_devices=0; zoo=/sys/kernel/config/nullb/zoo; mkdir $zoo
            echo 1 > $zoo/memory_backed; echo 64 > $zoo/size
            appeared sh -c "echo 1 > $zoo/power"
        """,
        unmake="rmdir /sys/kernel/config/nullb/zoo; rmmod null_blk",
        needs=("null_blk",),
        words="null|memory",
    ),
    "scsi_debug": Exhibit(
        how="`modprobe scsi_debug`",
        make="appeared modprobe scsi_debug dev_size_mb=64",
        unmake="rmmod scsi_debug",
        needs=("scsi_debug", "sd_mod"),
        words="scsi_debug|memory|adapter|SCSI",
    ),
    "mtdblock on mtdram": Exhibit(
        how="`modprobe mtdram mtdblock`",
        make="modprobe mtdram total_size=65536 erase_size=64; appeared modprobe mtdblock",
        unmake="rmmod mtdblock mtdram",
        needs=("mtdram", "mtdblock"),
        words="mtd",
    ),
    "mtdblock on block2mtd": Exhibit(
        how="`modprobe block2mtd` of a partition",
        make='modprobe mtdblock; appeared modprobe block2mtd "block2mtd=$1,65536"',
        parts=1,
        unmake="rmmod block2mtd",
        needs=("block2mtd", "mtdblock"),
        words="mtd",
        right=EITHER,
    ),
    "ublk": Exhibit(
        how="a server in user space",
        make="modprobe ublk_drv; appeared ublk_serve $1",
        parts=1,
        unmake="kill $(cat /run/ublk.pid); sleep 2",
        needs=("ublk_drv",),
        words="ublk",
    ),
    "pmem of memmap=": Exhibit(
        how="`memmap=96M!512M` on the command line",
        make="modprobe -a nd_e820 nd_pmem; udevadm settle; block_where '*e820_pmem*'",
        needs=("nd_e820", "nd_pmem"),
        words="pmem|memory|nd_",
        right=EITHER,
    ),
}

# A cache set has no file system; what is made on it is the kind that bcache itself makes.
CACHES = {
    "bcache": Exhibit(
        how="`make-bcache -B -C --writeback`",
        make="modprobe bcache; appeared register_bcache $1 $2",
        parts=2,
        unmake="drop_bcache",
        reopen="modprobe bcache; register $1 $2",
        needs=("bcache",),
        words="bcache",
        right=EITHER,
    ),
    "drbd": Exhibit(
        how="`drbdadm primary --force` without its peer",
        make="modprobe drbd; drbd_resource $(backing); appeared drbd_up",
        unmake="drbdadm down zoo; rmmod drbd; drop_backing",
        needs=("drbd",),
        words="drbd",
    ),
}

_LIO = "/sys/kernel/config/target"

NETWORK = {
    "nbd": Exhibit(
        how="`nbd-client 127.0.0.1`",
        make="ip link set lo up; modprobe nbd max_part=0; udevadm settle; nbd_serve $(backing); echo /dev/nbd0",
        unmake="nbd-client -d /dev/nbd0; kill $(cat /run/nbd.pid); sleep 1; rmmod nbd; drop_backing",
        needs=("nbd",),
        words="nbd|network",
    ),
    "NVMe/TCP": Exhibit(
        how="nvmet on 127.0.0.1, `transport=tcp`",
        make="""
            ip link set lo up; modprobe -a nvmet-tcp nvme-tcp
            nvme_target $(backing) 1 tcp traddr 127.0.0.1 trsvcid 4420 adrfam ipv4
            appeared nvme_connect transport=tcp,traddr=127.0.0.1,trsvcid=4420
        """,
        unmake="nvme_drop 1; drop_backing",
        needs=("nvmet_tcp", "nvme_tcp"),
        words="tcp|TCP|network|fabric",
    ),
    "NVMe loop": Exhibit(
        how="nvmet, `transport=loop`",
        make="modprobe nvme-loop; nvme_target $(backing) 2 loop; appeared nvme_connect transport=loop",
        unmake="nvme_drop 2; drop_backing",
        needs=("nvme_loop",),
        words="loop|fabric",
    ),
    "iSCSI": Exhibit(
        how="LIO and open-iscsi on 127.0.0.1",
        make="ip link set lo up; lio_backend $(backing); iscsi_target; appeared iscsi_login",
        unmake="iscsiadm -m node -u > /dev/null; iscsi_drop; drop_backing",
        needs=("iscsi_target_mod", "iscsi_tcp", "target_core_iblock", "sd_mod"),
        words="iSCSI|iscsi|session|network",
    ),
    "tcm_loop": Exhibit(
        how="LIO's `loopback`",
        make="modprobe tcm_loop; lio_backend $(backing); appeared tcm_loop_up",
        unmake=f"lio_drop {_LIO}/loopback/naa.60014050000000aa/tpgt_1; drop_backing",
        needs=("tcm_loop", "target_core_iblock", "sd_mod"),
        words="tcm|SCSI|adapter|loopback",
    ),
    "AoE": Exhibit(
        how="`vblade` behind a veth pair",
        make="modprobe aoe; appeared aoe_up $(backing)",
        unmake="kill $(cat /run/vblade.pid); ip link delete zoo0; rmmod aoe; drop_backing",
        needs=("aoe", "veth"),
        words="aoe|AoE|etherd|network",
    ),
}

# --- hardware ----------------------------------------------------------------------------------------------------


def drive(directory: str, name: str, flags: str = "") -> tuple[str, ...]:
    return ("-drive", f"id={name},if=none,format=raw,cache=unsafe,file={directory}/{name}{flags}")


def shared(directory: str) -> tuple[str, ...]:
    """Return QEMU's words for an NVMe disk, a file in a directory, that two controllers of one subsystem have."""
    return (
        *(*drive(directory, "shared"), "-device", "nvme-subsys,id=subsystem,nqn=zoo-shared"),
        *(word for path in "01" for word in ("-device", f"nvme,id=path{path},serial=shared,subsys=subsystem")),
        *("-device", "nvme-ns,drive=shared,bus=path0,nsid=1,shared=on"),
    )


def hardware(directory: str) -> tuple[str, ...]:
    """Return QEMU's words for the disks of HARDWARE, whose files are in a directory."""
    return (
        *(*drive(directory, "mmc"), "-device", "sdhci-pci", "-device", "sd-card,drive=mmc"),
        *shared(directory),
        *("-machine", "nvdimm=on", "-m", "slots=2,maxmem=4G"),
        *("-object", f"memory-backend-file,id=pmem,share=on,size=128M,mem-path={directory}/pmem"),
        *("-device", "nvdimm,memdev=pmem"),
        *("-object", f"memory-backend-file,id=vpmem,share=on,size=128M,mem-path={directory}/vpmem"),
        *("-device", "virtio-pmem-pci,memdev=vpmem"),
        *(*drive(directory, "floppy"), "-device", "isa-fdc", "-device", "floppy,drive=floppy"),
        *(*drive(directory, "sealed", ",readonly=on"), "-device", "virtio-blk-pci,drive=sealed,serial=sealed"),
        *(*drive(directory, "cdrom", ",readonly=on"), "-device", "virtio-scsi-pci", "-device", "scsi-cd,drive=cdrom"),
    )


HARDWARE = {
    "SD card": Exhibit(
        how="`sdhci-pci`, `sd-card`",
        make="modprobe -a sdhci-pci mmc_block; udevadm settle; sleep 2; udevadm settle; echo /dev/mmcblk0",
        mkfs="mkfs.ext4 -q -F {node} 100M",
        reopen="modprobe -a sdhci-pci mmc_block; sleep 2",
        needs=("sdhci_pci", "mmc_block"),
        words="mmc",
        right=SAVED,
    ),
    "NVMe with native multipath": Exhibit(
        how="`nvme-subsys`, two controllers",
        make="modprobe nvme; udevadm settle; block_where '/sys/devices/virtual/nvme-subsystem/*'",
        needs=("nvme",),
        right=SAVED,
    ),
    "NVDIMM": Exhibit(
        how="`nvdimm`",
        make="modprobe -a nfit nd_pmem; udevadm settle; block_where '*LNX*ndbus*'",
        reopen="modprobe -a nfit nd_pmem",
        needs=("nfit", "nd_pmem"),
        words="pmem|nd_",
        right=EITHER,
    ),
    "virtio-pmem": Exhibit(
        how="`virtio-pmem-pci`",
        make="modprobe -a virtio_pmem nd_pmem; udevadm settle; block_where '*virtio*ndbus*'",
        reopen="modprobe -a virtio_pmem nd_pmem",
        needs=("virtio_pmem", "nd_pmem"),
        words="pmem|nd_",
        right=EITHER,
    ),
    "floppy": Exhibit(
        how="`isa-fdc`, `floppy`",
        make="modprobe floppy; udevadm settle; echo /dev/fd0",
        mkfs="mkfs.ext4 -q -F -O ^has_journal {node}",
        reopen="modprobe floppy",
        needs=("floppy",),
        words="floppy|fd0|size",
        right=EITHER,
    ),
    "disk that cannot be written": Exhibit(
        how="`virtio-blk-pci`, `readonly=on`",
        make="readlink -f /dev/disk/by-id/virtio-sealed",
        mkfs="",
        options="ro",
        words="read-only|written",
    ),
    "CD-ROM": Exhibit(
        how="`scsi-cd`",
        make="modprobe -a virtio_scsi sr_mod; udevadm settle; echo /dev/sr0",
        mkfs="",
        options="ro",
        needs=("sr_mod",),
        words="sr0|read-only|written|CD",
    ),
}

# --- file systems that need more than their own driver -----------------------------------------------------------


def _fs(command: str, parts: int = 1, *, options: str = "", needs: tuple[str, ...]) -> Exhibit:
    return Exhibit(
        how=f"`{command}`" + (f", mounted with `{options}`" if options else ""),
        make=f"{command.replace('mkfs.btrfs', 'mkfs.btrfs -q -f')} > /dev/null\nudevadm settle\necho $1",
        parts=parts,
        mkfs="",
        options=options,
        needs=needs,
        words=r"xfs|ext4|f2fs|btrfs|device",
        right=EITHER,
    )


FILE_SYSTEMS = {
    "btrfs, sha256": _fs("mkfs.btrfs -m single --csum sha256 $1", needs=("btrfs", "sha256_generic")),
    "btrfs, blake2": _fs("mkfs.btrfs -m single --csum blake2 $1", needs=("btrfs", "blake2b_generic")),
    "btrfs, zstd": _fs("mkfs.btrfs -m single $1", options="compress-force=zstd", needs=("btrfs",)),
    "ext4, casefold": _fs("mkfs.ext4 -q -F -O casefold $1", needs=("ext4",)),
    "f2fs, lz4": _fs("mkfs.f2fs -q -f -O extra_attr,compression $1", options="compress_algorithm=lz4", needs=("f2fs",)),
    "f2fs on two devices": _fs("mkfs.f2fs -q -f -c $2 $1", 2, needs=("f2fs",)),
    "XFS, realtime device": _fs("mkfs.xfs --unsupported -q -f -r rtdev=$2 $1", 2, options="rtdev=$2", needs=("xfs",)),
}
