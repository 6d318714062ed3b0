"""What a run is the result of, compared with what a folder holds: everything that a result depends on, as JSON."""

import json
from collections.abc import Mapping
from typing import Any


def key_differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """What differs between two keys, a clause for each, by the path of its name; none where they are the same.

    Args:
        found: what is there.
        wanted: what is given now.
    """
    return _compared(json.loads(json.dumps(found)), json.loads(json.dumps(wanted)), "")


def _compared(found: dict[str, Any], wanted: dict[str, Any], prefix: str) -> list[str]:
    listed: list[str] = []
    for name in dict.fromkeys((*wanted, *found)):
        there, here = found.get(name), wanted.get(name)
        if isinstance(there, dict) and isinstance(here, dict):
            listed += _compared(there, here, f"{prefix}{name}.")
        elif there != here:
            listed.append(f"{prefix}{name} is {_short(there)} there and {_short(here)} here")
    return listed


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:30] + "..."
