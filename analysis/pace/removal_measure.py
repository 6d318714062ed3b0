"""Measurements of a setup on test items: methods at equal damage, controls, other damage, every token."""

from collections.abc import Callable, Mapping
from typing import Any

from removal_choice import BUDGETS, choose
from removal_methods import MAX_STRENGTH, Choice, Methods
from removal_setups import PROMPT_TOKENS

from contrans_lens.evaluation import bootstrap_mean_ci, prompt_damage, scaled, solve_directions
from contrans_lens.evaluation.behaviours import Behaviour, Measurement, NeutralText
from contrans_lens.testbed import neutral_texts
from contrans_lens.tradeoff import Comparison, compare

MIDDLE = BUDGETS[1]
TOLERANCE = 0.05
"""Relative, of solved damage."""
N_CHECKED = 48
CONTROLLED = {"shuffled partition": "elastic net", "random vector": "mean difference"}
"""Control families and the method that each is for."""
PAIRS = (
    ("elastic net", "projection"),
    ("elastic net", "addition"),
    ("elastic net", "mean difference"),
    ("OMP", "projection"),
    ("OMP", "mean difference"),
    ("elastic net", "OMP"),
    ("paper", "projection"),
    ("elastic net, scorer", "elastic net"),
    ("elastic net, scorer", "projection, scorer"),
)
PER_TOKEN = ("elastic net", "OMP", "projection", "addition", "mean difference")
Numbers = dict[str, Any]


def parts() -> dict[str, Callable[[Methods, Numbers], Numbers]]:
    """The parts of a setup's measurements, each kept in a file of its own."""
    return {
        "chosen": lambda methods, done: choose(methods),
        "methods": measure_methods,
        "controls": measure_controls,
        "cued": measure_cued,
        "tokens": measure_tokens,
        "words": measure_words,
        "check": check_damage,
        "partitions": lambda methods, done: partitions(methods),
    }


def choices(done: Numbers) -> dict[str, Choice]:
    """What was chosen on validation items, by method."""
    return {name: Choice.from_dict(value) for name, value in done["chosen"]["chosen"].items()}


def measure_methods(methods: Methods, done: Numbers) -> Numbers:
    """All methods at strength 1 and at each budget, with everything that is measured of them."""
    setup, cells = methods.setup, methods.all(choices(done))
    behaviours: list[Behaviour] = [*setup.behaviours(), setup.cued_neutral()]
    few = {name: cell for name, cell in cells.items() if not name.endswith("scorer")}
    return {
        label: _numbers(_compared(methods, cells if budget in (None, MIDDLE) else few, behaviours, budget))
        for label, budget in (("strength 1", None), *((f"{budget:g}", budget) for budget in BUDGETS))
    }


def measure_controls(methods: Methods, done: Numbers) -> Numbers:
    """Twenty draws of each control family at the middle budget, with their methods' ranks.

    Strengths are solved coarsely, on half of the neutral texts; the damage that is told is that on all of them.
    """
    setup, chosen = methods.setup, choices(done)
    behaviour, neutral = setup.asked("test", setup.bad_cue()), setup.neutral()
    drawn = {
        "shuffled partition": methods.shuffled(chosen["elastic net"]),
        "random vector": methods.random(chosen["mean difference"]),
    }
    found: Numbers = {}
    for family, reference in CONTROLLED.items():
        cells = [methods.cell(chosen[reference]), *drawn[family]]
        solved = solve_directions(
            setup.target.model,
            neutral.texts[: -(-len(neutral.texts) // 2)],
            cells,
            budget=MIDDLE,
            tolerance=2 * TOLERANCE,
            max_strength=MAX_STRENGTH,
            checks=0,
            max_tokens=neutral.max_tokens,
            prompt_tokens=neutral.prompt_tokens,
        )
        own, *draws = (scaled(cell, each.strength) for cell, each in zip(cells, solved, strict=True))
        result = _compared(methods, {reference: own, family: draws}, [behaviour], None, reference)
        row = result.row(family, "unwanted")
        found[family] = {
            "of": reference,
            "effect": _interval(row.effect),
            "draws": list(row.draws),
            "p_value": row.p_value,
            "method_effect": _interval(result.row(reference, "unwanted").effect),
            "kl": result.damage(family).kl,
            "method_kl": result.damage(reference).kl,
            "strength": sum(each.strength for each in solved[1:]) / len(draws),
            "n_reached": sum(each.reached for each in solved[1:]),
        }
    return found


def measure_cued(methods: Methods, done: Numbers) -> Numbers:
    """Equal damage where the unwanted concept is in the context: strengths solved on text after the bad cue."""
    setup, texts = methods.setup, methods.setup.cued_neutral()
    cells = {name: cell for name, cell in methods.all(choices(done)).items() if not name.endswith("scorer")}
    behaviours: list[Behaviour] = [setup.asked("test", setup.bad_cue())]
    result = compare(
        setup.target.model,
        cells,
        behaviours,
        texts,
        budget=MIDDLE,
        signs="plus",
        max_strength=MAX_STRENGTH,
        tolerance=TOLERANCE,
    )
    return _numbers(result)


def measure_tokens(methods: Methods, done: Numbers) -> Numbers:
    """The chosen methods with every token edited, decomposed one by one.

    The elastic net is shown at strength 1 alone: at every token it is too slow to solve a strength for it here.
    """
    setup, chosen = methods.setup, choices(done)
    cells = {name: methods.cell(chosen[name], mode="per_token") for name in PER_TOKEN}
    solvable = {name: cell for name, cell in cells.items() if name != "elastic net"}
    behaviours = [setup.asked("test", setup.bad_cue(), most=setup.sizes.test_items // 2)]
    return {
        "strength 1": _numbers(_compared(methods, cells, behaviours, None)),
        f"{MIDDLE:g}": _numbers(_compared(methods, solvable, behaviours, MIDDLE)),
    }


def measure_words(methods: Methods, done: Numbers) -> Numbers:
    """Words alone: the good cue after the bad one, and what it costs on neutral text."""
    setup = methods.setup
    bad, good = setup.bad_cue(), setup.good_cue()
    model, found = setup.target.model, {}
    plain = setup.asked("test", bad).measure(model, [()])
    cued = setup.asked("test", bad + good).measure(model, [()])
    change = {name: cued.column(name)[0] - plain.column(name)[0] for name in ("probability", "log_odds")}
    found = {name: _interval(bootstrap_mean_ci(each, plain.groups)) for name, each in change.items()}
    cost = prompt_damage(model, setup.neutral().texts, good)
    return {"effect": found, "value": float(cued.means("probability")[0]), "kl": cost.kl}


def partitions(methods: Methods) -> Numbers:
    """The true topic's atoms beside what the offline scorer finds from two words."""
    setup = methods.setup
    topic, scored = set(setup.topic_atoms), setup.scored_atoms
    return {
        "topic": list(setup.topic_atoms),
        "scored": list(scored),
        "examples": list(setup.unwanted.examples),
        "n_topic": len(topic),
        "n_scored": len(scored),
        "n_both": len(topic & set(scored)),
        "topic_atoms_in_draws": [len(topic & set(names)) for names in methods.shuffled_atoms()],
    }


def check_damage(methods: Methods, done: Numbers) -> Numbers:
    """Damage of the solved strengths on other neutral texts, of which all is used."""
    setup, cells = methods.setup, methods.all(choices(done))
    texts = NeutralText(tuple(neutral_texts(N_CHECKED, seed=2)), prompt_tokens=PROMPT_TOKENS)
    found: Numbers = {}
    for label in ("strength 1", f"{MIDDLE:g}"):
        rows = {name: row for name, row in done["methods"][label]["methods"].items() if name in cells}
        scaled_cells = [scaled(cells[name], row["strength"] or 1.0) for name, row in rows.items()]
        intervals = texts.measure(setup.target.model, scaled_cells).intervals("kl")
        found[label] = {name: _interval(each) for name, each in zip(rows, intervals, strict=True)}
    return found


def _compared(
    methods: Methods,
    cells: Mapping[str, Any],
    behaviours: list[Any],
    budget: float | None,
    reference: str | None = None,
) -> Comparison:
    setup = methods.setup
    return compare(
        setup.target.model,
        cells,
        behaviours,
        setup.neutral(),
        budget=budget,
        signs="plus",
        max_strength=MAX_STRENGTH,
        tolerance=TOLERANCE,
        reference=reference,
    )


def _numbers(result: Comparison) -> Numbers:
    """Every method with its damage and what it does to each behaviour; paired differences of the unwanted one."""
    found: Numbers = {}
    for damage in result.damages:
        one: Numbers = {"kl": damage.kl, "kl_ci": damage.kl_ci, "perplexity": damage.perplexity}
        for row in result.rows:
            if row.method != damage.method or row.column not in ("probability", "log_odds", "p_restricted", "kl"):
                continue
            one |= {"strength": row.strength, "reached": row.reached}
            one.setdefault(row.behaviour, {})[row.column] = {
                "value": _interval(row.plus),
                "effect": _interval(row.effect),
            }
        found[damage.method] = one
    return {"methods": found, "differences": _differences(result)}


def _differences(result: Comparison) -> Numbers:
    """First method minus second on the same items, by pair and column."""
    values, found = result.values["unwanted"], {}
    for first, second in PAIRS:
        if first in values and second in values:
            found[f"{first} - {second}"] = {
                column: _interval(
                    bootstrap_mean_ci(
                        _plus(values[first], column) - _plus(values[second], column), values[first].groups
                    )
                )
                for column in ("probability", "log_odds")
            }
    return found


def _plus(found: Measurement, column: str) -> Any:
    return found.column(column)[0]


def _interval(interval: Any) -> list[float]:
    return [interval.value, interval.low, interval.high]
