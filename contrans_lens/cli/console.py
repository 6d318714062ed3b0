"""What commands print, and where: results on standard output, everything else on standard error."""

import json
import shlex
import sys
from typing import Any

from rich.console import Console

# Everything meant for people goes to standard error under --json, so that standard output stays machine-readable.
out = Console()
err = Console(stderr=True)


def print_json(value: dict[str, Any]) -> None:
    """Print a result for machines."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def print_text(text: str) -> None:
    """Print a text as it is: brackets and numbers are nobody's markup, and long lines stay whole."""
    out.print(text, highlight=False, markup=False, soft_wrap=True)


def literal(text: str) -> str:
    """Text with rich's markup switched off, for cells of a table."""
    from rich.markup import escape

    return escape(text)


def typed_command() -> str:
    """The command as it was typed, with the program's public name."""
    return shlex.join(["contrans-lens", *sys.argv[1:]])


class Progress:
    """A status line on standard error that says which step runs; silent where nobody looks."""

    def __init__(self, quiet: bool) -> None:
        self._status = None if quiet or not err.is_terminal else err.status("starting")

    def __enter__(self) -> "Progress":
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()

    def __call__(self, step: str) -> None:
        """Say what runs now."""
        if self._status is not None:
            self._status.update(step)
