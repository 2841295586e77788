"""The command ``segfast``. Needs the extra ``train``."""

from __future__ import annotations

import errno
import sys

from segfast._errors import UserError


def main() -> None:
    """Runs the command: an error that the user can mend is one sentence, not a traceback."""
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        from segfast.cli.app import app
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("segfast"):
            raise
        sys.exit(f"segfast: {error.name} is not installed; do: pip install 'segfast[train]'")
    try:
        app(arguments)
    except Exception as error:
        if debug or not _mendable(error):
            raise
        from segfast.cli.console import say_error

        say_error(_sentence(error))
        sys.exit(1)


def _mendable(error: Exception) -> bool:
    import torch

    return isinstance(error, UserError | OSError | torch.OutOfMemoryError)


def _sentence(error: Exception) -> str:
    import torch

    if isinstance(error, torch.OutOfMemoryError):
        return "the GPU's memory does not suffice; try a smaller --batch-size or --size"
    if isinstance(error, OSError) and error.filename and error.strerror:
        cure = "; what was saved before is whole: free some space, then go on"
        return (
            f"{error.filename}: {error.strerror[0].lower()}{error.strerror[1:]}"
            f"{cure * (error.errno in (errno.ENOSPC, errno.EDQUOT))}"
        )
    text = str(error)
    if text.startswith("Caught "):  # in a worker process: torch hands on its whole traceback
        text = text.rsplit(f"{type(error).__name__}: ", 1)[-1].strip()
    return text
