"""What a run of the benchmark leaves: its rows, with the machine and the command that made them."""

from __future__ import annotations

import json
import platform
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import segfast
from segfast._extension import C
from segfast._files import write_text
from segfast.bench.models import ModelRow
from segfast.bench.run import Row, as_dict
from segfast.bench.timing import copy_bandwidth


@dataclass
class Results:
    """Rows measured on one machine."""

    machine: dict[str, Any]
    command: str
    rows: list[Row] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    models: dict[str, list[ModelRow]] = field(default_factory=dict)  # by name

    @classmethod
    def begin(cls, device: torch.device, command: str | None = None) -> Results:
        """Empty results, after a look at the machine."""
        machine = describe(device)
        machine["copy_gb_per_s"] = round(copy_bandwidth(device) / 1e9, 1)
        return cls(machine, command or shlex.join(sys.orig_argv))

    @classmethod
    def read(cls, path: Path) -> Results:
        """Results that :meth:`write` has written.

        Raises:
            ValueError: the file holds something else.
        """
        try:
            report = json.loads(path.read_text(encoding="utf-8"))
            rows = [Row(**row) for row in report["rows"]]
            models = {
                name: [ModelRow(**row) for row in of] for name, of in report["models"].items()
            }
            return cls(report["machine"], report["command"], rows, report["failed"], models)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} holds no results of segfast's benchmark: {error}") from error

    def write(self, path: Path) -> None:
        """Replaces ``path`` by all rows so far."""
        report = {
            "machine": self.machine,
            "command": self.command,
            "failed": self.failed,
            "rows": [as_dict(row) for row in self.rows],
            "models": {name: [as_dict(row) for row in of] for name, of in self.models.items()},
        }
        write_text(path, json.dumps(report, indent=1) + "\n")


def describe(device: torch.device) -> dict[str, Any]:
    """The machine and the versions."""
    on_gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else _processor(),
        "threads": None if on_gpu else torch.get_num_threads(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda if on_gpu else None,
        "python": platform.python_version(),
        "segfast": segfast.__version__,
        "commit": _commit(),
        "compiled": C is not None,
    }


def _processor() -> str:
    """Its name, and the instruction set of our kernels: machines of one name differ in that."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    name = line.partition(":")[2].strip()
                    break
    except OSError:
        pass
    return name if C is None else f"{name} ({C.cpu_isa()})"


def _commit() -> str | None:
    """The commit of the sources, with a + where they have been changed since."""
    folder = Path(segfast.__file__).parents[1]
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None  # installed, not a checkout
    return described.stdout.strip()
