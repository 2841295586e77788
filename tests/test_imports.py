"""Imports point down, and `import segfast` needs torch and numpy alone."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# A part imports what stands before it; of its own line, itself alone. Modules of the package that
# are not named here are the ground of all.
LAYERS = (
    ("functional",),
    ("nn",),
    ("_accelerate",),
    ("losses", "metrics", "models", "data"),
    ("compat", "_export", "_optimize", "_onnx_ops", "predictor"),
    ("bench", "training", "doctor"),
    ("cli",),
    ("__init__", "__main__"),
)
HEIGHT = {part: height for height, parts in enumerate(LAYERS, start=1) for part in parts}
# What only those import who ask for it: each needs more than torch and numpy.
APART = {"metrics", "data", "bench", "training", "doctor", "cli", "_onnx_ops", "__main__"}


def part_of(module: str) -> str:
    """`losses` of segfast.losses.region; `__init__` of segfast itself."""
    return f"{module}.__init__".split(".")[1]


def imported(body: list[ast.stmt]) -> Iterator[str]:
    """Modules that importing a file imports, but for types."""
    for statement in body:
        if isinstance(statement, ast.Import):
            yield from (alias.name for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom):
            names = (alias.name for alias in statement.names)
            whole = statement.module == "segfast"  # from segfast import losses
            yield from (f"segfast.{name}" for name in names) if whole else [statement.module or ""]
        elif isinstance(statement, ast.Try):
            yield from imported(statement.body)


def imports() -> Iterator[tuple[str, str]]:
    """Every file's part, and a module that it imports."""
    for path in sorted((ROOT / "segfast").rglob("*.py")):
        part = path.relative_to(ROOT / "segfast").parts[0].removesuffix(".py")
        for module in imported(ast.parse(path.read_text(encoding="utf-8")).body):
            yield part, module


def test_imports_point_down() -> None:
    # Who asks for segfast itself wants its version, or where it lies.
    inside = {(part, part_of(name)) for part, name in imports() if name.startswith("segfast.")}
    assert len(inside) > 80
    up = {
        (part, other)
        for part, other in inside
        if part != other and HEIGHT.get(other, 0) >= max(HEIGHT.get(part, 0), 1)
    }
    assert not up


def test_the_package_needs_torch_and_numpy_alone() -> None:
    outside = {
        (part, name.partition(".")[0])
        for part, name in imports()
        if part not in APART and not name.startswith("segfast")
    }
    needed = {name for _, name in outside} - sys.stdlib_module_names
    assert needed == {"torch", "numpy"}
