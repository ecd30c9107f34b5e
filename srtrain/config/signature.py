"""Parameters of a class or function by its dotted name, read from source: nothing is imported."""

from __future__ import annotations

import ast
from functools import cache
from importlib.machinery import PathFinder
from pathlib import Path

# Imports followed from module to module before giving up.
MAX_HOPS = 4

Definition = ast.ClassDef | ast.FunctionDef


def parameters(target: str) -> frozenset[str] | None:
    """Keyword parameters of ``package.module.Name``; None where source cannot tell.

    That is: not found, not Python source, or taking ``**kwargs``.
    """
    found = _find(target, MAX_HOPS)
    return _parameters(*found) if found else None


def is_missing(target: str, package: str) -> bool:
    """Whether ``target`` lies in ``package`` (which is readable) and does not exist there."""
    return target.startswith(f"{package}.") and _find(target, MAX_HOPS) is None


def _find(target: str, hops: int) -> tuple[Definition, str] | None:
    """The definition and the module that holds it, following imports in source."""
    module, _, name = target.rpartition(".")
    file = _source(module) if module else None
    if file is None:
        return None
    for node in _tree(file).body:
        if isinstance(node, Definition) and node.name == name:
            return node, module
        if isinstance(node, ast.ImportFrom) and hops:
            for alias in node.names:
                if (alias.asname or alias.name) in (name, "*"):
                    origin = _absolute(node, module, file)
                    wanted = name if alias.name == "*" else alias.name
                    found = _find(f"{origin}.{wanted}", hops - 1)
                    if found:
                        return found
    return None


def _absolute(node: ast.ImportFrom, module: str, file: Path) -> str:
    if not node.level:
        return node.module or ""
    parts = module.split(".")
    up = node.level - (file.name == "__init__.py")
    base = parts[: len(parts) - up]
    return ".".join([*base, *([node.module] if node.module else [])])


def _parameters(node: Definition, module: str) -> frozenset[str] | None:
    if isinstance(node, ast.FunctionDef):
        return _arguments(node.args, module)
    for child in node.body:
        if isinstance(child, ast.FunctionDef) and child.name in {"__init__", "__new__"}:
            names = _arguments(child.args, module)
            return names - {"self", "cls"} if names is not None else None
    if _declares_fields(node):
        fields = (child.target for child in node.body if isinstance(child, ast.AnnAssign))
        return frozenset(target.id for target in fields if isinstance(target, ast.Name))
    if not node.bases:
        return frozenset()
    found = _find_near(ast.unparse(node.bases[0]), module)
    return _parameters(*found) if found and found[0] is not node else None


def _declares_fields(node: ast.ClassDef) -> bool:
    """Whether the class is a dataclass or a TypedDict: its annotations are its parameters."""
    decorators = (ast.unparse(decorator) for decorator in node.decorator_list)
    bases = (ast.unparse(base) for base in node.bases)
    return any("dataclass" in word for word in decorators) or "TypedDict" in bases


def _find_near(name: str, module: str) -> tuple[Definition, str] | None:
    return _find(name if "." in name else f"{module}.{name}", MAX_HOPS)


def _arguments(arguments: ast.arguments, module: str) -> frozenset[str] | None:
    names = frozenset(argument.arg for argument in (*arguments.args, *arguments.kwonlyargs))
    if arguments.kwarg is None:
        return names
    hint = arguments.kwarg.annotation  # **options: Unpack[Options]
    if not (isinstance(hint, ast.Subscript) and ast.unparse(hint.value).endswith("Unpack")):
        return None
    found = _find_near(ast.unparse(hint.slice), module)
    unpacked = _parameters(*found) if found else None
    return names | unpacked if unpacked is not None else None


@cache
def _source(module: str) -> Path | None:
    """The source file of a module; folders are walked, parent packages never executed."""
    top, *parts = module.split(".")
    spec = PathFinder.find_spec(top)
    if spec is None or spec.origin is None:
        return None
    file = Path(spec.origin)
    for part in parts:
        if file.suffix == ".py" and file.name != "__init__.py":
            return None
        folder = file.parent if file.name == "__init__.py" else file
        candidates = (folder / part / "__init__.py", folder / f"{part}.py", folder / part)
        found = next((candidate for candidate in candidates if candidate.exists()), None)
        if found is None:
            return None
        file = found
    return file if file.suffix == ".py" else None


@cache
def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))
