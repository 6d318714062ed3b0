"""What a change of the weights costs on neutral text: the damage of one model against another.

The numbers of :mod:`contrans_lens.evaluation.damage` with the base model in the place of the unsteered one and the
changed model in that of the steered one, so that a fine-tuned model, a merged adapter and a steering vector can be held
side by side.
"""

from collections.abc import Sequence

from contrans_lens.errors import EvaluationError
from contrans_lens.evaluation.damage import Damage, report_damage
from contrans_lens.evaluation.meter import DamageMeter
from contrans_lens.models import HookedModel, tokenize


def model_damage(
    base: HookedModel,
    changed: HookedModel,
    texts: Sequence[str],
    *,
    max_tokens: int | None = None,
    prompt_tokens: int | None = None,
    token_budget: int | None = None,
) -> Damage:
    """Damage that a change of the model does on neutral text: ``KL(base || changed)`` and the rest of :class:`Damage`.

    Args:
        base: the model as it was; what :class:`Damage` calls unsteered.
        changed: the model as it is now (an adapter merged in, fine-tuned, edited), with the same tokenizer; what
            :class:`Damage` calls steered. It may be of another size, dtype or model class, or on another device.
        texts: neutral texts.
        max_tokens: use at most this many tokens of each text; the base's context if None.
        prompt_tokens: leave the first so many tokens of each text out of the measure, as
            :func:`contrans_lens.evaluation.damage` does.
        token_budget: most tokens in one forward pass; chosen by device if None.

    Raises:
        EvaluationError: the models' vocabularies differ, or they make different tokens of the texts; a text with
            nothing to predict; logits that are not finite.
        ModelError: a model has no tokenizer.
        TextError: no texts, or an empty one.
    """
    require_same_tokens(base, changed, texts, max_tokens)
    meter = DamageMeter(base, texts, max_tokens=max_tokens, prompt_tokens=prompt_tokens, token_budget=token_budget)
    totals = meter.totals_of_model(changed)
    if not bool((totals.kl + totals.nll).isfinite().all()):
        raise EvaluationError(
            "the changed model's logits hold NaN or infinity; use a wider dtype, or look at the model."
        )
    return report_damage(meter, totals)[0]


def require_same_tokens(
    base: HookedModel, changed: HookedModel, texts: Sequence[str], max_tokens: int | None = None
) -> None:
    """Check that two models give probabilities of the same tokens.

    Raises:
        EvaluationError: another number of tokens, another vocabulary, or other tokens of these texts (BOS included).
        ModelError: a model has no tokenizer.
        TextError: no texts, or an empty one.
    """
    sizes = [int(model.cfg.d_vocab) for model in (base, changed)]
    if sizes[0] != sizes[1]:
        raise EvaluationError(
            f"the base gives probabilities of {sizes[0]} tokens and the changed model of {sizes[1]}; next-token "
            "distributions can be compared over one vocabulary only."
        )
    first = tokenize(base, list(texts), truncate="right", max_length=max_tokens)
    room, longest = int(changed.cfg.n_ctx), first.tokens.shape[1]
    if longest > room:
        raise EvaluationError(
            f"the texts have up to {longest} tokens and the changed model's context is {room}; give max_tokens={room}."
        )
    limit = min(room, int(base.cfg.n_ctx) if max_tokens is None else max_tokens)
    second = tokenize(changed, list(texts), truncate="right", max_length=limit)
    rows = [[ids[real].tolist() for ids, real in zip(each.tokens, each.mask, strict=True)] for each in (first, second)]
    if rows[0] != rows[1] or _words(base) != _words(changed):
        raise EvaluationError(
            "the two models' tokenizers differ (their vocabularies, or the tokens of these texts with BOS); if the "
            "changed model was trained with the base's, open it with that: open_model(..., tokenizer=base.tokenizer)."
        )


def _words(model: HookedModel) -> dict[str, int]:
    """The tokens that the model has. TransformerLens gives some tokenizers others besides, out of its reach."""
    return {word: number for word, number in model.tokenizer.get_vocab().items() if number < model.cfg.d_vocab}
