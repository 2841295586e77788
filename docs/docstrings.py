"""Docstrings as the pages want them: roles, formulas and simple tables of reST into Markdown.

In a terminal, where ``help()`` shows them, the docstrings read better as they are.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_TABLE = re.compile(
    r"(?:^={3,}(?: +={3,})+\n)(?:.*\n)*?^={3,}(?: +={3,})+$(?:\n(?:.+\n)*?={3,}(?: +={3,})+$)?",
    re.M,
)


def to_markdown(text: str) -> str:
    """A docstring's reST, of which there is little, as Markdown."""
    text = re.sub(r":math:`([^`]*)`", r"$\1$", text)
    text = re.sub(r":\w+:`~?([^`]*)`", lambda m: f"`{m[1].rpartition('.')[2]}`", text)
    text = _TABLE.sub(lambda m: "```text\n" + m[0].replace("`", "") + "\n```", text)
    return re.sub(r"::\n\n((?: {4}.*\n|\n)+)", _code, text + "\n").rstrip("\n")


def _code(match: re.Match[str]) -> str:
    lines = [line[4:] for line in match[1].rstrip("\n").split("\n")]
    return ":\n\n```python\n" + "\n".join(lines) + "\n```\n\n"


class Docstrings(griffe.Extension):
    """Rewrites every docstring that is loaded."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = to_markdown(obj.docstring.value)
