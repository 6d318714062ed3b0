"""How texts are run: in which batches, no further than needed, and with what left behind."""

import gc
import weakref

import pytest
import torch

from contrans_lens.errors import CaptureError
from contrans_lens.models import hooks, resid_post
from contrans_lens.residuals import LastToken, capture, reader
from contrans_lens.residuals.prepared import prepare_texts
from contrans_lens.residuals.reader import BatchBudget, ResidualReader
from tests.tiny_models import KINDS, N_LAYERS, TEXTS, open_tiny

TEXTS = list(TEXTS)


def watch_batches(monkeypatch, limit=None, error=None):
    """Record the size of every batch that is run; raise ``error`` for those above ``limit`` texts."""
    sizes, original = [], reader.run

    def watched(model, batch, **options):
        sizes.append(len(batch.tokens))
        if limit is not None and sizes[-1] > limit:
            raise error
        return original(model, batch, **options)

    monkeypatch.setattr(reader, "run", watched)
    return sizes


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("no"), RuntimeError("MPS backend out of memory"), MemoryError()]
)
@pytest.mark.parametrize("batch_size", [None, 12])
def test_out_of_memory_halves_the_batch_and_changes_nothing_else(monkeypatch, error, batch_size):
    model = open_tiny("gpt2")
    texts = TEXTS * 3
    expected = capture(model, texts).tensor()
    sizes = watch_batches(monkeypatch, 3, error)
    found = capture(model, texts, batch_size=batch_size).tensor()
    assert sizes[:3] == [12, 6, 3]
    assert batch_size is None or sizes[3:] == [3, 3, 3]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_memory_for_not_even_one_text_is_an_error_that_names_it(monkeypatch):
    watch_batches(monkeypatch, 0, torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(CaptureError, match=r"single text of \d+ tokens \(text 1\)"):
        capture(open_tiny("gpt2"), TEXTS)


def test_other_runtime_errors_are_not_taken_for_missing_memory(monkeypatch):
    sizes = watch_batches(monkeypatch, 0, RuntimeError("shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        capture(open_tiny("gpt2"), TEXTS)
    assert len(sizes) == 1


def test_longest_texts_run_first_and_batches_are_cut_by_tokens(monkeypatch):
    model = open_tiny("gpt2")
    monkeypatch.setattr(reader, "_CPU_TOKENS", 100)
    widths, original = [], reader.run

    def watched(model, batch, **options):
        widths.append(tuple(batch.tokens.shape))
        assert batch.mask.any(dim=0).all()  # no column is padding for everyone
        return original(model, batch, **options)

    monkeypatch.setattr(reader, "run", watched)
    capture(model, TEXTS * 5)
    assert [width for _, width in widths] == sorted((width for _, width in widths), reverse=True)
    assert all(rows * width <= 100 for rows, width in widths)


def test_only_pooled_rows_outlive_a_forward_pass():
    model = open_tiny("gpt2")
    prepared = prepare_texts(model, TEXTS * 4, LastToken())
    watched = []
    names = [resid_post(layer) for layer in range(N_LAYERS)]
    with hooks(model, {name: lambda residual: watched.append(weakref.ref(residual)) for name in names}):
        batch = next(ResidualReader(model, prepared, names, BatchBudget(None, 8)).read(0, 16))
    gc.collect()
    assert len(watched) == N_LAYERS
    assert all(reference() is None for reference in watched)
    assert batch.residuals.shape == (8, N_LAYERS, 32)
    assert batch.residuals.untyped_storage().nbytes() == batch.residuals.numel() * 4


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind in ("hooked", "bridge", "native")])
def test_nothing_after_the_last_needed_layer_is_run(kind):
    model = open_tiny("gpt2", kind)
    seen = []
    later = [
        resid_post(2),
        resid_post(3),
        "unembed.hook_out" if "unembed.hook_out" in model.hook_dict else "ln_final.hook_scale",
    ]
    capturing = capture(model, TEXTS, [resid_post(1), resid_post(0)])  # the fingerprint, taken before, does run them
    prepared = prepare_texts(model, TEXTS, LastToken())
    with hooks(model, {name: lambda _, name=name: seen.append(name) for name in later}):
        read = next(ResidualReader(model, prepared, [resid_post(1), resid_post(0)], BatchBudget(None, 8)).read(0, 4))
    assert seen == []
    torch.testing.assert_close(capturing.tensor()[read.example], read.residuals)
    assert torch.equal(capturing.tensor(resid_post(0)), capture(model, TEXTS).tensor(resid_post(0)))


def hook_count(model):
    return sum(len(module._forward_hooks) for module in model.modules())


def test_hooks_are_gone_after_success_and_after_exceptions(monkeypatch):
    model = open_tiny("gpt2", "bridge")
    before = hook_count(model)
    capture(model, TEXTS)
    assert hook_count(model) == before
    for error in (RuntimeError("boom"), KeyboardInterrupt()):
        watch_batches(monkeypatch, 0, error)
        with pytest.raises(type(error)):
            capture(model, TEXTS)
        assert hook_count(model) == before


def test_dropout_is_off_while_reading_and_back_on_after():
    model = open_tiny("gpt2", "bridge", fresh=True)
    expected = capture(model, TEXTS).tensor()
    dropouts = [module for module in model.modules() if isinstance(module, torch.nn.Dropout)]
    for module in dropouts:
        module.p, module.training = 0.5, True
    prepared = prepare_texts(model, TEXTS, LastToken())
    names = [resid_post(layer) for layer in range(N_LAYERS)]
    read = next(ResidualReader(model, prepared, names, BatchBudget(None, 8)).read(0, 4))
    torch.testing.assert_close(read.residuals, expected[read.example])
    assert dropouts
    assert all(module.training for module in dropouts)
