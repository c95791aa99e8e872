"""The one direction: who may import whom, and how long things may become."""

import ast
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent
PACKAGE = PROJECT / "kdump_initramfs"

# A module imports from its own layer and from those before it, never from those behind it.
LAYERS = (
    ("__init__", "errors"),
    # A root is what everything reads through, and knows nothing of hosts.
    ("durable", "regular", "storage", "model", "resources", "run", "config", "formats", "host.root"),
    ("devices",),
    ("host",),
    ("hooks",),
    ("image",),
    ("build",),
    ("loader",),
    ("dumps",),
    ("rehearsal",),
    ("check",),
    ("commands",),
    ("cli",),
    ("__main__",),
)

# A library is imported by the modules that wrap it, and start-up does not pay for the slow ones.
WRAPPED = {
    "jinja2": {"image/render.py"},
    "elftools": {"formats/elf.py"},
    "zstandard": {"formats/compression.py"},
    "subprocess": {"run.py", "rehearsal/qemu.py"},
}

MAX_FUNCTION_LINES = 60
MAX_MODULE_LINES = 400


def modules() -> list[str]:
    return sorted(str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py"))


def layer_of(name: str) -> int:
    """Return the number of the layer of a dotted name inside the package ("" is the package itself)."""
    parts = name.split(".") if name else ["__init__"]
    known = {module: number for number, layer in enumerate(LAYERS) for module in layer}
    return known.get(".".join(parts[:2]), known[parts[0]])


def imported(path: Path) -> Iterator[str]:
    """Yield the dotted names that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def inside(path: Path) -> Iterator[str]:
    """Yield what a module imports of the package, without the package's name."""
    for name in imported(path):
        package, _, rest = name.partition(".")
        if package == "kdump_initramfs":
            # A name of the package itself, such as __version__, is no module of it.
            first = rest.partition(".")[0]
            yield rest if (PACKAGE / first).is_dir() or (PACKAGE / f"{first}.py").is_file() else ""


def dotted(module: str) -> str:
    return module.removesuffix(".py").replace(os.sep, ".")


def test_every_module_has_a_layer() -> None:
    for module in modules():
        layer_of(dotted(module))


@pytest.mark.parametrize("module", modules())
def test_module_imports_nothing_that_stands_further_right(module: str) -> None:
    own = layer_of(dotted(module))
    wrong = [name for name in inside(PACKAGE / module) if layer_of(name) > own]
    assert not wrong


def test_formats_know_only_each_other_the_errors_and_the_root() -> None:
    """Formats are functions from bytes to facts; ldso alone looks things up in a root."""
    for path in sorted((PACKAGE / "formats").glob("*.py")):
        allowed = {"errors", "formats", "host"} if path.name == "ldso.py" else {"errors", "formats"}
        assert {name.partition(".")[0] for name in inside(path)} <= allowed, path


@pytest.mark.parametrize("hook", sorted(path.name for path in (PROJECT / "hooks").glob("*.py")))
def test_shipped_hook_sees_config_and_model_and_opens_nothing(hook: str) -> None:
    path = PROJECT / "hooks" / hook
    allowed = {"config", "devices", "model", "storage", "errors", "formats"}
    assert {name.partition(".")[0] for name in inside(path)} <= allowed
    others = {name.partition(".")[0] for name in imported(path)} - {"kdump_initramfs"}
    assert not others & {"os", "pathlib", "subprocess", "io", "socket", "shutil", "glob"}
    called = {node.func.id for node in ast.walk(ast.parse(path.read_text())) if is_plain_call(node)}  # type: ignore[attr-defined]
    assert not called & {"open", "exec", "eval", "__import__", "print", "input"}


def is_plain_call(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name)


@pytest.mark.parametrize("library", sorted(WRAPPED))
def test_library_is_imported_by_its_wrapper_alone(library: str) -> None:
    users = {
        module for module in modules() if library in {name.partition(".")[0] for name in imported(PACKAGE / module)}
    }
    assert users == WRAPPED[library]


def test_nothing_runs_a_shell() -> None:
    for module in modules():
        tree = ast.parse((PACKAGE / module).read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.keyword):
                assert node.arg != "shell", module
            if isinstance(node, ast.Attribute):
                assert node.attr not in ("system", "popen", "getoutput", "getstatusoutput"), module


@pytest.mark.parametrize("module", modules())
def test_no_module_and_no_function_is_too_long(module: str) -> None:
    text = (PACKAGE / module).read_text()
    assert len(text.splitlines()) <= MAX_MODULE_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < MAX_FUNCTION_LINES, node.name
