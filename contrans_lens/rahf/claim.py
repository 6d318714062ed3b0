"""The folder of a whole run: which run it holds, so that no other goes on in it.

::

    OUT/
        run.json        what the run is the result of; written first
        step1/, differences/, adapter/, alphas/, control/, scores/
        result.json     written last: the run is finished
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from contrans_lens.artifacts import package_versions, read_json, require_writable, write_json
from contrans_lens.errors import ArtifactError
from contrans_lens.rahf.keys import key_differences

RUN = "run.json"


def claim(folder: Path, key: Mapping[str, Any], plan: Callable[[], Mapping[str, Any]]) -> None:
    """Make a folder that of a run, or check that it is.

    Args:
        folder: made if absent.
        key: everything that the run is the result of, as JSON values.
        plan: what is found out once, before anything is trained, and written beside the key.

    Raises:
        ArtifactError: it holds another run or something else, or cannot be written.
    """
    require_writable(folder)
    if not (folder / RUN).exists():
        # Hidden names are what a kill left of our own writing, or a file manager's.
        held_there = sorted(each.name for each in folder.iterdir()) if folder.exists() else []
        taken = [name for name in held_there if not name.startswith(".")]
        if taken:
            more = f" and {len(taken) - 1} more" if len(taken) > 1 else ""
            raise ArtifactError(
                f"{folder} holds {taken[0]}{more}, and no {RUN}: it is no run of rahf. Choose an empty folder, or "
                "a new one."
            )
        found = plan()
        write_json(folder / RUN, {"key": dict(key), "plan": dict(found), "versions": package_versions()})
        return
    held = read_json(folder / RUN).get("key")
    different = key_differences(held if isinstance(held, dict) else {}, key)
    if different:
        raise ArtifactError(
            f"{folder} holds another run: {'; '.join(different)}. Choose another folder, or give what that run had."
        )


def claimed_plan(folder: Path) -> dict[str, Any]:
    """What :func:`claim` has written beside the key.

    Raises:
        ArtifactError: it is not there.
    """
    plan = read_json(folder / RUN).get("plan")
    if not isinstance(plan, dict):
        raise ArtifactError(f"{folder / RUN} has no plan; run again into a new folder.")
    return plan


def texts_hash(texts: Sequence[str]) -> str:
    """SHA-256 of texts in their order, in hexadecimal."""
    return hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()
