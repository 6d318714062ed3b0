"""``steer``: interventions made to act on a model for as long as a ``with`` block lasts."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from contrans_lens.errors import HookPointError, InterventionError
from contrans_lens.interventions.audit import Audit, Change, Finding, changes_of
from contrans_lens.interventions.edit import Edit, PassOperation
from contrans_lens.interventions.operations import Operation, check_width, prepared
from contrans_lens.interventions.passes import ForwardPass, SequenceTracker, watch
from contrans_lens.interventions.positions import All, Bounds, Continuation, Generated, Positions, Prompt
from contrans_lens.interventions.suspension import SUSPENDED
from contrans_lens.models import HookedModel, HookFunction, TokenBatch, check_hook_points, hooks, layer_of


@dataclass
class SteeringSession:
    """What :func:`steer` yields: the interventions in force and, where asked for, the audit so far."""

    interventions: tuple[Edit, ...]
    """In the order in which they apply."""
    _changes: list[Change] | None = field(default=None, repr=False)
    _findings: list[Finding] = field(default_factory=list, repr=False)

    @property
    def audit(self) -> Audit:
        """Everything changed so far in this session.

        Raises:
            InterventionError: ``steer`` was called without ``audit=True``.
        """
        if self._changes is None:
            raise InterventionError("nothing was recorded; call steer(..., audit=True).")
        return Audit(tuple(self._changes), tuple(self._findings))


@contextmanager
def steer(
    model: HookedModel,
    interventions: Edit | Sequence[Edit],
    *,
    batch: TokenBatch | None = None,
    texts: Sequence[str] | None = None,
    prompt_lengths: Sequence[int] | None = None,
    audit: bool = False,
) -> Iterator[SteeringSession]:
    """Apply interventions to every forward pass and generation of ``model`` inside the ``with`` block.

    Interventions at one hook point apply in the given order. Positions are absolute: the tokens that are
    steered, and the outputs, are the same cached and uncached, batched and alone, padded left and right.
    ``model.generate`` of both classes is steered too. Interventions of strength 0 attach no hook. Every
    hook is removed on leaving the block, exceptions included.

    Args:
        model: the model to steer.
        interventions: one or several.
        batch: the rows that will be run. Needed only where padding cannot be told otherwise: a right-padded
            batch run without an attention mask, and then only for the audit, ``Between``, ``Continuation`` and
            edits that look at the end of the prompt.
        texts: the texts of ``batch``; a marker is then found by character spans, not in decoded tokens.
        prompt_lengths: how many real tokens of each row are its prompt, for a single pass over prompt and
            continuation. Without it the whole first pass of a sequence is the prompt.
        audit: record every change (costs one comparison for each hook point and pass).

    Raises:
        FingerprintMismatchError: an intervention was made for another model or weight processing.
        HookPointError: the model has no such hook point.
        InterventionError: a vector has another width than its hook point; a marker is absent in a row;
            positions cannot be told (embeddings given, cache filled outside the block).
    """
    chosen = (interventions,) if isinstance(interventions, Edit) else tuple(interventions)
    _check_interventions(model, chosen, audit)
    _check_rows(batch, texts, prompt_lengths)
    active = [each for each in chosen if not each.is_neutral]
    session = SteeringSession(chosen, [] if audit else None)
    with ExitStack() as stack:
        if active:
            names = list(dict.fromkeys(each.hook_point for each in active))
            grouped = {
                name: [(each.compile(), each.positions) for each in active if each.hook_point == name] for name in names
            }
            steps = [step for group in grouped.values() for step in group]
            if audit or any(isinstance(made, PassOperation) or not isinstance(at, All) for made, at in steps):
                tracker = SequenceTracker(
                    batch=batch,
                    texts=None if texts is None else tuple(texts),
                    lengths=None if prompt_lengths is None else tuple(int(length) for length in prompt_lengths),
                    decode=_decoder(model),
                )
                placed = {name: _PlacedHook(name, group, tracker, session) for name, group in grouped.items()}
                stack.enter_context(hooks(model, placed))
                stack.enter_context(watch(model, tracker, names))
            else:
                stack.enter_context(hooks(model, {name: _everywhere(group) for name, group in grouped.items()}))
        yield session


@contextmanager
def add_rows(
    model: HookedModel,
    hook_point: str,
    additions: Float[Tensor, "batch d_model"],
    mask: Bool[Tensor, "batch pos"] | None = None,
) -> Iterator[None]:
    """Add one vector to each row of the batch, at every position: many vectors tried in one forward pass.

    Args:
        model: the model.
        hook_point: where to add.
        additions: row ``i`` is added to every position of row ``i`` of the batch, in the residual's own
            units.
        mask: positions to add at; then only whole passes of that shape can be run, not cached decoding.

    Raises:
        HookPointError: the model has no such hook point.
        InterventionError: the additions are not finite, or the batch that is run has another shape.
    """
    if additions.ndim != 2 or not torch.isfinite(additions).all():
        raise InterventionError(
            f"additions have shape {tuple(additions.shape)} and must be finite [batch, d_model] numbers."
        )
    if mask is not None and mask.shape[0] != additions.shape[0]:
        raise InterventionError(f"the mask has {mask.shape[0]} rows and the additions have {additions.shape[0]}.")
    exact = additions.detach()
    ready: Tensor | None = None

    def add(activation: Tensor) -> Tensor | None:
        nonlocal ready
        if SUSPENDED.get():
            return None
        if ready is None or ready.dtype != activation.dtype or ready.device != activation.device:
            check_width(activation, exact.shape[1])
            rows = exact.unsqueeze(1) if mask is None else exact.unsqueeze(1) * mask.to(exact.device).unsqueeze(-1)
            ready = prepared(rows, activation.device, activation.dtype)
        if activation.shape[0] != ready.shape[0] or (mask is not None and activation.shape[1] != ready.shape[1]):
            raise InterventionError(
                f"the model is run on {tuple(activation.shape[:2])} tokens, but the additions are for "
                f"{tuple(ready.shape[:2]) if mask is not None else f'{ready.shape[0]} rows'}."
            )
        return activation + ready

    with hooks(model, {hook_point: add}):
        yield


_Step = tuple[Operation | PassOperation, Positions]


class _Placement:
    """Which columns of a pass one intervention acts on."""

    def __init__(self, positions: Positions) -> None:
        self._positions = positions
        self._sequence = -1
        self._bounds: list[Bounds] = []

    def __call__(self, current: ForwardPass, device: torch.device) -> Tensor | bool:
        """Whether the whole pass is acted on, or none of it, or else the mask ``[batch, width]``."""
        if isinstance(self._positions, All):
            return True
        if isinstance(self._positions, Prompt | Generated | Continuation):
            _require_known_prompt(current)
        if self._sequence != current.sequence:
            self._bounds = self._positions.bounds(current.prompt)
            self._sequence = current.sequence
        start, end = current.start, current.start + current.width
        spans = [(max(first, start), end if stop is None else min(stop, end)) for first, stop in self._bounds]
        if all(span == (start, end) for span in spans):
            return True
        if all(first >= stop for first, stop in spans):
            return False
        columns = torch.arange(start, end, device=device)
        limits = torch.tensor(spans, device=device)
        return (columns >= limits[:, :1]) & (columns < limits[:, 1:])


class _PlacedHook:
    """The interventions of one hook point where positions or an audit need to know where a pass stands."""

    def __init__(
        self,
        hook_point: str,
        group: Sequence[_Step],
        tracker: SequenceTracker,
        session: SteeringSession,
    ) -> None:
        self._hook_point = hook_point
        self._steps = [(operation, _Placement(positions)) for operation, positions in group]
        self._tracker = tracker
        self._changes = session._changes
        self._findings = None if session._changes is None else session._findings
        self._last_pass = -1

    def __call__(self, activation: Tensor) -> Tensor | None:
        if SUSPENDED.get():
            return None
        current = self._tracker.current
        if (
            current is None
            or current.index == self._last_pass
            or tuple(activation.shape[:2]) != (current.size, current.width)
        ):
            raise InterventionError(
                f"{self._hook_point} fired on {tuple(activation.shape)} in a pass whose positions are unknown. "
                "Run the model from its first block on token ids, or act at ALL positions without an audit."
            )
        self._last_pass = current.index
        steered = activation
        for operation, placement in self._steps:
            where = placement(current, activation.device)
            if isinstance(operation, PassOperation):
                # Also where nothing is acted on: what is decided at the prompt must be seen there.
                acted = _acted_on(where, current, activation.device)
                steered = operation.on_pass(steered, acted, current, self._findings)
            elif isinstance(where, Tensor):
                steered = torch.where(where.unsqueeze(-1), operation(steered), steered)
            elif where:
                steered = operation(steered)
        if steered is activation:
            return None
        if self._changes is not None:
            self._changes.extend(changes_of(self._hook_point, current, activation, steered))
        return steered


def _acted_on(where: Tensor | bool, current: ForwardPass, device: torch.device) -> Tensor | None:
    """Real tokens among the columns that are acted on; None where that is all of them, as in most decoding steps."""
    if where is False:
        return torch.zeros(current.size, current.width, dtype=torch.bool, device=device)
    # What follows the prompt is real; asking for the mask would cost every decoding step.
    if current.start >= current.prompt.width:
        return where if isinstance(where, Tensor) else None
    real = current.mask()[:, current.start :]
    if where is True and bool(real.all()):
        return None
    return real.to(device) & where


def _everywhere(group: Sequence[_Step]) -> HookFunction:
    """The hook for interventions at ALL positions: nothing but their arithmetic."""
    operations = [operation for operation, _ in group if not isinstance(operation, PassOperation)]

    def apply(activation: Tensor) -> Tensor | None:
        if SUSPENDED.get():
            return None
        for operation in operations:
            activation = operation(activation)
        return activation

    return apply


def _require_known_prompt(current: ForwardPass) -> None:
    if current.prompt.tokens is None:
        raise InterventionError(
            "the model is run on embeddings, so prompt and generated tokens cannot be told apart. "
            "Run it on token ids, or act at ALL positions."
        )
    if current.splits_prompt and current.prompt.lengths is None:
        raise InterventionError(
            f"{current.width} tokens were fed at once onto a filled cache: they may be prompt or generated. "
            "Feed the prompt in one pass, or say prompt_lengths=."
        )


def _check_interventions(model: HookedModel, chosen: tuple[Edit, ...], audit: bool) -> None:
    # Those that act are checked when their hooks are attached: listing the hook points of a bridge is not free.
    if neutral := [each.hook_point for each in chosen if each.is_neutral]:
        check_hook_points(model, neutral)
    # Interventions made together share one fingerprint object; reading the model's weights once is enough.
    for each in {id(each.fingerprint): each for each in chosen}.values():
        each.require_model(model)
    for each in chosen:
        if each.hook_point.rpartition(".")[2].startswith("hook_resid_") and each.d_model != model.cfg.d_model:
            raise InterventionError(
                f"the vector for {each.hook_point} has width {each.d_model}, but the model has d_model "
                f"{model.cfg.d_model}. A vector of another model is carried over by a map first."
            )
        if audit or not isinstance(each.positions, All):
            _require_block(each.hook_point)


def _check_rows(batch: TokenBatch | None, texts: Sequence[str] | None, prompt_lengths: Sequence[int] | None) -> None:
    if texts is not None and (batch is None or len(texts) != batch.tokens.shape[0]):
        raise InterventionError("texts= are the texts of batch=: give both, one text for each row.")
    if batch is not None and prompt_lengths is not None and len(prompt_lengths) != batch.tokens.shape[0]:
        raise InterventionError(f"prompt_lengths has {len(prompt_lengths)} entries for {batch.tokens.shape[0]} rows.")


def _require_block(hook_point: str) -> None:
    try:
        layer_of(hook_point)
    except HookPointError as error:
        raise InterventionError(
            f"{hook_point} stands in no block, so only ALL positions can be chosen there, without an audit."
        ) from error


def _decoder(model: HookedModel) -> Callable[[list[int]], str] | None:
    tokenizer = model.tokenizer
    if tokenizer is None:
        return None

    def decode(tokens: list[int]) -> str:
        return str(tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    return decode
