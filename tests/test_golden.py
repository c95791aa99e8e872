"""Every fake machine of tests/hosts, from its files to the image that would be built, against tests/golden.

A review of a change to tests/golden shows what the change does to images. `pytest --update-golden` writes them anew.
"""

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from kdump_initramfs import __version__, build, config, devices, resources
from kdump_initramfs.errors import KdumpError, SeveralProblemsError
from kdump_initramfs.host import probe
from kdump_initramfs.host.root import Root
from kdump_initramfs.image import drivers
from kdump_initramfs.image import plan as planning
from kdump_initramfs.loader import cmdline
from kdump_initramfs.model import HostFacts, Plan, Text
from tests import trees

GOLDEN = Path(__file__).parent / "golden"


def outcome(root: Root) -> dict[str, str]:
    """Return everything that is decided for a machine, as file name -> text."""
    configuration = config.load(root=root.directory)
    results: dict[str, str] = {}
    try:
        facts = probe.read(root, configuration)
        results["facts.json"] = _json(_brief(facts))
        results["cmdline"] = _cmdline(configuration, facts) + "\n"
        plan = build.plan(root, configuration)
        results["plan.txt"] = _plan(plan)
        results |= _texts(plan)
    except KdumpError as error:
        results["error.txt"] = _error(error)
    return {name: _normalised(text, root) for name, text in results.items()}


def _json(facts: HostFacts) -> str:
    return msgspec.json.format(msgspec.json.encode(facts), indent=2).decode() + "\n"


def _brief(facts: HostFacts) -> HostFacts:
    """Return the facts without the names of 269 applets."""
    applets = (f"{len(facts.tools.busybox_applets)} applets",)
    return msgspec.structs.replace(facts, tools=msgspec.structs.replace(facts.tools, busybox_applets=applets))


def _cmdline(configuration: config.Config, facts: HostFacts) -> str:
    return cmdline.capture(
        facts.cmdline,
        machine=facts.machine,
        cpus=configuration.capture.cpus,
        boot_apicid=facts.boot_apicid,
        remove=configuration.kernel.remove,
        append=configuration.kernel.append,
    )


def _plan(plan: Plan) -> str:
    head = [f"# compression: {plan.compression}", *(f"# warning: {warning}" for warning in plan.warnings)]
    return "".join(f"{line}\n" for line in head) + planning.as_list(plan, reasons=True)


def _texts(plan: Plan) -> dict[str, str]:
    """Return the texts of the image that were made here, but the library, which is a file of templates/."""
    texts = {entry.path: entry.content for entry in plan.entries if isinstance(entry, Text)}
    names = {"/init": "init", "/etc/kdump/settings": "settings", "/etc/kdump/modules": "modules"}
    names |= {drivers.ALIASES: "driver-aliases", drivers.ORDER: "driver-order"}
    names |= {path: f"target-{path.rpartition('/')[2]}" for path in texts if path.startswith("/etc/kdump/targets/")}
    names |= {path: f"device-{path.rpartition('/')[2]}" for path in texts if path.startswith(f"{devices.DIRECTORY}/")}
    return {name: texts[path] for path, name in names.items() if path in texts}


def _error(error: KdumpError) -> str:
    each = error.errors if isinstance(error, SeveralProblemsError) else (error,)
    return "".join(f"{type(one).__name__}: {one}\n  hint: {one.hint}\n" for one in each)


def _normalised(text: str, root: Root) -> str:
    for found, name in ((root.directory, "ROOT"), (resources.directory("hooks"), "HOOKS"), (__version__, "VERSION")):
        text = text.replace(found, name)
    return text


@pytest.mark.parametrize("name", trees.names())
def test_what_is_decided_for_this_machine_is_as_recorded(
    name: str, host_root: Callable[[str], Root], request: pytest.FixtureRequest
) -> None:
    directory = GOLDEN / name
    found = outcome(host_root(name))
    if request.config.getoption("--update-golden"):
        directory.mkdir(parents=True, exist_ok=True)
        for old in directory.iterdir():
            old.unlink()
        for file, text in found.items():
            (directory / file).write_text(text)
    recorded = {path.name: path.read_text() for path in sorted(directory.iterdir())}
    assert found == recorded


def test_nothing_is_recorded_for_a_machine_that_is_not_there() -> None:
    assert sorted(path.name for path in GOLDEN.iterdir()) == trees.names()


def test_facts_survive_json(host_root: Callable[[str], Root]) -> None:
    root = host_root("two-targets")
    facts = probe.read(root, config.load(root=root.directory))
    assert msgspec.convert(json.loads(_json(facts)), HostFacts) == facts
