"""Imports point down, and `import segfast` needs torch and numpy alone."""

from __future__ import annotations

import ast
import functools
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
    ("losses", "metrics", "models", "data", "train_options", "_onnx_ops"),
    ("checkpoint", "compat", "_export", "_optimize"),
    ("predictor",),
    ("bench", "training", "doctor"),
    ("cli",),
    ("__init__", "__main__"),
)
HEIGHT = {part: height for height, parts in enumerate(LAYERS, start=1) for part in parts}
# What only those import who ask for it: each needs more than torch and numpy.
APART = {"metrics", "data", "checkpoint", "bench", "training", "doctor", "cli", "_onnx_ops"}


def part_of(module: str) -> str:
    """`losses` of segfast.losses.region; `__init__` of segfast itself."""
    return f"{module}.__init__".split(".")[1]


def at_import(body: list[ast.stmt]) -> Iterator[ast.AST]:
    """The statements that run when a module is imported, but for those for types."""
    for statement in body:
        yield from at_import(statement.body) if isinstance(statement, ast.Try) else [statement]


def named(statement: ast.AST) -> Iterator[str]:
    """The modules that an import statement names."""
    if isinstance(statement, ast.Import):
        yield from (alias.name for alias in statement.names)
    elif isinstance(statement, ast.ImportFrom):
        names = (alias.name for alias in statement.names)
        whole = statement.module == "segfast"  # from segfast import losses
        yield from (f"segfast.{name}" for name in names) if whole else [statement.module or ""]


@functools.cache
def imports(anywhere: bool) -> set[tuple[str, str]]:
    """Every file's part, and a module that it imports: when it is imported, or anywhere."""
    found = set()
    for path in sorted((ROOT / "segfast").rglob("*.py")):
        part = path.relative_to(ROOT / "segfast").parts[0].removesuffix(".py")
        tree = ast.parse(path.read_text(encoding="utf-8"))
        statements = ast.walk(tree) if anywhere else at_import(tree.body)
        found |= {(part, module) for statement in statements for module in named(statement)}
    return found


def test_imports_point_down() -> None:
    # Who asks for segfast itself wants its version, or where it lies.
    inside = {(part, part_of(name)) for part, name in imports(True) if name.startswith("segfast.")}
    assert len(inside) > 100
    up = {
        (part, other)
        for part, other in inside
        if part != other and HEIGHT.get(other, 0) >= max(HEIGHT.get(part, 0), 1)
    }
    assert not up


def test_the_package_needs_torch_and_numpy_alone() -> None:
    wanted = {name for part, name in imports(False) if part not in APART | {"__main__"}}
    own = {name for name in wanted if name.startswith("segfast")}
    assert not {part_of(name) for name in own} & APART
    needed = {name.partition(".")[0] for name in wanted - own} - sys.stdlib_module_names
    assert needed == {"torch", "numpy"}


def test_predicting_from_a_checkpoint_needs_no_lightning() -> None:
    learns = {part for part, name in imports(True) if name.partition(".")[0] == "lightning"}
    assert learns == {"training", "cli"}
