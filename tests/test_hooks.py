"""Hooks: the shipped ones and those of a site, and how every way of being broken is named."""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kdump_initramfs import config, hooks, resources
from kdump_initramfs.errors import HookError, KdumpError, SeveralProblemsError
from kdump_initramfs.host import probe
from kdump_initramfs.host.root import Root
from kdump_initramfs.model import BootStep, HookRun
from tests import trees

IMPORTS = "from kdump_initramfs.model import BuildOnly, Saver\n"


@pytest.fixture
def site(host_root: Callable[[str], Root]) -> Path:
    """Return the directory for the site's hooks on a machine for which the shipped ones are at peace."""
    directory = Path(host_root("debian-lvm-ext4").directory + hooks.SITE_DIRECTORY)
    directory.mkdir(parents=True)
    return directory


def root_of(site: Path) -> Root:
    return Root(str(site).removesuffix(hooks.SITE_DIRECTORY))


def contribute(site: Path) -> dict[str, HookRun]:
    root = root_of(site)
    return {run.name: run for run in hooks.contribute(config.Config(), probe.read(root, config.Config()), root=root)}


def problem(site: Path) -> KdumpError:
    with pytest.raises(KdumpError) as caught:
        contribute(site)
    assert not isinstance(caught.value, SeveralProblemsError)
    assert "\n" not in str(caught.value)
    assert caught.value.hint
    return caught.value


def test_number_is_the_order_and_one_of_either_half_is_enough(site: Path) -> None:
    (site / "05-early.sh").write_text("exit 0\n")
    (site / "99-late.py").write_text(f"{IMPORTS}def contribute(config, host): return BuildOnly()\n")
    names = list(contribute(site))
    assert names == sorted(names)
    assert (names[0], names[-1]) == ("05-early", "99-late")


def test_script_alone_runs_before_the_targets(site: Path) -> None:
    (site / "05-early.sh").write_text("exit 0\n")
    run = contribute(site)["05-early"]
    assert (run.script, run.contribution) == (str(site / "05-early.sh"), BootStep())


def test_hook_that_says_none_is_not_there(site: Path) -> None:
    (site / "45-none.py").write_text("def contribute(config, host): return None\n")
    assert "45-none" not in contribute(site)


def test_hook_of_the_site_replaces_the_shipped_one_half_by_half(site: Path) -> None:
    (site / "60-dmesg.sh").write_text("exit 0\n")
    run = contribute(site)["60-dmesg"]
    assert run.script == str(site / "60-dmesg.sh")
    assert run.contribution.settings["KDUMP_MAKEDUMPFILE"] == "/usr/bin/makedumpfile"


def test_link_to_dev_null_masks_a_hook(site: Path) -> None:
    assert "15-vmcoreinfo" in contribute(site)
    (site / "15-vmcoreinfo.sh").symlink_to("/dev/null")
    (site / "60-dmesg.py").symlink_to("/dev/null")
    (site / "60-dmesg.sh").symlink_to("/dev/null")
    assert not {"15-vmcoreinfo", "60-dmesg"} & set(contribute(site))


@pytest.mark.parametrize(
    "name", ["README", "45-x.sh~", "45-x.py.rpmsave", ".45-x.sh", "x.sh", "45-X.sh", "-n", "4-x.py"]
)
def test_file_of_another_name_is_no_hook(name: str, site: Path) -> None:
    before = hooks.find(root_of(site))
    (site / name).write_text("this would fail")
    assert hooks.find(root_of(site)) == before


BROKEN = {
    "syntax error in Python": ("45-x.py", "def contribute(config, host):\n    return (\n", "45-x.py:2: '(' was never"),
    "no Python at all": ("45-x.py", "\0", "45-x.py"),
    "exception while imported": ("45-x.py", "import no_such_module_anywhere\n", "45-x.py: ModuleNotFoundError: "),
    "no contribute": ("45-x.py", "x = 1\n", "45-x.py: has no function contribute(config, host)"),
    "exception in contribute": (
        "45-x.py",
        "def contribute(config, host): return host.no_such_fact\n",
        "45-x.py: AttributeError: ",
    ),
    "wrong signature": ("45-x.py", "def contribute(): return None\n", "45-x.py: TypeError: "),
    "wrong type": ("45-x.py", "def contribute(config, host): return {'modules': ['x']}\n", "contribute() returned {"),
    "phase without a script": (
        "45-x.py",
        f"{IMPORTS}def contribute(config, host): return Saver()\n",
        "45-x.py: contributes a Saver but has no 45-x.sh",
    ),
    "syntax error in shell": ("45-x.sh", "if true; then\n", "45-x.sh: "),
}


@pytest.mark.parametrize(("name", "text", "said"), BROKEN.values(), ids=BROKEN.keys())
def test_broken_hook_is_named_in_one_line(name: str, text: str, said: str, site: Path) -> None:
    (site / name).write_text(text)
    error = problem(site)
    assert isinstance(error, HookError)
    assert str(site) in str(error)
    assert said in str(error)


def test_hook_that_stops_the_program_is_an_error_and_not_an_end(site: Path) -> None:
    (site / "45-x.py").write_text("def contribute(config, host): raise SystemExit(0)\n")
    assert "45-x.py: SystemExit" in str(problem(site))


def test_error_that_a_hook_raises_on_purpose_is_passed_on(site: Path) -> None:
    text = "from kdump_initramfs.errors import HostError\n"
    text += "def contribute(config, host): raise HostError('x: is missing', hint='install x')\n"
    (site / "45-x.py").write_text(text)
    error = problem(site)
    assert (str(error), error.hint) == ("x: is missing", "install x")


def test_problems_of_several_hooks_are_told_together(site: Path) -> None:
    for name in ("45-x.py", "46-y.py"):
        (site / name).write_text("x = (\n")
    with pytest.raises(SeveralProblemsError) as caught:
        contribute(site)
    assert len(caught.value.errors) == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs others' code by mistake")
@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_hook_that_others_may_change_is_refused(mode: int, site: Path) -> None:
    (site / "45-x.py").write_text("raise SystemExit('was run')\n")
    (site / "45-x.py").chmod(mode)
    error = problem(site)
    assert str(error) == f"{site}/45-x.py: may be changed by others than root"
    assert "chmod go-w" in str(error.hint)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_hook_of_another_owner_is_refused(site: Path) -> None:
    (site / "45-x.py").write_text("raise SystemExit('was run')\n")
    os.chown(site / "45-x.py", 65534, 65534)
    assert "may be changed by others" in str(problem(site))


def test_dangling_link_is_one_line(site: Path) -> None:
    (site / "45-x.py").symlink_to("nowhere.py")
    assert "45-x.py" in str(problem(site))


def test_asking_hooks_leaves_nothing_behind(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    (site / "45-x.py").write_text(f"{IMPORTS}def contribute(config, host): return BuildOnly()\n")
    contribute(site)
    assert sorted(os.listdir(site)) == ["45-x.py"]


def test_shipped_hooks_answer_the_same_twice(site: Path) -> None:
    assert contribute(site) == contribute(site)


def test_every_shipped_hook_has_a_name_that_is_found(site: Path) -> None:
    files = {name for name in os.listdir(resources.directory("hooks")) if name.endswith((".py", ".sh"))}
    found = hooks.find(root_of(site))
    assert {os.path.basename(path) for each in found for path in (each.build, each.capture) if path} == files


def test_hooks_open_no_file(site: Path) -> None:
    """A hook decides from config and facts alone: it does not miss the machine when that is gone."""
    root = root_of(site)
    facts = probe.read(root, config.Config())
    before = hooks.contribute(config.Config(), facts, root=root)
    shutil.rmtree(root.directory)
    trees.make("dir /etc", Path(root.directory))
    assert hooks.contribute(config.Config(), facts, root=root) == before
