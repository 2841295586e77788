"""``segfast doctor``: whether this installation works."""

from __future__ import annotations

import typer

from segfast.cli.console import say, say_error
from segfast.doctor import findings


def doctor() -> None:
    """Say what segfast was built for, what it runs on, and what to mend."""
    found = list(findings())
    width = max(len(finding.subject) for finding in found)
    for finding in found:
        say(f"{finding.subject:<{width}}  {finding.state}")
    cures = [finding for finding in found if finding.cure]
    for finding in cures:
        say_error(f"{finding.subject}: {finding.cure}")
    if cures:
        raise typer.Exit(1)
