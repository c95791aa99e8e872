"""A vmcore that is encrypted on the way: by the scripts of a real image, in a chroot of it, and decrypted again."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from msgspec import Struct

from kdump_initramfs.dumps import decrypt, store
from kdump_initramfs.errors import HostError, KdumpError
from kdump_initramfs.formats import compression
from tests import capture, command, programs
from tests.capture import LOG, VMCORE, Environment

pytestmark = pytest.mark.skipif(not capture.can_enter(), reason="needs root that may make namespaces and device nodes")

MEMORY = b"\x7fELF" + b"a secret of memory" * 9000
STAMP = "20231114T221320Z"


class Key(Struct, frozen=True):
    path: str
    public: str


def make_key(path: Path) -> Key:
    programs.need("age-keygen")
    made = subprocess.run(["age-keygen", "-o", path], capture_output=True, text=True, check=True)
    return Key(str(path), made.stderr.split()[-1])


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Key:
    return make_key(tmp_path_factory.mktemp("key") / "key")


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory, key: Key) -> Environment:
    directory = tmp_path_factory.mktemp("image")
    output = directory / "capture.img"
    words = ("image.compression=none", "vmcore.compression=zlib", f'vmcore.encrypt_to=["{key.public}"]')
    capture.build_image(capture.release("cloud"), capture.facts(capture.target()), output, *words)
    return Environment.unpack(output, directory / "root")


@pytest.fixture
def environment(unpacked: Environment, tmp_path: Path) -> Environment:
    made = unpacked.copy_to(tmp_path / "root")
    made.write(VMCORE, MEMORY)
    (made.directory / "target").mkdir(exist_ok=True)
    made.write("/run/kdump/vmcoreinfo", "CRASHTIME=1700000000\n")
    assert made.shell("make_directory /target").status == 0
    return made


def dump_of(environment: Environment) -> store.Dump:
    return store.read(str(environment.path(f"/target/{capture.HOST}-{STAMP}")))


def save(environment: Environment, collector: str) -> store.Dump:
    assert environment.hook("70-vmcore", before=f"export KDUMP_COLLECTORS={collector}").status == 0, environment.read(
        LOG
    )
    return dump_of(environment)


def test_copy_can_be_read_with_the_secret_key_alone(environment: Environment, key: Key, tmp_path: Path) -> None:
    dump = save(environment, "copy")
    assert os.listdir(dump.path) == ["vmcore.zst.age"]
    path = decrypt.decrypt(dump, key.path, dump.path)
    with open(path, "rb") as packed, compression.reader(packed, path) as plain:
        assert plain.read() == MEMORY
    assert oct(os.stat(path).st_mode & 0o777) == "0o600"
    assert not list(Path(dump.path).glob("*-incomplete"))


def test_makedumpfile_gives_a_stream_that_is_encrypted(environment: Environment, key: Key) -> None:
    environment.program(
        "/usr/bin/makedumpfile", "case $1 in -F) printf makedumpfile; cat /proc/vmcore ;; *) exit 1 ;; esac"
    )
    dump = save(environment, "makedumpfile")
    assert os.listdir(dump.path) == ["vmcore.flat.age"]
    assert Path(decrypt.decrypt(dump, key.path, dump.path)).read_bytes() == b"makedumpfile" + MEMORY


def test_no_byte_of_memory_is_on_the_target(environment: Environment) -> None:
    dump = save(environment, "copy")
    assert b"secret of memory" not in b"".join(path.read_bytes() for path in Path(dump.path).iterdir())


def test_secret_key_is_nowhere_in_the_image(unpacked: Environment, key: Key) -> None:
    (secret,) = re.findall("AGE-SECRET-KEY-1[A-Z0-9]+", Path(key.path).read_text())
    assert all(secret.encode() not in path.read_bytes() for path in unpacked.files("/").values())
    assert key.public in unpacked.read("/etc/kdump/recipients")


@pytest.mark.parametrize("damage", ["cut", "changed", "another key", "no key"])
def test_what_is_not_whole_or_not_ours_gives_no_file(
    damage: str, environment: Environment, key: Key, tmp_path: Path
) -> None:
    dump = save(environment, "copy")
    (sealed,) = Path(dump.path).iterdir()
    content = bytearray(sealed.read_bytes())
    identity = key.path
    match damage:
        case "cut":
            sealed.write_bytes(content[:-1])
        case "changed":
            content[-5] ^= 1
            sealed.write_bytes(content)
        case "another key":
            identity = make_key(tmp_path / "other").path
        case _:
            identity = str(tmp_path / "missing")
    with pytest.raises(HostError) as caught:
        decrypt.decrypt(dump, identity, dump.path)
    assert caught.value.hint
    assert [path.name for path in Path(dump.path).iterdir()] == [sealed.name]


def test_nothing_is_overwritten(environment: Environment, key: Key) -> None:
    dump = save(environment, "copy")
    first = decrypt.decrypt(dump, key.path, dump.path)
    with pytest.raises(KdumpError, match="is there already"):
        decrypt.decrypt(dump, key.path, dump.path)
    assert os.path.exists(first)


def test_age_that_fails_is_no_dump(environment: Environment) -> None:
    environment.program("/usr/bin/age", "head -c 100; exit 1")
    assert environment.hook("70-vmcore", before="export KDUMP_COLLECTORS=copy").status == 1
    assert os.listdir(dump_of(environment).path) == []


def test_command_prints_where_the_result_is(environment: Environment, key: Key, tmp_path: Path) -> None:
    dump = save(environment, "copy")
    to = tmp_path / "to"
    to.mkdir()
    result = command.run(
        *("dumps", "decrypt", dump.name, "--identity", key.path, "--to", str(to)),
        *("--dir", str(environment.path("/target"))),
    )
    assert result.returncode == 0, result.stderr
    assert os.path.dirname(result.stdout.strip()) == str(to)
    shutil.rmtree(dump.path)
    (Path(dump.path)).mkdir()
    problem, _ = command.complaint(
        command.run("dumps", "decrypt", "--identity", key.path, "--dir", str(environment.path("/target")))
    )
    assert problem == f"{dump.name}: no vmcore of it is encrypted"
