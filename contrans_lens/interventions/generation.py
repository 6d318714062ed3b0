"""Steered generation from texts to texts."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from contrans_lens.errors import InterventionError
from contrans_lens.interventions.audit import Audit, Change, Finding
from contrans_lens.interventions.edit import Edit
from contrans_lens.interventions.positions import FromMarker
from contrans_lens.interventions.steering import steer
from contrans_lens.models import HookedModel, generate_tokens, tokenize
from contrans_lens.models.generation import decode_new, until_end

DEFAULT_BATCH_SIZE = 16


@dataclass(frozen=True)
class Generation:
    """What a model wrote after each prompt."""

    prompts: tuple[str, ...]
    """The prompts, in the given order."""
    texts: tuple[str, ...]
    """The continuation of each prompt, without the prompt and without special tokens."""
    tokens: tuple[tuple[int, ...], ...]
    """The new token ids of each prompt, up to and with EOS."""
    audit: Audit | None = None
    """What was changed, where that was asked for; ``row`` is the number of the prompt and ``sequence`` is
    0."""


def generate(
    model: HookedModel,
    prompts: Sequence[str],
    interventions: Edit | Sequence[Edit] = (),
    *,
    max_new_tokens: int = 40,
    temperature: float = 0.0,
    seed: int | None = None,
    batch_size: int | None = None,
    use_cache: bool = True,
    stop_at_eos: bool = True,
    audit: bool = False,
) -> Generation:
    """Continue prompts under interventions.

    Greedy output does not depend on ``batch_size``. Sampled output does: rows of one batch share one random
    stream.

    Args:
        model: the model.
        prompts: texts to continue.
        interventions: what to do to the residual stream; none generates plainly.
        max_new_tokens: how many tokens to generate at most.
        temperature: 0 is greedy.
        seed: of the sampling; the same seed gives the same texts.
        batch_size: prompts in one forward pass; 16 where not given.
        use_cache: whether to keep keys and values between steps; the output is the same.
        stop_at_eos: whether a row ends at the model's end-of-text token.
        audit: record what was changed.

    Raises:
        InterventionError: prompts is one text and no list; a marker is absent in a prompt (it is named), or whatever
            :func:`steer` raises.
        TextError: a prompt is empty, or too long for the model.
    """
    if isinstance(prompts, str):
        raise InterventionError(f"prompts is the one text {prompts[:40]!r}; give a list of texts.")
    if batch_size is not None and batch_size < 1:
        raise InterventionError(f"batch_size is {batch_size}; at least 1 is expected.")
    chosen = (interventions,) if isinstance(interventions, Edit) else tuple(interventions)
    for each in chosen:
        if isinstance(each.positions, FromMarker):
            each.positions.require_in(prompts)
        each.require_model(model)
    # Checked once above: a fingerprint reads the weights, which is too much for each batch.
    unchecked = [each.unchecked() for each in chosen]
    texts: list[str] = []
    tokens: list[tuple[int, ...]] = []
    changes: list[Change] = []
    findings: list[Finding] = []
    size = batch_size or DEFAULT_BATCH_SIZE
    for start in range(0, len(prompts), size):
        batch = tokenize(model, list(prompts[start : start + size]), padding_side="left")
        with torch.inference_mode(), steer(model, unchecked, audit=audit) as session:
            new = generate_tokens(
                model,
                batch,
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                seed=None if seed is None else seed + start,
                use_cache=use_cache,
                stop_at_eos=stop_at_eos,
            )
        if audit:
            changes += [replace(each, row=each.row + start) for each in session.audit.changes]
            findings += [replace(each, row=each.row + start) for each in session.audit.findings]
        for prompt, mask, row in zip(batch.tokens, batch.mask, new.tolist(), strict=True):
            written = until_end(model, row) if stop_at_eos else tuple(row)
            tokens.append(written)
            texts.append(decode_new(model, prompt[mask].tolist(), written))
    recorded = Audit(tuple(changes), tuple(findings)) if audit else None
    return Generation(tuple(prompts), tuple(texts), tuple(tokens), recorded)
