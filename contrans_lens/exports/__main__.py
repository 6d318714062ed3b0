"""lm-evaluation-harness' own command line, to which the model ``contrans-lens`` is known.

``python -m contrans_lens.exports run --model contrans-lens --batch_size auto
--model_args pretrained=MODEL,intervention=FOLDER,strength=0.4 --tasks arc_easy``
"""

import importlib
import sys

from contrans_lens.errors import EvaluationError


def main() -> None:
    """Run lm-evaluation-harness' command line."""
    try:
        importlib.import_module("contrans_lens.exports.harness")  # makes the model's name known
    except EvaluationError as error:
        sys.exit(str(error))
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()


if __name__ == "__main__":
    main()
