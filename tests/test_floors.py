"""The floors: a module imports from lower ones or from its own folder, and dear libraries stay where they belong."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "guardrail"
FLOORS = [
    {"errors"},
    {"core"},
    {"protocols"},
    {"metrics", "tracing", "text", "resources", "layers"},
    {"inference", "wire"},
    {"detectors", "stores", "reporters", "labels", "records", "policyset", "policyfile"},
    {"training", "gateway", "portal", "console", "cases", "assessment", "testing", "demo"},
    {"settings", "sections", "credentials"},
    {"app", "engines", "server", "workers"},
    {"cli", "__main__"},
]
FLOOR = {name: height for height, names in enumerate(FLOORS) for name in names}
OWN_FOLDER = [
    {"settings", "sections", "credentials"},
    {"policyset", "policyfile"},
    {"app", "engines", "server", "workers"},
]
"""Files beside the folders that are one subject in several files."""

ONLY_IN = {"torch": {"inference", "training"}, "transformers": {"inference", "training"}}
IN_ONE_FILE = ["presidio_analyzer", "onnxruntime", "ray"]
MSGSPEC_TOO = {"wire"}


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if "_data" not in path.parts)


def imports(path: Path, *, types: bool = True) -> Iterator[str]:
    """Every module that a file names, wherever in the file, as `guardrail.core.policy` or `torch`.

    Without `types`, what it names for the type checker alone is left out.
    """
    waiting: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and not types and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        waiting.extend(ast.iter_child_nodes(node))
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import; expected guardrail...."
            module = node.module or ""
            yield from (f"{module}.{alias.name}" if module == "guardrail" else module for alias in node.names)


def home(path: Path) -> str:
    """The folder of the package (or the file beside it) that a module lives in."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def third_party(path: Path) -> set[str]:
    return (
        {name.partition(".")[0] for name in imports(path, types=False)} - set(sys.stdlib_module_names) - {"guardrail"}
    )


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_from_below_or_from_its_own_folder(path: Path) -> None:
    own = home(path)
    if own == "__init__":
        return  # it names the public things, and loads them when they are used
    assert own in FLOOR, f"{own} has no floor; expected one in tests/test_floors.py"
    for name in imports(path):
        if name.partition(".")[0] != "guardrail":
            continue
        target = name.split(".")[1]
        if target == "__version__":
            continue
        assert target in FLOOR, f"{path}: imports {name}, not from the module that defines it"
        beside = target == own or any({target, own} <= folder for folder in OWN_FOLDER)
        assert beside or FLOOR[target] < FLOOR[own], f"{path}: {own} imports {name}, which is not below it"


def test_the_lowest_floors_use_the_standard_library_alone() -> None:
    for path in modules():
        own = home(path)
        allowed = {"msgspec"} if own in MSGSPEC_TOO else set()
        if own in MSGSPEC_TOO or FLOOR.get(own, 9) <= FLOOR["protocols"]:
            assert third_party(path) <= allowed, path


def test_dear_libraries_stay_in_their_place() -> None:
    for path in modules():
        for library, homes in ONLY_IN.items():
            assert library not in third_party(path) or home(path) in homes, f"{path}: {library}"
    for library in IN_ONE_FILE:
        users = [path for path in modules() if library in third_party(path)]
        assert len(users) <= 1, f"{library}: {users}"


def test_core_has_no_clock_no_dice_and_no_waiting() -> None:
    barred = {"asyncio", "time", "random", "secrets", "uuid", "socket", "os", "pathlib", "logging", "threading"}
    for path in sorted((PACKAGE / "core").glob("*.py")):
        assert not {name.partition(".")[0] for name in imports(path)} & barred, path
        kinds = {type(node) for node in ast.walk(ast.parse(path.read_text()))}
        assert not kinds & {ast.AsyncFunctionDef, ast.Await}, path


def test_the_gateway_knows_detectors_stores_and_labels_by_protocol_alone() -> None:
    concrete = {"detectors", "stores", "labels", "reporters", "records", "inference"}
    for path in modules():
        if home(path) in {"gateway", "portal", "console"}:
            named = {name.split(".")[1] for name in imports(path) if name.startswith("guardrail.")}
            assert not named & concrete, path


def test_every_library_that_is_imported_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {_canonical(line) for line in project["dependencies"]}
    optional = {_canonical(line) for lines in project["optional-dependencies"].values() for line in lines}
    homes = packages_distributions()
    for path in modules():
        for name in third_party(path):
            owners = {_canonical(owner) for owner in homes.get(name, [name])}
            allowed = declared | optional if home(path) in ("inference", "training") else declared
            assert owners & allowed, f"{path}: {name} is imported and not declared in pyproject.toml"


def test_every_library_that_is_declared_is_imported() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    homes = packages_distributions()
    used = {_canonical(owner) for path in modules() for name in third_party(path) for owner in homes.get(name, [name])}
    assert {_canonical(line) for line in project["dependencies"]} <= used


def _canonical(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.match(r"[A-Za-z0-9._-]+", requirement)[0]).lower()  # type: ignore[index]
