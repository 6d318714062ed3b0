"""What is written after sad beginnings: how many texts hold a word of sadness, before and after, and with controls."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from tale_items import sad_prompts
from tale_lab import MAX_TOKENS, PROMPT_TOKENS, Lab, word_list
from tale_methods import MAX_STRENGTH, METHODS, REFERENCE, Recipe, method_cell, shuffled_cells
from tale_search import MAIN_BUDGET, interval_numbers

from contrans_lens.evaluation import (
    bootstrap_draws_ci,
    bootstrap_mean_cis,
    rank_p_value,
    scaled,
    solve_directions,
)
from contrans_lens.evaluation.behaviours import Generations
from contrans_lens.evaluation.lexicon import emotion_lexicon
from contrans_lens.pace.removal import Mode

NEW_TOKENS = {"stories-260k": 40, "storychars-1m": 100}
"""About a hundred letters each."""
TEMPERATURE = 0.8
_SHOWN = 4


def sadness_judge(prompts: Sequence[str], texts: Sequence[str]) -> list[float]:
    """1 for a text with a word of sadness, else 0; words of the prompt do not count."""
    hits = emotion_lexicon("sadness").hits(texts)[:, 0]
    return [float(count > 0) for count in hits.tolist()]


def writing(lab: Lab, mode: Mode, scored: Mapping[str, Any]) -> dict[str, Any]:
    """Sampled continuations under every method at the main budget; each control draw writes one text a prompt."""
    topic = "sadness"
    at_budget = scored["budgets"][f"{MAIN_BUDGET:g}"]
    chosen = {method: Recipe.from_dict(scored["recipes"][method]) for method in METHODS}
    cells = [
        scaled(method_cell(lab, recipe, topic, mode), at_budget[method]["strength"])
        for method, recipe in chosen.items()
    ]
    prompts = sad_prompts()
    many = _behaviour(lab, prompts * lab.sizes.repeats, prompts * lab.sizes.repeats)
    written = many.write(lab.model, [(), *cells])
    measured = many.judged(written, lab.model, [(), *cells])
    shares = measured.column("score")
    columns = torch.cat([shares, shares - shares[:1]]).T
    intervals = [interval_numbers(each) for each in bootstrap_mean_cis(columns, many.groups)]
    repetition = measured.column("repetition").mean(1).tolist()
    rows: dict[str, Any] = {}
    for place, name in enumerate(("unsteered", *METHODS)):
        rows[name] = {"share": intervals[place], "repetition": repetition[place], "n": shares.shape[1]}
        rows[name]["beginning_sad"] = sum(_begins_sad(text) for text in written.texts[place]) / shares.shape[1]
        rows[name]["known"] = _known(lab, written.texts[place])
        rows[name]["texts"] = [[prompts[i], written.texts[place][i]] for i in range(_SHOWN)]
        if place:
            rows[name]["change"] = intervals[1 + len(METHODS) + place]
    place = 1 + METHODS.index(REFERENCE)
    own = float(shares[place, : len(prompts)].mean() - shares[0, : len(prompts)].mean())
    rows["controls"] = _controls(lab, mode, chosen[REFERENCE], prompts, own)
    return rows


def _begins_sad(text: str) -> bool:
    """Whether any word begins with "sad": a misspelt one is not in the lexicon."""
    return any(word.startswith("sad") for word in word_list(text))


def _known(lab: Lab, texts: Sequence[str]) -> float:
    """Share of the words written that occur in real stories; the last one may be cut off and does not count."""
    words = [word for text in texts for word in word_list(text)[:-1]]
    return sum(word in lab.vocabulary for word in words) / max(1, len(words))


def _controls(lab: Lab, mode: Mode, recipe: Recipe, prompts: list[str], own: float) -> dict[str, Any]:
    """As many other concepts under the same recipe, at the same budget."""
    cells = shuffled_cells(lab, recipe, "sadness", mode, lab.sizes.draws)
    once = _behaviour(lab, prompts, prompts)
    solved = solve_directions(
        lab.model,
        lab.neutral("score").texts,
        cells,
        budget=MAIN_BUDGET,
        max_strength=MAX_STRENGTH,
        max_tokens=MAX_TOKENS,
        prompt_tokens=PROMPT_TOKENS,
        tolerance=0.05,
    )
    strong = [scaled(cell, found.strength) for cell, found in zip(cells, solved, strict=True)]
    shares = once.measure(lab.model, [(), *strong]).column("score")
    changes = shares[1:] - shares[:1]
    draws = changes.mean(1).tolist()
    return {
        "own": own,
        "change": interval_numbers(bootstrap_draws_ci(changes, once.groups)),
        "draws": draws,
        "p": rank_p_value([-each for each in draws], -own),
    }


def _behaviour(lab: Lab, prompts: Sequence[str], groups: Sequence[str]) -> Generations:
    return Generations(
        tuple(prompts),
        sadness_judge,
        "a word of sadness",
        max_new_tokens=NEW_TOKENS[lab.name],
        temperature=TEMPERATURE,
        drift=False,
        groups=tuple(groups),
    )
