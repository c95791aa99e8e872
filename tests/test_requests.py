"""What the kernel asks modprobe for after a crash: the tables of an image, and what its modprobe makes of them."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from kdump_initramfs import build, config
from kdump_initramfs.dumps import show, store
from kdump_initramfs.host.root import Root
from kdump_initramfs.image import kmod, requests
from kdump_initramfs.model import File, Link, Text
from kdump_initramfs.rehearsal import console, rehearse, verify
from tests import capture, kernels, programs
from tests.capture import CONSOLE, LOG, Environment
from tests.saving import HOOKS, record

RELEASE = "6.9.0-test"
DIR = f"/lib/modules/{RELEASE}"
IMAGE_DIR = "/lib/modules/there"
DEP = """\
kernel/fs/btrfs/btrfs.ko.xz: kernel/lib/raid6/raid6-pq.ko.xz
kernel/lib/raid6/raid6-pq.ko.xz:
kernel/crypto/xxhash_generic.ko:
kernel/crypto/blake2b_generic.ko:
kernel/crypto/cts.ko:
kernel/drivers/md/dm-cache-smq.ko:
kernel/drivers/md/faulty.ko:
kernel/fs/nls/nls_iso8859-15.ko:
kernel/drivers/net/nic.ko:
kernel/drivers/scsi/sd_mod.ko:
kernel/sound/tone.ko:
kernel/fs/unicode/utf8data.ko:
updates/dkms/dm-secret.ko:
"""
ALIAS = """\
alias fs-btrfs btrfs
alias char-major-10-234 btrfs
alias devname:btrfs-control btrfs
alias crypto-xxhash64 xxhash_generic
alias crypto-cts cts
alias crypto-crct10dif cts
alias crypto-sha256 cts
alias dm-cache-default dm_cache_smq
alias md-level--5 faulty
alias pci:v00001077d*sv*sd*bc*sc*i* nic
alias netdev-nic nic
alias block-major-8-* sd_mod
alias scsi:t-0x00* sd_mod
alias char-major-14-* tone
"""


@pytest.fixture
def modules(tmp_path: Path) -> kmod.Modules:
    directory = tmp_path / DIR.lstrip("/")
    directory.mkdir(parents=True)
    (directory / "modules.dep").write_text(DEP)
    (directory / "modules.alias").write_text(ALIAS)
    (directory / "modules.builtin").write_text("kernel/crypto/sha256_generic.ko\n")
    (directory / "modules.builtin.modinfo").write_text("sha256_generic.alias=crypto-sha256\0")
    (directory / "modules.softdep").write_text("softdep btrfs pre: blake2b_generic\n")
    return kmod.Modules(Root(str(tmp_path)), DIR)


def told(known: kmod.Modules, wanted: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return for each name what busybox's shell finds in the tables of an image with these modules."""
    programs.need("busybox")
    table, absent = requests.tables(known, known.resolve(wanted), {}, IMAGE_DIR)
    script = f'{table.content}{absent.content}echo "${{answers# }}:$needed:$absent"\n'
    found = []
    for name in names:
        words = ["busybox", "sh", "-uc", f"plain=$1 answers= needed= absent=\n{script}", "sh", kmod.normal(name)]
        found.append(subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip())
    return found


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("fs-btrfs", "btrfs: raid6_pq blake2b_generic btrfs:"),
        ("fs_btrfs", "btrfs: raid6_pq blake2b_generic btrfs:"),
        ("btrfs", "btrfs: raid6_pq blake2b_generic btrfs:"),
        ("raid6-pq", "raid6_pq: raid6_pq:"),
        ("block-major-8-0", "sd_mod: sd_mod:"),
        ("char-major-10-234", "btrfs: raid6_pq blake2b_generic btrfs:"),
        ("symbol:utf8_data_table", "utf8data: utf8data:"),
        # This kernel has a module for it, and the image has not.
        ("crypto-xxhash64", "::yes"),
        ("crypto-cts", "::yes"),
        ("dm-cache-smq", "::yes"),
        ("dm-cache-default", "::yes"),
        ("dm-secret", "::yes"),
        ("nls_iso8859-15", "::yes"),
        ("md-level--5", "::yes"),
        # Nothing of this kernel answers, or what is built in, or what storage never asks for.
        ("crypto-xxhash64-all", "::"),
        ("crypto-cts(cbc(aes))", "::"),
        ("crypto-sha256", "::"),
        ("fs-zfs", "::"),
        # Who asks has an implementation of its own.
        ("crypto-crct10dif", "::"),
        ("netdev-nic", "::"),
        ("char-major-14-0", "::"),
        ("scsi:t-0x00", "::"),
        ("", "::"),
        ("$(reboot)`x`;'\"*", "::"),
    ],
)
def test_a_name_is_answered_by_what_is_there_or_known_to_be_absent(
    modules: kmod.Modules, name: str, answer: str
) -> None:
    assert told(modules, ["btrfs", "sd_mod", "utf8data"], [name]) == [answer]


def test_an_image_with_nothing_and_one_with_all_have_tables_too(modules: kmod.Modules) -> None:
    assert told(modules, [], ["fs-btrfs", "symbol:utf8_data_table", "symbol:nfs3"]) == ["::yes", "::yes", "::"]
    every = list(modules.files)
    assert told(modules, every, ["crypto-xxhash64", "fs-zfs"]) == ["xxhash_generic: xxhash_generic:", "::"]


@pytest.mark.parametrize(
    "alias",
    [
        *("alias  btrfs", "alias esac btrfs", "alias fs-) btrfs", "alias fs-x|y btrfs", "alias # btrfs", "alias \\ x"),
        *("alias crypto-$(reboot) x", "alias crypto-`reboot`;reboot x", "alias crypto-x\\ x", "alias fs-' x"),
        *('alias fs-" x', "alias fs-x\ny x", "alias crypto-[ x", "alias crypto-[\n] x", "alias crypto-\r x\r"),
        *("alias crypto- x # y", "alias crypto-\x01 x", "alias crypto-é x", "alias ~ btrfs", "alias fs-${x} btrfs"),
    ],
)
def test_no_alias_is_a_command_or_spoils_the_others(alias: str, modules: kmod.Modules, tmp_path: Path) -> None:
    (tmp_path / DIR.lstrip("/") / "modules.alias").write_text(f"{alias}\n{ALIAS}")
    assert told(modules, ["btrfs"], ["fs-btrfs", "crypto-xxhash64", "other"]) == [
        "btrfs: raid6_pq blake2b_generic btrfs:",
        "::yes",
        "::",
    ]


@pytest.mark.parametrize("name", ["$(reboot)", "a;b", 'a"', "a`b`", "a b", "esac", "a'", "a\\", "a)", "*", "[a]"])
def test_no_name_of_a_module_is_a_command_or_spoils_the_others(
    name: str, modules: kmod.Modules, tmp_path: Path
) -> None:
    (tmp_path / DIR.lstrip("/") / "modules.dep").write_text(f"{DEP}kernel/{name}.ko:\n")
    assert told(modules, ["btrfs", name], ["fs-btrfs", "crypto-xxhash64", "other"]) == [
        "btrfs: raid6_pq blake2b_generic btrfs:",
        "::yes",
        "::",
    ]


def test_tables_of_real_kernels_answer_as_modprobe_would() -> None:
    for release, root in kernels.roots().items():
        known = kmod.Modules(Root(root), f"/lib/modules/{release}")
        there = {module.name for module in known.resolve(["btrfs", "dm_crypt", "raid456"], ["crypto-xts"])}
        asked = [alias for alias, _ in known.aliases() if ":" not in alias and not set("*?[") & set(alias)][::7]
        assert len(asked) > 50
        for name, answer in zip(asked, told(known, sorted(there), asked), strict=True):
            answers = {module for module in known.find(name) if module in there}
            assert set(answer.partition(":")[0].split()) == answers


# --- the entries of an image -----------------------------------------------------------------------------------------


def entries(tmp_path: Path, *overrides: str) -> dict[str, object]:
    words = capture.kernel_overrides(capture.release("cloud"))
    loaded = config.load(root=str(tmp_path), overrides=[*words, *overrides])
    planned = build.plan(Root(), loaded, facts_of=capture.facts(capture.target()))
    return {entry.path.removeprefix("/usr"): entry for entry in planned.entries}


def test_the_program_is_where_the_kernel_looks(tmp_path: Path) -> None:
    found = entries(tmp_path)
    link, program = found["/sbin/modprobe"], found["/lib/kdump/modprobe.sh"]
    assert isinstance(link, Link)
    assert link.target == "/lib/kdump/modprobe.sh"
    assert isinstance(program, Text)
    assert program.mode == 0o755


def test_a_modprobe_of_the_administrator_stays_where_it_is(tmp_path: Path) -> None:
    programs.need("modprobe")
    found = entries(tmp_path, 'image.extra_binaries=["/usr/sbin/modprobe"]')
    assert isinstance(found["/sbin/modprobe"], File)
    assert isinstance(found["/lib/kdump/modprobe.sh"], Text)


# --- the program -----------------------------------------------------------------------------------------------------

enter = pytest.mark.skipif(not capture.can_enter(), reason="needs root that may make namespaces and device nodes")


@pytest.fixture
def asked(environment: Environment) -> Environment:
    """Return an environment whose tables know ext4, and crypto-xxhash64 as absent."""
    environment.write(
        requests.TABLE,
        "directory=/lib/modules/there\n"
        'case $plain in ext4|fs_ext4) answers="$answers ext4" needed="$needed mbcache ext4" ;; esac\n'
        'case $plain in raid1) answers="$answers raid1" needed="$needed raid1" ;; esac\n',
    )
    environment.write(requests.ABSENT, "case $plain in crypto_xxhash64|nls[-_]cp850|a/b) absent=yes ;; esac\n")
    return environment


def ask(environment: Environment, *names: str, closed: str = "<&- >&- 2>&-") -> list[int]:
    """Ask as the kernel does, with nothing open, for one name after the other; return the statuses."""
    # With process 1 all would end, also what is still being said on the console.
    waits = '/lib/kdump/modprobe.sh -q -- "$1"; status=$?; sleep 0.2; exit $status'
    found = [environment.run(["/bin/sh", "-c", waits, "sh", name], closed=closed).status for name in names]
    return [status for status in found if status is not None]


def vain(environment: Environment) -> list[str]:
    return environment.read("/run/kdump/requests").split() if environment.exists("/run/kdump/requests") else []


def load(environment: Environment, module: str, state: str = "live") -> None:
    environment.write(f"/sys/module/{module}/initstate", f"{state}\n")


@enter
def test_what_is_loaded_is_answered_without_a_word(asked: Environment) -> None:
    load(asked, "ext4")
    assert ask(asked, "fs-ext4", "ext4") == [0, 0]
    assert vain(asked) == []
    assert asked.read(LOG) == asked.read(CONSOLE) == ""


@enter
def test_what_is_absent_is_said_once_on_the_console_and_remembered(asked: Environment) -> None:
    assert ask(asked, "nls_cp850", "crypto-xxhash64", "nls_cp850") == [1, 1, 1]
    assert vain(asked) == ["nls_cp850", "crypto-xxhash64"]
    for path in (LOG, CONSOLE):
        assert asked.read(path).count("the kernel asked for crypto-xxhash64, which is not in this image") == 1


@enter
def test_what_no_module_answers_to_is_in_the_log_alone(asked: Environment) -> None:
    assert ask(asked, "crypto-xts(aes)", "binfmt-464c", "net-pf-10", "crypto-xts(aes)") == [1] * 4
    assert vain(asked) == []
    assert asked.read(CONSOLE) == ""
    assert asked.read(LOG).count("the kernel asked for crypto-xts(aes) in vain") == 1


@enter
@pytest.mark.parametrize("content", [None, "", "no module"])
def test_what_is_there_no_more_or_cannot_be_loaded_is_named(asked: Environment, content: str | None) -> None:
    if content is not None:
        asked.write("/lib/modules/there/raid1.ko", content)
    assert ask(asked, "raid1") == [1]
    assert vain(asked) == ["raid1"]


@enter
def test_what_is_just_being_loaded_is_waited_for_but_not_for_ever(asked: Environment) -> None:
    load(asked, "raid1", "coming")
    soon = "(sleep 1; echo live >/sys/module/raid1/initstate) & /lib/kdump/modprobe.sh -q -- raid1"
    assert asked.shell(soon).status == 0
    # What asks may be what is being loaded: insmod would never come back.
    load(asked, "raid1", "coming")
    asked.write("/lib/modules/there/raid1.ko", "no module")
    assert ask(asked, "raid1") == [0]
    load(asked, "raid1", "going")
    assert ask(asked, "raid1") == [1]


@enter
@pytest.mark.parametrize(
    "name", ["a/b", "..", "*", "-q", "", "x" * 300, "-".join("x" * 9999), ".", "$(echo x >/run/kdump/requests)"]
)
def test_a_name_may_be_anything(asked: Environment, name: str) -> None:
    assert ask(asked, name) == [1]
    assert vain(asked) == (["a/b"] if name == "a/b" else [])


@enter
def test_several_at_a_time_say_a_name_once_and_all_of_it_is_bounded(asked: Environment) -> None:
    many = "for i in $(seq 8); do /lib/kdump/modprobe.sh -q -- crypto-xxhash64 & done; wait"
    assert asked.shell(many).status == 0
    assert vain(asked) == ["crypto-xxhash64"]
    for number in range(300):
        asked.write(f"/run/kdump/asked/{number}", "")
    assert ask(asked, "nls_cp850") == [1]
    assert vain(asked) == ["crypto-xxhash64"]


@enter
def test_before_init_there_is_no_proc_and_no_dev(asked: Environment) -> None:
    asked.path("/dev/null").unlink()
    for path in ("/proc/self", "/proc/uptime"):
        asked.path(path).unlink()
    assert ask(asked, "crypto-xxhash64") == [1]
    assert vain(asked) == ["crypto-xxhash64"]
    assert "the kernel asked for crypto-xxhash64" in asked.read(LOG)


@enter
def test_the_record_of_the_dump_and_the_reason_have_the_names(opened: Environment) -> None:
    for name in HOOKS[5:7]:
        opened.hook(name)
    assert record(opened)["kernel_requests"] == []
    opened.write("/run/kdump/requests", 'crypto-xxhash64\nnls_"cp850\n')
    assert record(opened)["kernel_requests"] == ["crypto-xxhash64", 'nls_"cp850']
    opened.shell("remember reason 'cannot mount it'; leave_reason")
    assert (
        'nothing could be saved: cannot mount it; the kernel asked for crypto-xxhash64, nls_"cp850, which is not in'
        in opened.read(CONSOLE)
    )
    (dump,) = store.find([str(opened.path("/target"))])
    assert "asked      the kernel asked for crypto-xxhash64, which is not in the image" in list(
        show.lines(dump, tail=0)
    )


@enter
def test_a_module_that_the_kernel_asked_for_meanwhile_is_no_failure(environment: Environment) -> None:
    environment.write("/lib/modules/there/raid1.ko", "no module")
    environment.write("/etc/kdump/modules", "/lib/modules/there/raid1.ko\n")
    load(environment, "raid1")
    assert environment.hook("20-modules").status == 0
    assert environment.read("/lib/modules/there/raid1.ko") == ""


# --- the rehearsal ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("kdump: [3.14] the kernel asked for crypto-xxhash64, which is not in this image", "crypto-xxhash64"),
        (
            "kdump: [3.14] the kernel asked for crypto-essiv(cbc(aes),sha256), which is not in this image\r",
            "crypto-essiv(cbc(aes),sha256)",
        ),
        ("\x1b[2Jkdump: [] the kernel asked for dm-cache-smq, which is not in this image", "dm-cache-smq"),
        ("[3.14] the kernel asked for crypto-xts(aes) in vain", ""),
        ("[    1.2] md: could not find the personality", ""),
    ],
)
def test_the_console_of_a_guest_tells_what_was_asked_for(line: str, name: str) -> None:
    assert console.missing_request(line) == name


def test_a_rehearsal_names_what_was_asked_for_whether_it_passes_or_not() -> None:
    for passed in (True, False):
        result = rehearse.Result(
            kernel_release=RELEASE,
            image="/i",
            accel="tcg",
            crashkernel="192M",
            checks=(verify.Check(name="one dump was saved", passed=passed),),
            seconds={},
            kernel_requests=("crypto-xxhash64", "nls_cp850"),
        )
        text = "\n".join(rehearse.summary(result))
        assert "  the kernel asked for crypto-xxhash64, which is not in the image\n" in text
        assert "  the kernel asked for nls_cp850, which is not in the image\n" in text
