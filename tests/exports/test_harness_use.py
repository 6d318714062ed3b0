"""How the model for lm-evaluation-harness is called, and what it refuses."""

import sys

import pytest
import torch

from contrans_lens.errors import (
    EvaluationError,
    FingerprintMismatchError,
    HookPointError,
    InterventionError,
    ModelError,
)
from contrans_lens.interventions import (
    FromMarker,
    Intervention,
)
from contrans_lens.models import fingerprint
from tests.tiny_models import D_MODEL, N_CTX, open_tiny

pytest.importorskip("lm_eval")
pytest.importorskip("accelerate")  # lm-eval's own model, the oracle, needs it

from lm_eval.api.registry import get_model

from contrans_lens.exports import SteeredLM
from tests.exports.harness_cases import (
    HOOK_POINT,
    LONG,
    PAIRS,
    addition,
    ask,
    rolling_requests,
    vector,
    write,
)

pytestmark = pytest.mark.xdist_group("lm-eval")


def overflowing():
    return Intervention(HOOK_POINT, torch.full((D_MODEL,), 3e38), unit="absolute")


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: ask(SteeredLM(m), [PAIRS[0], ("The sky is", "")]), EvaluationError, "request 1 .*empty"),
        (lambda m: ask(SteeredLM(m), [("No!", LONG)]), EvaluationError, "request 0 .*the model takes 128"),
        (lambda m: ask(SteeredLM(m), [("", "<|endoftext|>")]), EvaluationError, "request 0 .*no tokens"),
        (lambda m: ask(SteeredLM(m, overflowing())), EvaluationError, r"request \d+ .*not finite"),
        (
            lambda m: SteeredLM(m, overflowing()).loglikelihood_rolling(rolling_requests(["No!"]), True),
            EvaluationError,
            "text 0: .*not finite",
        ),
        (lambda m: write(SteeredLM(m)), EvaluationError, "256 tokens are to be generated"),
        (lambda m: write(SteeredLM(m), max_gen_toks=4, num_beams=4), EvaluationError, "num_beams"),
        (lambda m: write(SteeredLM(m), max_gen_toks=4, temperature=1, top_p=0.9), EvaluationError, "top_p"),
        (lambda m: write(SteeredLM(m), max_gen_toks=0), EvaluationError, "max_gen_toks=0"),
        (lambda m: write(SteeredLM(m), max_gen_toks=4, until=[3]), EvaluationError, "until"),
        (lambda m: SteeredLM(m, batch_size=0), EvaluationError, "batch_size"),
        (lambda m: SteeredLM(m, max_length=N_CTX + 1), EvaluationError, "max_length"),
        (lambda m: ask(SteeredLM(m, token_budget=0)), EvaluationError, "token_budget"),
        (
            lambda m: SteeredLM(m, addition(fingerprint=fingerprint(open_tiny("gpt2", "bridge", seed=1)))),
            FingerprintMismatchError,
            "another model",
        ),
        (
            lambda m: SteeredLM(m, Intervention("blocks.9.hook_resid_post", vector(), unit="absolute")),
            HookPointError,
            "9",
        ),
        (lambda m: SteeredLM(m, Intervention(HOOK_POINT, torch.ones(3), unit="absolute")), InterventionError, "32"),
        (lambda m: ask(SteeredLM(m, addition(positions=FromMarker("zebra")))), InterventionError, "zebra"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call(open_tiny("gpt2", "bridge"))


def test_a_model_without_a_tokenizer_is_refused(monkeypatch):
    model = open_tiny("gpt2", "bridge", fresh=True)
    monkeypatch.setattr(model, "tokenizer", None)
    with pytest.raises(ModelError, match="no tokenizer"):
        SteeredLM(model)


def test_without_lm_eval_the_error_says_what_to_install(monkeypatch):
    for name in ("lm_eval", "lm_eval.api.instance"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "contrans_lens.exports.harness")
    monkeypatch.delattr("contrans_lens.exports.harness")
    with pytest.raises(EvaluationError, match=r"pip install contrans-lens\[lm-eval\]"):
        from contrans_lens.exports import SteeredLM  # noqa: F401
    from contrans_lens.exports.__main__ import main

    with pytest.raises(SystemExit, match="pip install"):
        main()


def test_the_command_line_is_that_of_the_harness(monkeypatch):
    import lm_eval.__main__

    from contrans_lens.exports.__main__ import main

    called = []
    monkeypatch.setattr(lm_eval.__main__, "cli_evaluate", lambda: called.append(get_model("contrans-lens")))
    main()
    assert called == [SteeredLM]
