"""Reader for the emotion scenarios of the Representation Engineering repository (Zou et al. 2023)."""

import json
from pathlib import Path

from contrans_lens.errors import TextError

EMOTIONS = ("happiness", "sadness", "anger", "fear", "disgust", "surprise")
"""The six emotions of the ConTrans paper, in its order."""


def read_repe_emotions(folder: Path | str) -> dict[str, list[str]]:
    """Scenario sentences by emotion, from ``happiness.json`` ... ``surprise.json``, each a list of sentences.

    Repeated sentences are kept once. A sentence that stands under two emotions is kept under both; mixed
    files such as ``happiness_fear.json`` are not read.

    Raises:
        TextError: the folder lacks one of the six files, or a file is not a list of sentences.
    """
    folder = Path(folder)
    scenarios = {}
    for emotion in EMOTIONS:
        path = folder / f"{emotion}.json"
        try:
            rows = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise TextError(f"{folder} has no {path.name}; it needs one file for each of {EMOTIONS}.") from error
        except (OSError, ValueError) as error:
            raise TextError(f"{path} is not readable JSON: {error}.") from error
        if not isinstance(rows, list) or any(not isinstance(row, str) for row in rows):
            raise TextError(f"{path} is not a list of sentences.")
        scenarios[emotion] = list(dict.fromkeys(row.strip() for row in rows if row.strip()))
        if not scenarios[emotion]:
            raise TextError(f"{path} holds no sentences.")
    return scenarios
