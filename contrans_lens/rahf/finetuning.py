"""Step 1 of RAHF (arXiv 2312.15997): make models that feel the preference.

*SCIT* is one model that obeys contrastive instructions: chosen answers stand under p+, rejected ones under p-. Its loss
is ``LM + mean[(1 - eps)(-log(a / (a + b))) + eps (-log(b / (a + b)))]`` with ``a = exp(-mean CE(r | p_match))`` and
``b = exp(-mean CE(r | p_mismatch))``. *Dual* is two models under the plain prompt, one trained on the chosen answers
(``"preferred"``), one on the rejected ones (``"dispreferred"``).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from contrans_lens.errors import ArtifactError, RahfError
from contrans_lens.models.plain import PlainModel, open_plain
from contrans_lens.rahf.adapters import add_adapter
from contrans_lens.rahf.losses import answer_nll, scit_contrast
from contrans_lens.rahf.objective import Objective
from contrans_lens.rahf.tokens import AnswerRow, AnswerTokens, InstructionsByTopic, collate, tokenize_answers
from contrans_lens.rahf.training import (
    RAHF_LORA,
    RAHF_TRAINING,
    Cost,
    LoraSettings,
    LossCurve,
    TrainingRecord,
    TrainingSettings,
    dtype_name,
    train,
)
from contrans_lens.rahf.training_run import TrainingRun, base_identity, read_manifest, save_weights
from contrans_lens.texts import Instructions, PreferenceSet

Method = Literal["scit", "preferred", "dispreferred"]
"""Which model of step 1."""
KIND = "rahf_fine_tuning"
_ANSWERS: dict[str, Literal["chosen", "rejected"]] = {"preferred": "chosen", "dispreferred": "rejected"}


@dataclass(frozen=True)
class FineTuned:
    """A fine-tuned model: a ``peft`` adapter, or without LoRA a whole Hugging Face model with its tokenizer."""

    folder: Path
    """Where it is; ``peft`` and ``transformers`` read it."""
    method: Method
    """What it was trained to feel."""
    curve: LossCurve
    """Over the training pairs. SCIT's columns are ``lm``, ``contrast`` and ``accuracy``: the share of answers that are
    likelier under their own instruction."""
    validation_curve: LossCurve | None
    """The same over the validation pairs, without dropout: before the first update, at checkpoints and at the end."""
    cost: Cost
    """What the training took."""
    settings: Mapping[str, Any]
    """What it is the result of: base, data, instructions, LoRA and training settings."""
    cut_prompts: int
    """Answers whose prompt lost tokens on its left."""
    cut_answers: int
    """Answers that lost tokens on their right."""

    @property
    def base(self) -> str:
        """Folder or hub name of the base model."""
        return str(self.settings["place"])

    @property
    def is_adapter(self) -> bool:
        """Whether the folder holds an adapter, or else a whole model."""
        return self.settings["lora"] is not None

    @classmethod
    def load(cls, folder: Path | str) -> "FineTuned":
        """Open what :func:`fine_tune` made.

        Raises:
            ArtifactError: it is not there, unfinished, of another kind or schema version, or lacks something.
        """
        folder = Path(folder)
        manifest = read_manifest(folder, KIND)
        body, key = manifest["body"], manifest["key"]
        record = TrainingRecord.from_dict(body)
        try:
            settings = {**key, "place": body["place"], "preferences": body["preferences"]}
            cuts = int(body["cut_prompts"]), int(body["cut_answers"])
            return cls(folder, key["method"], record.curve, record.validation_curve, record.cost, settings, *cuts)
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"the manifest of {folder} does not fit: {error!r}; train again.") from error


def fine_tune(
    base: str | Path,
    preferences: PreferenceSet,
    out: Path | str,
    *,
    method: Method,
    instructions: InstructionsByTopic | None = None,
    epsilon: float | int = 0.2,
    contrast_weight: float | int = 1.0,
    lora: LoraSettings | None = RAHF_LORA,
    training: TrainingSettings = RAHF_TRAINING,
    validation: PreferenceSet | None = None,
    end_of_answer: bool = False,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> FineTuned:
    """Fine-tune a base model on preferences, and save the result as a folder that ``peft`` reads.

    Only answers are trained on, never prompts. A run that was broken off is taken up at its last checkpoint by the
    same call, and ends as if it had not been; a finished one is opened. Works under ``accelerate launch``.

    Args:
        base: hub name or folder of the base model.
        preferences: the training pairs.
        out: the result's folder.
        method: ``"scit"``, ``"preferred"`` or ``"dispreferred"``.
        instructions: p+ and p-, for all pairs or by their topic. SCIT only.
        epsilon: label smoothing of the contrastive term.
        contrast_weight: of the contrastive term beside the language modelling term.
        lora: the adapter; None trains all weights and saves a whole model.
        training: how long, in which batches and how fast.
        validation: pairs that are scored at every checkpoint, not learnt.
        end_of_answer: put the tokenizer's EOS after every answer, so that the model learns to stop there. The paper's
            code does not.
        dtype: of the base's weights, float32 or bfloat16; those of an adapter are float32. Without LoRA float32 only.
        device: where; CUDA if there is one and None is given, else the CPU.
        progress: whether to show a bar with the time left.

    Raises:
        RahfError: there is no such method, instructions are missing or not needed, rows have no room, there is no EOS,
            the dtype is none to train in, or the loss is not finite.
        ModelError: the base cannot be opened.
        ArtifactError: the folder holds another run, or cannot be written.
    """
    _check(method, instructions, epsilon, contrast_weight)
    dtype_name(dtype, lora=lora is not None)
    plain = open_plain(base, dtype=dtype, device="cpu")
    limit, end = _max_length(plain, training), _end(plain) if end_of_answer else None
    recipe = _Recipe(plain, method, instructions, epsilon, contrast_weight, limit, training, end)
    key = {
        "method": method,
        "base": base_identity(plain),
        "data": preferences.content_hash,
        "validation": None if validation is None else validation.content_hash,
        "instructions": _as_json(instructions),
        "epsilon": float(epsilon),
        "contrast_weight": float(contrast_weight),
        "end_of_answer": end_of_answer,
        "lora": None if lora is None else asdict(lora),
        "training": asdict(training),
    }
    run = TrainingRun(Path(out), KIND, key)
    if run.finished() is None:
        objective, tokens = recipe.objective(preferences)
        scored = None if validation is None else recipe.objective(validation)[0]
        model = plain.model if lora is None else add_adapter(plain.model, lora, training.seed)
        record = train(model, objective, training, run, validation=scored, device=device, progress=progress)
        cuts = {"cut_prompts": tokens.cut_prompts, "cut_answers": tokens.cut_answers}
        about = {"place": plain.place, "preferences": {"name": preferences.name, "pairs": len(preferences)}}
        run.commit(lambda folder: save_weights(model, plain.place, folder), {**about, **cuts, **record.to_dict()})
    return FineTuned.load(run.folder)


@dataclass(frozen=True)
class _Recipe:
    """How pairs become what is learnt."""

    plain: PlainModel
    method: Method
    instructions: InstructionsByTopic | None
    epsilon: float | int
    contrast_weight: float | int
    max_length: int
    training: TrainingSettings
    end: int | None

    def objective(self, preferences: PreferenceSet) -> tuple[Objective, AnswerTokens]:
        """The objective of some pairs, with their tokens (of SCIT under p+; under p- the same are cut)."""
        if self.method != "scit":
            tokens = self._tokens(preferences, "plain")
            return self._over([[row] for row in tokens.rows], _nll_loss), tokens
        positive, negative = self._tokens(preferences, "positive"), self._tokens(preferences, "negative")
        plus, minus = positive.rows, negative.rows  # each the chosen and the rejected answer of a pair in turn
        rows = [
            [plus[at], minus[at + 1], minus[at], plus[at + 1]]  # chosen and rejected: matching, then mismatching
            for at in range(0, len(plus), 2)
        ]
        return self._over(rows, self._scit_loss), positive

    def _tokens(self, preferences: PreferenceSet, side: Literal["plain", "positive", "negative"]) -> AnswerTokens:
        return tokenize_answers(
            self.plain.tokenizer,
            preferences.preferences,
            bos=self.plain.bos,
            max_length=self.max_length,
            answers=_ANSWERS.get(self.method, "both"),
            instructions=self.instructions,
            side=side,
            max_answer_tokens=self.training.max_answer_tokens,
            end=self.end,
        )

    def _over(
        self, rows: Sequence[Sequence[AnswerRow]], loss: Callable[[nn.Module, Any], tuple[Tensor, dict[str, Tensor]]]
    ) -> Objective:
        return Objective(
            tokens=tuple(sum(len(row.ids) for row in example) for example in rows),
            n_blocks=self.plain.n_blocks,
            collate=lambda indices: collate([row for index in indices for row in rows[index]], self.plain.pad),
            loss=loss,
        )

    def _scit_loss(self, model: nn.Module, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of SCIT on four rows a pair, all in one forward pass."""
        nll = _nll(model, batch).reshape(-1, 2, 2)  # pair, whether it mismatches, which answer
        match, mismatch = nll[:, 0], nll[:, 1]
        lm = match.mean()
        contrast = scit_contrast(match, mismatch, self.epsilon).mean()
        accuracy = (match < mismatch).float().mean()
        columns = {"lm": lm.detach(), "contrast": contrast.detach(), "accuracy": accuracy}
        return lm + self.contrast_weight * contrast, columns


def _nll(model: nn.Module, batch: Any) -> Tensor:
    logits = model(input_ids=batch.ids, attention_mask=batch.mask.long(), use_cache=False).logits
    return answer_nll(logits, batch)


def _nll_loss(model: nn.Module, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
    return _nll(model, batch).mean(), {}


def _check(
    method: str, instructions: InstructionsByTopic | None, epsilon: float | int, contrast_weight: float | int
) -> None:
    if method not in get_args(Method):
        raise RahfError(f"method={method!r}; one of {', '.join(map(repr, get_args(Method)))} was expected.")
    if method == "scit" and instructions is None:
        raise RahfError("method='scit' needs instructions (p+ and p-); give instructions=....")
    if method != "scit" and instructions is not None:
        raise RahfError(f"method={method!r} trains under the plain prompt; leave instructions out, or use 'scit'.")
    if not 0 <= epsilon <= 1:
        raise RahfError(f"epsilon={epsilon}; a number from 0 to 1 was expected.")
    if not contrast_weight >= 0:
        raise RahfError(f"contrast_weight={contrast_weight}; 0 or more was expected.")


def _max_length(plain: PlainModel, training: TrainingSettings) -> int:
    if training.max_length is not None and training.max_length > plain.context:
        raise RahfError(f"max_length={training.max_length}; the model's context is {plain.context} tokens.")
    return training.max_length or plain.context


def _end(plain: PlainModel) -> int:
    end = plain.tokenizer.eos_token_id
    if end is None:
        raise RahfError(
            f"the tokenizer of {plain.place} has no EOS token to end answers with; leave end_of_answer out."
        )
    return int(end)


def _as_json(instructions: InstructionsByTopic | None) -> dict[str, Any] | None:
    if instructions is None:
        return None
    if isinstance(instructions, Instructions):
        return asdict(instructions)
    return {topic: asdict(given) for topic, given in instructions.items()}
