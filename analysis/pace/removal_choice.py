"""The choice of blocks and penalties, on validation items and validation texts alone, for every method alike."""

from typing import Any

from removal_methods import MAX_STRENGTH, Choice, Methods, candidate_solvers

from contrans_lens.evaluation import scaled, solve_directions

WINDOWS = ((0,), (1,), (2,), (1, 2, 3), (0, 1, 2, 3, 4))
BUDGETS = (0.0005, 0.005, 0.05)
"""Nats of KL a token, on neutral text."""
CHOICE_BUDGET = BUDGETS[1]
_TOLERANCE = 0.1


def choose(methods: Methods) -> dict[str, Any]:
    """By method, the candidate whose validation items are best at the middle budget; all candidates are told.

    Best: the highest probability of the good answer, to two digits, then the highest log-odds.
    """
    setup = methods.setup
    tried = [
        (name, Choice(None if solver is None else solver.to_dict(), blocks))
        for name, solvers in candidate_solvers().items()
        for solver in solvers
        for blocks in WINDOWS[: setup.sizes.windows]
    ]
    cells = [methods.cell(choice) for _, choice in tried]
    texts = setup.validation_neutral()
    solved = solve_directions(
        setup.target.model,
        texts.texts,
        cells,
        budget=CHOICE_BUDGET,
        tolerance=_TOLERANCE,
        max_strength=MAX_STRENGTH,
        checks=0,
        max_tokens=texts.max_tokens,
        prompt_tokens=texts.prompt_tokens,
    )
    scaled_cells = [scaled(cell, each.strength) for cell, each in zip(cells, solved, strict=True)]
    found = setup.asked("validation", setup.bad_cue()).measure(setup.target.model, [(), *scaled_cells])
    probabilities, odds = (found.means(column).tolist() for column in ("probability", "log_odds"))
    table = [
        {
            "method": name,
            **choice.to_dict(),
            "strength": each.strength,
            "kl": each.measured,
            "reached": each.reached,
            "probability": probability,
            "log_odds": log_odds,
        }
        for (name, choice), each, probability, log_odds in zip(tried, solved, probabilities[1:], odds[1:], strict=True)
    ]
    chosen = {}
    for name in candidate_solvers():
        own = [row for row in table if row["method"] == name]
        best = max(own, key=lambda row: (round(row["probability"], 2), row["log_odds"]))
        chosen[name] = {key: best[key] for key in best if key != "method"}
    return {
        "budget": CHOICE_BUDGET,
        "items": found.n_items,
        "unsteered": probabilities[0],
        "chosen": chosen,
        "candidates": table,
    }
