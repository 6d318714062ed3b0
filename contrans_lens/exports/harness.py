"""A steered model as a model of lm-evaluation-harness, so that every task there runs with and without an intervention.

Importing this module makes the name ``contrans-lens`` known to lm-evaluation-harness, for its ``simple_evaluate`` and,
through ``python -m contrans_lens.exports``, for its command line.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

from jinja2.exceptions import TemplateError

from contrans_lens.errors import EvaluationError
from contrans_lens.evaluation.continuations import TokenRow
from contrans_lens.evaluation.stacked import StackedRuns
from contrans_lens.exports.opening import open_steered, rows_at_once
from contrans_lens.exports.requests import Answer, Name, buckets, plan_requests, read_answers
from contrans_lens.exports.writing import Decoding, write
from contrans_lens.interventions import Edit, steer
from contrans_lens.models import HookedModel, TokenBatch, input_device, parameter_dtype
from contrans_lens.models.tokens import model_tokenizer, special_id
from contrans_lens.residuals.progress import token_progress

try:
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window, simple_parse_args_string
except ImportError as error:
    raise EvaluationError(
        f"lm-evaluation-harness is not there ({error}); install it with: pip install contrans-lens[lm-eval]"
    ) from error

logger = logging.getLogger(__name__)

DEFAULT_GENERATED_TOKENS = 256  # what lm-evaluation-harness generates where a task does not say
_SHOWN = 40


@register_model("contrans-lens")
class SteeredLM(TemplateLM):
    """A model under interventions, as lm-evaluation-harness asks it.

    Contexts and continuations are split into tokens as lm-evaluation-harness does, and texts that are too long keep
    their end, so that without interventions the numbers are those of its own ``hf`` model. Two things differ, both
    about BOS. Texts begin with it by the convention of the model, not of its tokenizer: GPT-2 reads one here
    (``add_bos=False`` for the numbers of ``hf``). And it is never read twice: rolling likelihoods of ``hf`` count
    ``log P(BOS | BOS)`` where the tokenizer writes a BOS of its own, these do not.

    For an intervention's positions the prompt ends where the continuation begins. One at the generated tokens
    therefore does nothing to a continuation of one token, which is predicted at the prompt's last token.
    """

    def __init__(
        self,
        model: HookedModel,
        interventions: Edit | Sequence[Edit] = (),
        *,
        batch_size: int | str | None = None,
        token_budget: int | None = None,
        max_gen_toks: int = DEFAULT_GENERATED_TOKENS,
        max_length: int | None = None,
        add_bos: bool | None = None,
    ) -> None:
        """Make a model for lm-evaluation-harness.

        Args:
            model: the model.
            interventions: what is done to its residual stream; none for the unsteered model.
            batch_size: most rows in one forward pass; None or ``"auto"``: as many as the token budget holds.
            token_budget: most tokens in one forward pass; chosen by device if None.
            max_gen_toks: tokens to generate where a task does not say.
            max_length: most tokens that the model is run on; its context length if None.
            add_bos: whether texts begin with BOS; None is the model's own convention.

        Raises:
            EvaluationError: a number is out of range; BOS is asked for and the model has none.
            ModelError: the model has no tokenizer.
            FingerprintMismatchError: an intervention was made for another model.
            InterventionError: an intervention does not fit the model.
        """
        super().__init__()
        self.model = model
        self.tokenizer = model_tokenizer(model)
        self.interventions = (interventions,) if isinstance(interventions, Edit) else tuple(interventions)
        with steer(model, self.interventions):
            pass  # refuses what does not fit, once: a fingerprint reads the weights, which is too much for each batch
        self._unchecked = [each.unchecked() for each in self.interventions]
        self._bos = special_id(model, "bos")
        if add_bos and self._bos is None:
            raise EvaluationError("add_bos=True, but the model's tokenizer has no BOS token; use add_bos=False.")
        convention = bool(getattr(model.cfg, "default_prepend_bos", True)) if add_bos is None else add_bos
        self.add_bos = convention and self._bos is not None
        context = int(model.cfg.n_ctx)
        self.max_length = context if max_length is None else max_length
        if not 1 <= self.max_length <= context:
            raise EvaluationError(f"max_length is {max_length}; the model takes 1 to {context} tokens.")
        self.batch_size = rows_at_once(batch_size)
        self.max_gen_toks = max_gen_toks
        self.n_cut = 0
        """Contexts that lost their beginning so far because they were too long."""
        self._token_budget = token_budget
        self._device = input_device(model)

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: Mapping[str, Any] | None = None) -> "SteeredLM":
        """Open from ``"pretrained=FOLDER,intervention=FOLDER,strength=0.4"``, as :meth:`create_from_arg_obj`."""
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: Mapping[str, Any], additional_config: Mapping[str, Any] | None = None
    ) -> "SteeredLM":
        """Open model and intervention from where they are stored.

        Args:
            arg_dict: what lm-evaluation-harness calls ``model_args``: those of
                :func:`~contrans_lens.exports.opening.open_steered` and of the class.
            additional_config: what its caller says beside; ``arg_dict`` goes before.

        Raises:
            EvaluationError: an argument is missing, unknown or has no sense.
            ModelError: the model cannot be opened.
            ArtifactError: the folder holds no interventions.
            FingerprintMismatchError: they were made for another model.
        """
        beside = {name: value for name, value in (additional_config or {}).items() if value is not None}
        model, interventions, options = open_steered({**beside, **arg_dict})
        return cls(model, interventions, **options)

    @property
    def eot_token_id(self) -> int | None:
        """Id of EOS, or None where the model has none."""
        return special_id(self.model, "eos")

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text that has no context: BOS, or else EOS.

        Raises:
            EvaluationError: the model has neither.
        """
        found = self.eot_token_id if self._bos is None else self._bos
        if found is None:
            raise EvaluationError("the model has neither BOS nor EOS, so nothing stands before a text: give contexts.")
        return found

    @property
    def tokenizer_name(self) -> str:
        """Name of the tokenizer, for the keys of lm-evaluation-harness' caches."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Token ids of a text.

        Args:
            string: the text; BOS written in it is not added again.
            add_special_tokens: whether it begins with BOS; None is what the object was made with.
        """
        ids: list[int] = self.tokenizer(string, add_special_tokens=False, verbose=False)["input_ids"]
        wanted = self.add_bos if add_special_tokens is None else add_special_tokens
        if wanted and self._bos is not None and ids[:1] != [self._bos]:
            return [self._bos, *ids]
        return ids

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A chat as the text that the model was trained on.

        Raises:
            EvaluationError: the tokenizer has no chat template, or it refuses the chat.
        """
        if not getattr(self.tokenizer, "chat_template", None):
            raise EvaluationError("the model's tokenizer has no chat template; run without apply_chat_template.")

        def written(messages: list[dict[str, str]]) -> str:
            how = {"add_generation_prompt": add_generation_prompt, "continue_final_message": not add_generation_prompt}
            return str(self.tokenizer.apply_chat_template(messages, tokenize=False, **how))

        try:
            return written(chat_history)
        except TemplateError as first:
            without = [message for message in chat_history if message["role"] != "system"]
            if without == chat_history:
                raise EvaluationError(f"the chat template refuses the chat: {first}.") from first
            logger.warning("The chat template refuses the chat (%s); its system message is left out.", first)
            return written(without)

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Log-probability of continuations, and whether they are what the model would write.

        Raises:
            EvaluationError: a continuation is empty or too long, or the model's logits are not finite.
        """
        for number, request in enumerate(requests):
            if not request.args[1]:
                raise EvaluationError(f"request {number} ({_short(request.args[0])}): the continuation is empty.")
        found: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=disable_tqdm)
        return found

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-probability of whole texts, each token predicted once, in windows where a text is too long.

        BOS (or EOS where there is none) stands before the first window. An empty text has log-probability 0.

        Raises:
            EvaluationError: the model's logits are not finite.
        """
        windows: list[tuple[list[int], list[int]]] = []
        owner: list[int] = []
        for number, request in enumerate(requests):
            tokens, prefix = self.tok_encode(request.args[0], add_special_tokens=False), self.prefix_token_id
            own = get_rolling_token_windows(
                tokens[1:] if tokens[:1] == [prefix] else tokens, prefix, max_seq_len=self.max_length, context_len=1
            )
            windows += [make_disjoint_window(window) for window in own]
            owner += [number] * (len(windows) - len(owner))
        totals, left = [0.0] * len(requests), Counter(owner)
        for answer in self._answers(windows, lambda window: f"text {owner[window]}", not disable_tqdm):
            number = owner[answer.request]
            totals[number] += answer.log_probability
            left[number] -= 1
            if not left[number]:
                self.cache_hook.add_partial("loglikelihood_rolling", requests[number].args, totals[number])
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """What the model writes after contexts, up to a stop string, EOS or a number of tokens.

        Greedy unless the generation arguments ask for draws; these are seeded by torch's random state, which
        lm-evaluation-harness sets.

        Raises:
            EvaluationError: a generation argument cannot be obeyed, or leaves no room for a context.
        """
        groups: dict[Decoding, list[int]] = {}
        for number, request in enumerate(requests):
            decoding = Decoding.from_kwargs(request.args[1], self.max_gen_toks)
            groups.setdefault(decoding, []).append(number)
        texts = [""] * len(requests)
        with token_progress(not disable_tqdm, "generation", len(requests)) as advance:
            for decoding, numbers in groups.items():
                for place, text in self._written(decoding, [requests[number].args[0] for number in numbers]):
                    texts[numbers[place]] = text
                    self.cache_hook.add_partial("generate_until", requests[numbers[place]].args, text)
                    advance(1)
        return texts

    def get_model_info(self) -> dict[str, Any]:
        """What lm-evaluation-harness writes down about the model beside the results."""
        return {
            "model_name": str(getattr(self.model.cfg, "model_name", "")),
            "model_dtype": str(parameter_dtype(self.model)).removeprefix("torch."),
            "interventions": [str(each) for each in self.interventions],
            "add_bos": self.add_bos,
        }

    def _loglikelihood_tokens(
        self,
        requests: list[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = False,
        **_: Any,
    ) -> list[tuple[float, bool]]:
        texts = [text for text, _, _ in requests]
        pairs = [(context, continuation) for _, context, continuation in requests]
        found = [(0.0, False)] * len(requests)

        def name(number: int) -> str:
            return f"request {number} ({_short(texts[number][0])}, {texts[number][1][:_SHOWN]!r})"

        for answer in self._answers(pairs, name, not disable_tqdm):
            found[answer.request] = (answer.log_probability, answer.is_greedy)
            self.cache_hook.add_partial("loglikelihood", texts[answer.request], found[answer.request])
        return found

    def _answers(self, requests: list[tuple[list[int], list[int]]], name: Name, shown: bool) -> Iterator[Answer]:
        """The answers to requests, batch after batch, in the order in which they are found."""
        rows, n_cut = plan_requests(requests, self.max_length, self._bos, name)
        self._note_cut(n_cut, len(requests))
        with token_progress(shown, "log-probabilities", sum(len(row.tokens) for row in rows)) as advance:
            for bucket in buckets(rows):
                runs = StackedRuns(self.model, bucket, token_budget=self._token_budget, batch_size=self.batch_size)
                for group in runs.groups():
                    for _, logits in runs.logits(group, within=self._within):
                        yield from read_answers(logits[0], runs, group, name)
                    advance(sum(len(bucket[index].tokens) for index in group))

    def _within(self, batch: TokenBatch, rows: list[TokenRow]) -> AbstractContextManager[object]:
        """The steering context of one batch. Markers are found in decoded tokens: requests bring no offsets."""
        return steer(self.model, self._unchecked, batch=batch, prompt_lengths=[row.prompt_length for row in rows])

    def _written(self, decoding: Decoding, contexts: list[str]) -> Iterator[tuple[int, str]]:
        """What is written after contexts, as each is finished."""
        room = self.max_length - decoding.max_new_tokens
        if room < 1:
            raise EvaluationError(
                f"{decoding.max_new_tokens} tokens are to be generated and the model takes {self.max_length}, which "
                "leaves none for the context; give a smaller max_gen_toks (gen_kwargs, or when the model is opened)."
            )
        if self.eot_token_id is not None:
            eos = str(self.tokenizer.decode([self.eot_token_id], skip_special_tokens=False))
            decoding = replace(decoding, until=(*decoding.until, eos))
        prompts = [self.tok_encode(context) or [self.prefix_token_id] for context in contexts]
        self._note_cut(sum(len(prompt) > room for prompt in prompts), len(prompts))
        ends = [prompt[-room:] for prompt in prompts]
        sizes = {"batch_size": self.batch_size, "token_budget": self._token_budget}
        return write(self.model, ends, decoding, self._unchecked, **sizes)

    def _note_cut(self, n_cut: int, n: int) -> None:
        self.n_cut += n_cut
        if n_cut:
            logger.warning("%d of %d contexts are longer than the model's; their beginning is cut off.", n_cut, n)


def _short(context: str) -> str:
    return repr(context if len(context) <= _SHOWN else f"...{context[-_SHOWN:]}")
