"""The rules of `docs/design.md`, checked on the source itself; each test lists every place that breaks one."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import iclkit

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "iclkit"
FILES = sorted(PACKAGE.rglob("*.py"))

# From the bottom up. A room may import itself and rooms below it; never one beside it on its own floor.
FLOORS = [
    ["errors", "ambient", "threads"],
    ["disk"],
    ["arrays"],
    ["tasks", "networks"],
    ["energy", "regression", "sequences"],
    ["learners"],
    ["compiler"],
    ["analysis"],
    ["training"],
    ["report"],
]
# The faces, and the package itself, which names the functions that users call. These may know each other.
FACES = {
    "cli",
    "comparing",
    "conditioned",
    "conditioned_regression",
    "data",
    "estimators",
    "identifying",
    "__main__",
    "__init__",
}
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms} | dict.fromkeys(
    FACES, len(FLOORS)
)

# The one way up: the benchmarks on real data are commands too, which load a model by its name.
UPWARD = {("analysis/real_data.py", "training"), ("analysis/real_regression.py", "training")}


def check(broken: Iterable[str]) -> None:
    """Fail with every place that breaks a rule, one a line."""
    lines = sorted(set(broken))
    assert not lines, "\n" + "\n".join(lines)


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def at(path: Path, node: ast.AST | None = None) -> str:
    return f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}"


def nodes(*kinds: type[ast.AST]) -> Iterator[tuple[Path, Any]]:
    """Every syntax node of these kinds in the package."""
    for path in FILES:
        for node in ast.walk(tree(path)):
            if isinstance(node, kinds):
                yield path, node


# Rooms


def room(path: Path) -> str:
    """The folder directly below the package, or the module's own name."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports() -> Iterator[tuple[Path, ast.AST, str]]:
    """Every import in the package, also those inside functions: the file, the place, and the full name."""
    for path, node in nodes(ast.Import, ast.ImportFrom):
        for alias in node.names:
            if isinstance(node, ast.Import):
                yield path, node, alias.name
            else:
                yield path, node, f"{'.' * node.level}{node.module or ''}.{alias.name}"


def test_every_room_has_its_floor() -> None:
    check(
        f"{at(path)}: give {room(path)} a floor here and a line in docs/design.md"
        for path in FILES
        if room(path) not in FLOOR
    )


def test_imports_are_absolute() -> None:
    check(f"{at(path, node)}: {name}" for path, node, name in imports() if name.startswith("."))


def test_imports_go_down_only() -> None:
    def broken() -> Iterator[str]:
        for path, node, name in imports():
            first, *rest = name.split(".")
            if first != "iclkit":
                continue
            own, other = room(path), rest[0] if rest and rest[0] in FLOOR else "__init__"
            down = other == own or FLOOR[other] < FLOOR[own] or {own, other} <= FACES
            if not down and (str(path.relative_to(PACKAGE)), other) not in UPWARD:
                yield f"{at(path, node)}: {own} must not import {other}"

    check(broken())


def test_files_say_what_they_are_for_and_stay_short() -> None:
    def broken() -> Iterator[str]:
        for path in FILES:
            lines = path.read_text().splitlines()
            if lines and not ast.get_docstring(tree(path)):
                yield f"{at(path)}: no docstring"
            # The habit is 300; a registry with the docstrings of many small members may need some more.
            if len(lines) > 400:
                yield f"{at(path)}: {len(lines)} lines: which second concept could be a file of its own?"

    check(broken())


# No global state, no pickle, no heavy import

FORBIDDEN_CALLS = {
    "torch.manual_seed": "take a torch.Generator",
    "torch.seed": "take a torch.Generator",
    "torch.cuda.manual_seed": "take a torch.Generator",
    "torch.set_default_dtype": "no global state",
    "torch.set_default_device": "no global state",
    "torch.set_num_threads": "no global state",
    "torch.set_float32_matmul_precision": "no global state",
    "torch.use_deterministic_algorithms": "no global state",
    "np.random.seed": "take a generator",
    "random.seed": "take a generator",
    "matplotlib.use": "build Figure objects",
    "torch.save": "safetensors and JSON only",
    "torch.load": "safetensors and JSON only",
    "eval": "no code from data",
    "exec": "no code from data",
}
FORBIDDEN_IMPORTS = {"pickle", "dill", "shelve", "marshal", "matplotlib.pyplot"}
EXTRAS = {"matplotlib", "sklearn", "scipy", "tensorboard", "transformers", "hypothesis", "beartype", "pytest"}
# Modules that exist for an extra; nothing imports them at its top but each other.
FOR_EXTRAS = {"estimators", "report"}


def test_no_call_changes_global_state_or_runs_code_from_data() -> None:
    def broken() -> Iterator[str]:
        for path, call in nodes(ast.Call):
            name = ast.unparse(call.func)
            if name == "torch.set_num_threads" and room(path) == "threads":
                continue  # the one place that does, and undoes it
            if name in FORBIDDEN_CALLS:
                yield f"{at(path, call)}: {name}: {FORBIDDEN_CALLS[name]}"
            for keyword in call.keywords:
                if keyword.arg == "allow_pickle" and ast.unparse(keyword.value) != "False":
                    yield f"{at(path, call)}: allow_pickle"
        for path, node in nodes(ast.Assign, ast.AugAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any("rcParams" in ast.unparse(target) for target in targets):
                yield f"{at(path, node)}: rcParams"

    check(broken())


def test_no_import_of_pickle_or_of_pyplots_global_state() -> None:
    def forbidden(name: str) -> bool:
        return any(f"{name}.".startswith(f"{bad}.") for bad in FORBIDDEN_IMPORTS)

    check(f"{at(path, node)}: {name}" for path, node, name in imports() if forbidden(name))


def test_extras_are_imported_where_they_are_used() -> None:
    def broken() -> Iterator[str]:
        for path, node, name in imports():
            top = node in tree(path).body
            if top and name.split(".")[0] in EXTRAS and room(path) not in FOR_EXTRAS:
                yield f"{at(path, node)}: {name}"

    check(broken())


def test_no_leftovers_and_no_paths_of_one_machine() -> None:
    patterns = ("src/**/*.py", "tests/*.py", "benchmarks/*.py", "docs/*.md", "*.md", "src/**/*.md", "*.toml")

    def broken() -> Iterator[str]:
        for path in {path for pattern in patterns for path in ROOT.glob(pattern)} - {Path(__file__)}:
            for number, line in enumerate(path.read_text().splitlines(), 1):
                where = f"{path.relative_to(ROOT)}:{number}"
                if re.search(r"\b(TODO|FIXME|XXX|HACK)\b", line):
                    yield f"{where}: {line.strip()}"
                # Absolute paths in quotes or after a space; those of every Linux system are fine.
                for found in re.findall(r"(?:^|[\s\"'`(=])(/[a-z]+(?:/[\w.-]+)+)", line):
                    if not found.startswith(("/proc/", "/dev/", "/path/to/", "/no/such")):
                        yield f"{where}: {found}: a path of one machine"

    check(broken())


# Documentation of everything public


@cache
def modules() -> list[ModuleType]:
    names = [info.name for info in pkgutil.walk_packages(iclkit.__path__, "iclkit.")]
    return [iclkit, *(importlib.import_module(name) for name in names if not name.endswith("__main__"))]


@dataclasses.dataclass(frozen=True)
class Public:
    """A public class or function, or a public method with the class that has it."""

    name: str
    value: Any
    owner: type | None = None

    @property
    def doc(self) -> str:
        """The docstring; for a method that has none, that of the method which it overrides."""
        own = self.value.__doc__ or ""
        if self.owner is None:
            # A dataclass without a docstring gets its signature as one.
            return "" if own.startswith(f"{self.value.__name__}(") else own
        overridden = (getattr(base, self.value.__name__, None) for base in self.owner.__mro__[1:])
        return own or next((method.__doc__ for method in overridden if method and method.__doc__), "")


@cache
def public() -> list[Public]:
    """Everything public that the package defines."""
    found = []
    for module in modules():
        for name, value in vars(module).items():
            if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
                continue
            if inspect.isfunction(value) or inspect.isclass(value):
                found.append(Public(f"{module.__name__}.{name}", value))
            # The methods of a protocol are documented by what implements it.
            if inspect.isclass(value) and not getattr(value, "_is_protocol", False):
                for member, attribute in vars(value).items():
                    function = attribute.fget if isinstance(attribute, property) else attribute
                    function = getattr(function, "func", function)  # a cached property
                    function = getattr(function, "__func__", function)  # a class or static method
                    if not member.startswith("_") and inspect.isfunction(function):
                        found.append(Public(f"{module.__name__}.{name}.{member}", function, value))
    return found


# Documented by torch, or throughout.
KNOWN = (".forward", ".backward", ".dim")
# A command's functions are documented to its users, by --help.
COMMANDS = "iclkit.cli."


def test_public_names_have_docstrings() -> None:
    check(
        f"{item.name}: no docstring"
        for item in public()
        if not (item.doc.strip() or item.name.endswith(KNOWN) or item.name.startswith(COMMANDS))
    )


def test_docstrings_describe_arguments_that_exist() -> None:
    def broken() -> Iterator[str]:
        for item in public():
            section = re.search(
                r"^Args:\n((?:    .*\n?|\n)+)", inspect.cleandoc(item.value.__doc__ or ""), re.MULTILINE
            )
            if section:
                described = re.findall(r"^    ((?:\*{0,2}\w+, )*\*{0,2}\w+): ", section[1], re.MULTILINE)
                described = [name.strip(" *") for names in described for name in names.split(",")]
                accepted = set(inspect.signature(item.value).parameters)
                if not described:
                    yield f"{item.name}: an Args section that describes no argument"
                yield from (f"{item.name}: {name} is no argument" for name in set(described) - accepted)

    check(broken())


# Registries

REGISTRIES = (
    "TASKS",
    "SEQUENCE_TASKS",
    "OBJECTIVES",
    "REGRESSION_OBJECTIVES",
    "SEQUENCE_OBJECTIVES",
    "SAMPLERS",
    "RECIPES",
)


def members() -> Iterator[tuple[str, str, Any]]:
    """Registry, name and member of everything that is registered."""
    for registry in REGISTRIES:
        (found,) = {id(vars(m)[registry]): vars(m)[registry] for m in modules() if registry in vars(m)}.values()
        assert found, registry
        for name, member in found.items():
            yield registry, name, member


def test_registered_members_are_documented() -> None:
    guide = "\n".join(path.read_text() for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")])

    def broken() -> Iterator[str]:
        for registry, name, member in members():
            if not re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", guide):
                yield f"{registry}: neither README.md nor docs/ mention {name}"
            if dataclasses.is_dataclass(member):
                docs = " ".join(base.__doc__ or "" for base in inspect.getmro(member)[:-1])  # pyright: ignore
                for field in dataclasses.fields(member):
                    if field.init and not re.search(rf"^\s+(\w+, )*{field.name}\b.*:", docs, re.MULTILINE):
                        yield f"{registry}: {name} does not explain {field.name}"

    check(broken())


def test_registered_members_are_frozen_dataclasses_under_their_own_names() -> None:
    """So that a recipe can name them completely, and two of them can be compared."""

    def broken() -> Iterator[str]:
        for registry, name, member in members():
            if registry != "RECIPES" and not (member.__dataclass_params__.frozen and member.__name__ == name):
                yield f"{registry}: {name}"

    check(broken())


# One version, one set of commands


def test_the_version_is_the_same_everywhere() -> None:
    assert f"\nversion: {iclkit.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert "## [Unreleased]" in changelog or f"## [{iclkit.__version__}]" in changelog


@pytest.mark.parametrize("file", ["README.md", "CONTRIBUTING.md", ".ci/run"])
def test_documents_name_targets_that_make_has(file: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", (ROOT / file).read_text(), re.MULTILINE))
    assert named
    assert named <= targets


def test_targets_run_benchmarks_that_there_are() -> None:
    named = re.findall(r"-m (benchmarks\.\w+)", (ROOT / "Makefile").read_text())
    for path in ("energy", "regression_all"):
        named += re.findall(r"\"(benchmarks\.\w+)\"", (ROOT / "benchmarks" / f"{path}.py").read_text())
    assert len(named) == 7 + 3 + 6
    check(f"Makefile: {name}" for name in named if not (ROOT / f"{name.replace('.', '/')}.py").is_file())


def test_continuous_integration_runs_what_the_readme_says() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    assert script.rstrip().endswith("make check\nmake test")
    assert "make test" in (ROOT / "README.md").read_text()


def test_links_between_documents_lead_somewhere() -> None:
    def broken() -> Iterator[str]:
        for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
            for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text()):
                if not (path.parent / target).exists():
                    yield f"{path.relative_to(ROOT)}: {target}"

    check(broken())
