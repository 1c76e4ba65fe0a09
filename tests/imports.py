"""Which of the project's modules a module really imports, read from the source."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# What no stage depends on though every stage loads it: these dispatch lazily, lock, log, or refuse a parameter.
NO_DEPENDENCY = ("sigma/__init__.py", "sigma/__main__.py", "sigma/cli/", "sigma/parameters/")


def _file_of(module: str) -> str | None:
    """The file of a module of the package, relative to the root; None for what is not a module."""
    base = Path(*module.split("."))
    for candidate in (base.with_suffix(".py"), base / "__init__.py"):
        if (ROOT / candidate).is_file():
            return candidate.as_posix()
    return None


def imports(file: str, *, types: bool = False) -> set[str]:
    """Files of the package that ``file`` imports, at the top or inside functions.

    ``types`` adds what is imported for type checkers alone.
    """
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if (
            not types
            and isinstance(node, ast.If)
            and isinstance(node.test, ast.Name)
            and node.test.id == "TYPE_CHECKING"
        ):
            for child in node.orelse:
                visit(child)
            return
        if isinstance(node, ast.Import):
            found.update(filter(None, (_file_of(alias.name) for alias in node.names)))
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            if (path := _file_of(node.module)) is not None:
                found.add(path)
            found.update(filter(None, (_file_of(f"{node.module}.{alias.name}") for alias in node.names)))
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse((ROOT / file).read_text(encoding="utf-8")))
    # LeRobot finds a policy's model and processor by the name of its configuration's module.
    if "/configuration_" in file:
        found |= {file.replace("/configuration_", f"/{part}_") for part in ("modeling", "processor")}
    return {path for path in found if path.startswith("sigma/")}


def closure(file: str) -> list[str]:
    """``file`` and all of the package that it imports, directly or not, that a stage must depend on."""
    seen, todo = set(), [file]
    while todo:
        current = todo.pop()
        if current in seen or current.startswith(NO_DEPENDENCY):
            continue
        seen.add(current)
        todo.extend(imports(current))
    return sorted(path for path in seen if not path.endswith("__init__.py") or (ROOT / path).stat().st_size)


def lies_in(path: str, dependencies: list[str]) -> bool:
    """Whether one of a stage's dependencies is this file or a folder that holds it."""
    return any(path == name or path.startswith(f"{name}/") for name in dependencies)
