"""The root of errors that a user can mend: the command prints their message and no traceback."""

from __future__ import annotations


class UserError(ValueError):
    """Something given to segfast cannot be used. The message is one sentence: what, and why."""


class OptionError(UserError):
    """An option that is unknown, out of range, or in contradiction to another."""
