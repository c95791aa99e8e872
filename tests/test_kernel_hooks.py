"""Kernels that come and go: every hook is run as its framework runs it, with the program found through PATH."""

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from kdump_initramfs.host.root import Root
from kdump_initramfs.image import inspect, record
from tests import command, kernelmaker, programs, trees
from tests.kernel_hooks import (
    NEW,
    OLD,
    OUTPUT,
    PLUGIN,
    POSTINST,
    POSTRM,
    armed,
    image_of,
    images,
    path_of,
    remove_kernel,
    run_hook,
)


@pytest.fixture
def machine(host_root: Callable[[str], Root]) -> Root:
    return armed(host_root("debian-lvm-ext4"))


# --- Debian, and Gentoo's installkernel --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parameters", [{}, {"DEB_MAINT_PARAMS": "configure 6.1.1-1"}, {"DEB_MAINT_PARAMS": "'configure' ''"}]
)
def test_installed_kernel_gets_its_image_and_not_the_running_one(
    parameters: Mapping[str, str], machine: Root, tmp_path: Path
) -> None:
    ended = run_hook([POSTINST, NEW, f"/boot/vmlinuz-{NEW}"], machine, tmp_path, **parameters)
    assert (ended.returncode, ended.stdout) == (0, "")
    assert images(machine) == [image_of(NEW)]
    assert inspect.manifest(path_of(machine, NEW)).kernel.image == f"/boot/vmlinuz-{NEW}"


@pytest.mark.parametrize(
    ("hook", "step"), [(POSTINST, "abort-upgrade 6.1"), (POSTRM, "upgrade 6.1"), (POSTRM, "abort-install")]
)
def test_other_steps_of_dpkg_change_nothing(hook: Path, step: str, machine: Root, tmp_path: Path) -> None:
    run_hook([POSTINST, OLD], machine, tmp_path)
    before = os.stat(path_of(machine, OLD)).st_ino
    ended = run_hook([hook, OLD, f"/boot/vmlinuz-{OLD}"], machine, tmp_path, DEB_MAINT_PARAMS=step)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    assert os.stat(path_of(machine, OLD)).st_ino == before


@pytest.mark.parametrize("step", ["remove", "purge"])
def test_removed_kernel_takes_its_image_along_and_no_other(step: str, machine: Root, tmp_path: Path) -> None:
    for release in (OLD, NEW):
        run_hook([POSTINST, release], machine, tmp_path)
    assert images(machine) == [image_of(OLD), image_of(NEW)]
    Path(f"{path_of(machine, NEW)}.proof.json").write_text("{}")
    remove_kernel(machine, NEW)
    ended = run_hook([POSTRM, NEW, f"/boot/vmlinuz-{NEW}"], machine, tmp_path, DEB_MAINT_PARAMS=step)
    assert ended.returncode == 0
    assert list(machine.list(OUTPUT)) == [image_of(OLD), f"{image_of(OLD)}.json"]


def test_run_parts_runs_the_hook_as_a_kernel_package_does(machine: Root, tmp_path: Path) -> None:
    programs.need("run-parts")
    directory = tmp_path / "postinst.d"
    directory.mkdir()
    (directory / "zz-kdump-initramfs").symlink_to(POSTINST)
    words = ["run-parts", "--report", "--exit-on-error", f"--arg={NEW}", f"--arg=/boot/vmlinuz-{NEW}", directory]
    ended = run_hook(words, machine, tmp_path, DEB_MAINT_PARAMS="configure ")
    assert ended.returncode == 0, ended.stderr
    assert images(machine) == [image_of(NEW)]


# --- kernel-install ----------------------------------------------------------------------------------------------


def kernel_install(tmp_path: Path, after: str) -> dict[str, str]:
    """Return the environment in which kernel-install(8) runs our plugin and then one that leaves a trace."""
    programs.need("kernel-install")
    (tmp_path / "boot").mkdir(exist_ok=True)
    later = tmp_path / "99-later.install"
    later.write_text(f'#!/bin/sh\necho "$1" >>{shlex.quote(str(tmp_path / after))}\n')
    later.chmod(0o755)
    return {
        "KERNEL_INSTALL_PLUGINS": f"{PLUGIN} {later}",
        "MACHINE_ID": "0" * 32,
        "BOOT_ROOT": str(tmp_path / "boot"),
        "ENTRY_TOKEN": "test",
    }


def test_plugin_of_kernel_install_builds_and_removes(machine: Root, tmp_path: Path) -> None:
    environment = kernel_install(tmp_path, "trace")
    # The image that kernel-install is given must exist on the machine that runs it.
    staged = tmp_path / "bzImage"
    staged.write_bytes(kernelmaker.bzimage(NEW))
    for words in (["add", NEW, staged], ["remove", NEW]):
        if words[0] == "remove":
            remove_kernel(machine, NEW)
        ended = run_hook(["kernel-install", *words], machine, tmp_path, **environment)
        assert ended.returncode == 0, ended.stderr
        assert images(machine) == ([image_of(NEW)] if words[0] == "add" else [])
    # What comes behind us was run each time.
    assert (tmp_path / "trace").read_text() == "add\nremove\n"


def test_plugin_never_ends_the_operation(machine: Root, tmp_path: Path) -> None:
    """Exit status 77 would keep the plugins behind it from running."""
    environment = kernel_install(tmp_path, "trace")
    trees.make("remove /etc/kdump-initramfs", Path(machine.directory))
    staged = tmp_path / "bzImage"
    staged.write_bytes(kernelmaker.bzimage(NEW))
    ended = run_hook(["kernel-install", "add", NEW, staged], machine, tmp_path, **environment)
    assert ended.returncode == 0
    assert "neither enabled nor configured here" in ended.stderr
    assert images(machine) == []
    assert (tmp_path / "trace").read_text() == "add\n"


@pytest.mark.parametrize(("level", "is_verbose"), [("", False), ("0", False), ("1", True), ("2", True)])
def test_plugin_is_as_verbose_as_kernel_install(
    level: str,
    is_verbose: bool,  # noqa: FBT001
    machine: Root,
    tmp_path: Path,
) -> None:
    variables = {"KERNEL_INSTALL_VERBOSE": level} if level else {}
    ended = run_hook([PLUGIN, "add", NEW, "/boot/x", f"/boot/vmlinuz-{NEW}"], machine, tmp_path, **variables)
    assert ended.returncode == 0
    assert ("hook 33-crypt: not on this host" in ended.stderr) is is_verbose


def test_other_actions_of_kernel_install_are_passed_over(machine: Root, tmp_path: Path) -> None:
    ended = run_hook([PLUGIN, "inspect"], machine, tmp_path)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


# --- what goes wrong ---------------------------------------------------------------------------------------------


HOOK_WORDS = {
    "Debian": [POSTINST, NEW, f"/boot/vmlinuz-{NEW}"],
    "kernel-install": [PLUGIN, "add", NEW, "/boot/entry", f"/boot/vmlinuz-{NEW}"],
}


@pytest.mark.parametrize("words", HOOK_WORDS.values(), ids=HOOK_WORDS.keys())
@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ("remove /usr/sbin/lvm", "lvm: no such program"),
        ("remove /boot", f"kernel {NEW}: no bootable image"),
        ("file /etc/kdump-initramfs/config.toml nonsense = 1", "nonsense: unknown key"),
        ("file /var/lib/kdump-initramfs a file", "File exists"),
    ],
)
def test_a_build_that_fails_is_a_warning_with_a_remedy(
    words: list[str | Path], tree: str, said: str, machine: Root, tmp_path: Path
) -> None:
    trees.make(tree, Path(machine.directory))
    ended = run_hook(words, machine, tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert said in ended.stderr
    assert f"kernel {NEW}: no capture image was built; its own installation goes on" in ended.stderr


@pytest.mark.parametrize("hook", [POSTINST, POSTRM, PLUGIN], ids=lambda path: path.name)
def test_a_program_that_is_broken_or_gone_fails_no_kernel(hook: Path, tmp_path: Path) -> None:
    programs_of_test = tmp_path / "bin"
    programs_of_test.mkdir()
    words = [str(hook), "add", NEW] if hook == PLUGIN else [str(hook), NEW]
    for has_program in (False, True):
        if has_program:
            (programs_of_test / "kdump-initramfs").write_text("#!/bin/sh\nkill -9 $$\n")
            (programs_of_test / "kdump-initramfs").chmod(0o755)
        env = {"PATH": f"{programs_of_test}:/usr/bin:/bin"}
        ended = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
        assert ended.returncode == 0
        assert ("exit status 137" in ended.stderr) is has_program


@pytest.mark.parametrize("content", [None, "not ours", "{}"])
def test_a_file_without_a_record_of_ours_is_not_removed(content: str | None, machine: Root, tmp_path: Path) -> None:
    place = Path(path_of(machine, NEW))
    place.parent.mkdir(parents=True)
    place.write_text("an image of somebody")
    if content is not None:
        Path(f"{place}.json").write_text(content)
    ended = run_hook([POSTRM, NEW], machine, tmp_path)
    assert ended.returncode == 0
    assert "no record of ours" in ended.stderr
    assert place.read_text() == "an image of somebody"


def test_one_image_for_all_kernels_goes_with_its_own_kernel_alone(machine: Root, tmp_path: Path) -> None:
    trees.make('file /etc/kdump-initramfs/config.toml image.output = "/boot/crash.img"', Path(machine.directory))
    run_hook([POSTINST, NEW], machine, tmp_path)
    run_hook([POSTRM, OLD], machine, tmp_path)
    assert machine.is_file("/boot/crash.img")
    remove_kernel(machine, NEW)
    run_hook([POSTRM, NEW], machine, tmp_path)
    assert not machine.exists("/boot/crash.img")


# --- when there is little to do ----------------------------------------------------------------------------------


def test_an_image_that_is_fresh_is_not_built_again(machine: Root, tmp_path: Path) -> None:
    run_hook([POSTINST, NEW], machine, tmp_path)
    before = os.stat(path_of(machine, NEW)).st_ino
    ended = run_hook(HOOK_WORDS["kernel-install"], machine, tmp_path)
    assert "is what would be built" in ended.stderr
    assert os.stat(path_of(machine, NEW)).st_ino == before
    trees.make(f"module /usr/lib/modules/{NEW}/kernel/fs/ext4/ext4.ko name=new", Path(machine.directory))
    run_hook([POSTINST, NEW], machine, tmp_path)
    assert os.stat(path_of(machine, NEW)).st_ino != before


def test_a_capture_kernel_that_is_chosen_makes_the_others_none(machine: Root, tmp_path: Path) -> None:
    trees.make(f'file /etc/kdump-initramfs/config.toml kernel.version = "{OLD}"', Path(machine.directory))
    ended = run_hook([POSTINST, NEW], machine, tmp_path)
    assert f"kernel.version is {OLD}: nothing to build for {NEW}" in ended.stderr
    assert images(machine) == []


def test_images_of_kernels_that_have_gone_unnoticed_are_removed(machine: Root, tmp_path: Path) -> None:
    for release in (OLD, NEW):
        run_hook([POSTINST, release], machine, tmp_path)
    (Path(machine.directory) / OUTPUT[1:] / "initrd-foreign.img").write_text("not ours")
    trees.make(f"remove /boot/vmlinuz-{OLD}", Path(machine.directory))
    run_hook([POSTINST, NEW], machine, tmp_path)
    assert image_of(OLD) in images(machine)  # its modules are there: /boot may not be mounted
    trees.make(f"remove /usr/lib/modules/{OLD}\nkernel /boot/vmlinuz-{OLD} {OLD}", Path(machine.directory))
    run_hook([POSTINST, NEW], machine, tmp_path)
    assert image_of(OLD) in images(machine)  # a kernel may have no modules
    trees.make(f"remove /boot/vmlinuz-{OLD}", Path(machine.directory))
    run_hook([POSTINST, NEW], machine, tmp_path)
    assert images(machine) == [image_of(NEW), "initrd-foreign.img"]


def test_nothing_that_a_build_needs_is_imported_where_nothing_is_to_be_done(machine: Root) -> None:
    trees.make("remove /etc/kdump-initramfs", Path(machine.directory))
    words = ["-X", "importtime", "-m", "kdump_initramfs", "kernel-hook", "add", NEW, "--root", machine.directory]
    ended = subprocess.run(
        [sys.executable, *words], env=command.environment(), capture_output=True, text=True, check=True
    )
    imported = {line.rpartition("|")[2].strip() for line in ended.stderr.splitlines() if line.startswith("import time")}
    assert not imported & {"jinja2", "elftools", "zstandard", "kdump_initramfs.build", "kdump_initramfs.image.plan"}


# --- a root that does not run ------------------------------------------------------------------------------------


def test_a_chroot_without_proc_gets_a_generic_image_by_fstab(machine: Root, tmp_path: Path) -> None:
    trees.make(
        "remove /proc\nfile /etc/fstab UUID=0b5a9f5c-54b4-4a7c-8a4c-0a2f6f3d1e01 / ext4 defaults 0 1",
        Path(machine.directory),
    )
    trees.make("dir /proc", Path(machine.directory))
    ended = run_hook([POSTINST, NEW], machine, tmp_path)
    assert ended.returncode == 0
    assert "so the image is for any machine" in ended.stderr, ended.stderr
    manifest = inspect.manifest(path_of(machine, NEW))
    assert "25-drivers" in manifest.hooks
    assert record.read(path_of(machine, NEW)).basis is not None


def test_a_real_chroot_builds_for_itself(machine: Root, tmp_path: Path) -> None:
    """In a chroot into a plain directory /proc tells mounts that are not those of the root."""
    if os.geteuid() != 0:
        pytest.skip("only root may chroot")
    programs.need("unshare", "mount")
    trees.make("file /etc/fstab UUID=0b5a9f5c-54b4-4a7c-8a4c-0a2f6f3d1e01 / ext4 defaults 0 1", Path(machine.directory))
    base = Path(machine.directory)
    trees.make("remove /proc", base)
    (base / "proc").mkdir()
    script = (
        f"mount -t proc proc {shlex.quote(str(base / 'proc'))} && "
        f"exec {shlex.quote(sys.executable)} -c "
        + shlex.quote(
            "import os, sys\n"
            "from kdump_initramfs import config, build\n"
            "from kdump_initramfs.host import mounts\n"
            "from kdump_initramfs.host.root import Root\n"
            "from kdump_initramfs.loader import kernel_hook\n"
            "known = mounts.are_known(Root())\n"
            f"os.chroot({str(base)!r})\n"
            "os.chdir('/')\n"
            "print(known, mounts.are_known(Root()), kernel_hook._is_foreign(Root()))\n"
        )
    )
    ended = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script],
        env=command.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "True False True\n"


# --- dracut ------------------------------------------------------------------------------------------------------

MODULE = command.PROJECT / "contrib" / "dracut" / "98kdump-initramfs" / "module-setup.sh"


def test_module_of_dracut_builds_for_the_kernel_of_that_run(machine: Root, tmp_path: Path) -> None:
    programs.need("bash")
    script = f". {shlex.quote(str(MODULE))}; check; echo $?; kernel={NEW} dracutsysrootdir= ; install"
    ended = run_hook(["bash", "-c", f'dwarn() {{ echo "$@" >&2; }}; {script}'], machine, tmp_path)
    assert ended.returncode == 0
    assert ended.stdout == "255\n"  # never without being asked for
    assert images(machine) == [image_of(NEW)]


def test_dracut_runs_the_module_where_it_is_asked_for(machine: Root, tmp_path: Path) -> None:
    programs.need("dracut")
    base = tmp_path / "dracut"
    subprocess.run(["cp", "-a", "/usr/lib/dracut", base], check=True)
    (base / "modules.d" / MODULE.parent.name).symlink_to(MODULE.parent)
    (tmp_path / "none").mkdir()
    words = ["dracut", "--no-kernel", "--force", "--conf", os.devnull, "--confdir", tmp_path / "none"]
    for name, expected in (("base", []), ("kdump-initramfs", [image_of(NEW)])):
        # It takes its own library from the first, and makes its PATH of the second.
        places = {"dracutbasedir": str(base), "DRACUT_PATH": f"{tmp_path}/bin /usr/sbin /usr/bin /sbin /bin"}
        ended = run_hook([*words, "--modules", name, tmp_path / "own.img", NEW], machine, tmp_path, **places)
        assert ended.returncode == 0, ended.stderr
        assert images(machine) == expected, ended.stderr


# --- genkernel ---------------------------------------------------------------------------------------------------


def test_recipe_for_genkernel_builds_for_its_kernel(machine: Root, tmp_path: Path) -> None:
    """Its callback is a line of its configuration that it evaluates, and that must not fail (genkernel, `eval`)."""
    programs.need("bash")
    text = (command.PROJECT / "docs" / "ARMING.md").read_text()
    line = next(line.strip() for line in text.splitlines() if line.strip().startswith("CMD_CALLBACK="))
    for release in (NEW, "9.9.9"):
        ended = run_hook(["bash", "-c", f"{line}; KV={release}; eval ${{CMD_CALLBACK}}"], machine, tmp_path)
        assert ended.returncode == 0
        assert images(machine) == [image_of(NEW)]
