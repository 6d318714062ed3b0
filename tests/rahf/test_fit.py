"""``fit_adapter`` from end to end, on tiny models and made-up differences."""

import json
import warnings
from dataclasses import replace

import pytest
import torch

from contrans_lens.errors import ArtifactError, FingerprintMismatchError, HookPointError, RahfError
from contrans_lens.models.plain import open_plain
from contrans_lens.rahf.fit import description, fit_adapter
from contrans_lens.rahf.fitted import FittedAdapter
from contrans_lens.rahf.training import LoraSettings, TrainingSettings
from tests.rahf.fitting import POINTS, ROWS, WRITERS, fingerprint_of, hidden_states, made
from tests.tiny_models import D_MODEL, hf_tiny, tiny_folder

TRAINING = TrainingSettings(
    steps=40, batch_size=3, accumulation=1, learning_rate=5e-3, log_every=1, checkpoint_every=40, seed=3
)

SHORT = replace(TRAINING, steps=8)


def fit(out, architecture="llama", differences=None, **options):
    given = {
        "alpha": 0.5,
        "lora": LoraSettings(rank=4, modules=WRITERS[architecture]),
        "training": TRAINING,
        "check_model": False,
        "device": "cpu",
    } | options
    return fit_adapter(tiny_folder(architecture), made() if differences is None else differences, out, **given)


def adapter_weights(found):
    from safetensors.torch import load_file

    return load_file(found.folder / "adapter_model.safetensors")


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def fitted(request, tmp_path_factory):
    """An adapter at the tokens that predict the answers, with a held-out part: the same directions on other rows."""
    architecture = request.param
    held_out = replace(made(where="predicting"), rows=ROWS[:3], values=made().values[:10])
    found = fit(
        tmp_path_factory.mktemp("fit") / architecture,
        architecture,
        made(where="predicting", fingerprint=fingerprint_of(architecture)),
        validation=held_out,
        check_model=True,
        training=replace(TRAINING, steps=60),
    )
    return architecture, found


@pytest.mark.parametrize("base_once", [True, False])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_relative_error_starts_at_one_and_the_loss_at_alpha_times_the_norm_of_v(tmp_path, base_once, dropout):
    differences = made()
    every_row = replace(TRAINING, steps=1, batch_size=len(ROWS))
    found = fit(
        tmp_path / "a", "gpt2", differences, base_once=base_once, training=every_row, lora=LoraSettings(dropout=dropout)
    )
    assert found.curve.columns["relative_error"][0] == pytest.approx(1, abs=1e-5)
    assert found.curve.losses[0] == pytest.approx(0.5 * float(differences.values.norm(dim=-1).mean()), rel=1e-5)


def test_the_fit_moves_the_residual_stream_to_its_targets(fitted):
    _, found = fitted
    error = found.curve.columns["relative_error"]
    assert error[0] == pytest.approx(1, abs=1e-5)
    assert error[-1] < 0.7
    assert found.relative_error < 0.7
    assert found.validation_relative_error < 0.7
    assert found.validation_curve.columns["relative_error"][0] == pytest.approx(1, abs=1e-5)


def test_relative_error_is_that_of_hidden_states_of_the_whole_model_in_plain_transformers_and_peft(fitted):
    from peft import PeftModel

    architecture, found = fitted
    differences = made(where="predicting")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", UserWarning)  # peft warns of keys that are missing
        model = PeftModel.from_pretrained(open_plain(tiny_folder(architecture)).model, str(found.folder)).eval()
    missed, wanted = [], []
    for number, row in enumerate(ROWS):
        own, base = hidden_states(architecture, row, model), hidden_states(architecture, row)
        v = differences.of([number])
        for layer in range(len(POINTS)):
            places = slice(row.start - 1, len(row.ids) - 1)
            missed.append((own[layer + 1, places] - base[layer + 1, places] - 0.5 * v[:, layer]).norm(dim=-1))
            wanted.append(0.5 * v[:, layer].norm(dim=-1))
    assert found.relative_error == pytest.approx(float(torch.cat(missed).sum() / torch.cat(wanted).sum()), rel=1e-4)


def test_the_merged_adapter_equals_the_adapter(fitted):
    architecture, found = fitted
    ids = torch.tensor([ROWS[2].ids])
    with torch.no_grad():
        base = hf_tiny(architecture)[0](ids).logits
        merged, apart = (found.open(merge=merge, device="cpu").model(ids).logits for merge in (True, False))
    assert (merged - base).abs().max() > 1e-2
    torch.testing.assert_close(merged, apart, atol=1e-4, rtol=1e-4)


def test_only_blocks_below_the_last_point_have_weights_and_the_configuration_says_so(fitted):
    architecture, found = fitted
    config = json.loads((found.folder / "adapter_config.json").read_text())
    assert config["layers_to_transform"] == [0, 1]
    layers = {name.split(".h." if architecture == "gpt2" else ".layers.")[1][0] for name in adapter_weights(found)}
    assert layers == {"0", "1"}


def test_a_fit_is_read_back_whole(fitted):
    architecture, found = fitted
    assert FittedAdapter.load(found.folder) == found
    assert (found.hook_points, found.where, found.alpha, found.loss) == (POINTS, "predicting", 0.5, "norm")
    assert found.n_read == sum(len(row.answer) for row in ROWS)
    assert not found.fingerprint.differences(fingerprint_of(architecture))


def test_a_finished_fit_is_opened_and_another_is_refused(fitted):
    architecture, found = fitted
    again = {"validation": replace(made(where="predicting"), rows=ROWS[:3], values=made().values[:10])}
    options = again | {"training": replace(TRAINING, steps=60)}
    before = (found.folder / "rahf.json").read_bytes()
    assert fit(found.folder, architecture, made(where="predicting"), **options) == found
    assert (found.folder / "rahf.json").read_bytes() == before
    for differences, other in ((made(where="predicting"), {"alpha": 0.6}), (made(seed=1, where="predicting"), {})):
        with pytest.raises(ArtifactError, match="another run"):
            fit(found.folder, architecture, differences, **(options | other))


def test_a_base_that_is_read_once_is_fitted_alike_and_run_half_as_often(tmp_path):
    once, each_time = (fit(tmp_path / str(choice), base_once=choice, training=SHORT) for choice in (True, False))
    assert once.curve.losses == pytest.approx(each_time.curve.losses, rel=1e-2)
    assert once.relative_error == pytest.approx(each_time.relative_error, rel=1e-2)
    reading = sum(len(row.ids) for row in ROWS)
    assert each_time.cost.n_tokens == 2 * (once.cost.n_tokens - reading)
    assert once.cost.block_tokens == 2 * once.cost.n_tokens


def test_whether_the_base_is_read_once_is_decided_by_how_often_rows_are_seen(tmp_path, monkeypatch):
    reading = sum(len(row.ids) for row in ROWS)

    def n_tokens(name, steps):
        training = replace(TRAINING, steps=steps, batch_size=len(ROWS))
        return fit(tmp_path / name, training=training).cost.n_tokens

    assert n_tokens("once", 2) == 2 * reading + reading
    assert n_tokens("rarely", 1) == 2 * reading
    monkeypatch.setattr("contrans_lens.rahf.fit.BASE_BYTES", 10)
    assert n_tokens("large", 2) == 4 * reading


def test_the_same_call_gives_the_same_weights_and_another_seed_others(tmp_path):
    lora = LoraSettings(dropout=0.2)
    first, again = (adapter_weights(fit(tmp_path / name, lora=lora, training=SHORT)) for name in "ab")
    other = adapter_weights(fit(tmp_path / "c", lora=lora, training=replace(SHORT, seed=4)))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_a_negative_strength_moves_the_other_way(tmp_path):
    differences = made()
    shift = {}
    for alpha in (0.5, -0.5):
        model = fit(tmp_path / str(alpha), alpha=alpha).open(device="cpu").model
        moved = hidden_states("llama", ROWS[0], model)[2, 3:] - hidden_states("llama", ROWS[0])[2, 3:]
        shift[alpha] = float((moved * differences.of([0])[:, 1]).sum())
    assert shift[0.5] > 0 > shift[-0.5]


def test_mse_is_fitted_too(tmp_path):
    found = fit(tmp_path / "mse", loss="mse")
    assert found.curve.losses[-1] < found.curve.losses[0]
    assert found.relative_error < 0.9


def test_points_before_a_block_and_after_the_last_are_fitted(tmp_path):
    points = ("blocks.1.hook_resid_pre", "blocks.3.hook_resid_post")
    found = fit(tmp_path / "a", differences=made(hook_points=points))
    assert found.relative_error < 0.9
    assert json.loads((found.folder / "adapter_config.json").read_text())["layers_to_transform"] == [0, 1, 2, 3]


def test_differences_of_another_base_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(FingerprintMismatchError, match="activity differences"):
        fit(tmp_path / "a", "llama", made(fingerprint=fingerprint_of("mistral")), check_model=True)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"alpha": 0}, RahfError, "nothing to fit"),
        ({"alpha": float("nan")}, RahfError, "finite"),
        ({"differences": made(scale=0.0)}, RahfError, "zero"),
        (
            {"differences": made(hook_points=("blocks.0.hook_resid_post", "blocks.4.hook_resid_post"))},
            HookPointError,
            "4 blocks",
        ),
        (
            {"differences": made(hook_points=("blocks.0.hook_resid_post", "blocks.1.hook_mlp_out"))},
            HookPointError,
            "mlp_out",
        ),
        ({"differences": replace(made(), values=made().values[:, :, : D_MODEL // 2])}, RahfError, str(D_MODEL // 2)),
        ({"validation": made(where="predicting")}, RahfError, "where="),
        ({"lora": LoraSettings(modules=("nowhere",))}, RahfError, "nowhere"),
    ],
)
def test_what_cannot_be_fitted_is_refused_before_anything_is_written(tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        fit(tmp_path / "a", **options)
    assert not (tmp_path / "a").exists()


def test_differences_that_are_not_finite_are_refused(tmp_path):
    values = made().values.clone()
    values[3] = float("inf")
    with pytest.raises(RahfError, match="NaN or infinity"):
        fit(tmp_path / "a", differences=replace(made(), values=values))
    assert not (tmp_path / "a").exists()


def test_a_description_tells_differences_apart_by_every_row(tmp_path):
    given = made()
    told = description(given)
    assert told == description(replace(given, values=given.values.clone()))
    for other in (
        replace(given, where="predicting"),
        replace(given, rows=(*ROWS[:-1], replace(ROWS[-1], ids=(50, 4, 77, 61, 14)))),
        replace(given, hook_points=POINTS[::-1]),
    ):
        assert description(other).exact != told.exact
        assert description(other).measured == told.measured
    signed = given.values.clone()
    signed[5:10] *= -1  # the third row
    for values in (-given.values, 2 * given.values, signed, given.values[:, [1, 0]], made(seed=1).values):
        other = description(replace(given, values=values))
        assert other.exact == told.exact
        gap = max(abs(one - two) for one, two in zip(other.measured, told.measured, strict=True))
        assert gap > 0.1 * max(map(abs, told.measured))


@pytest.mark.parametrize("seed", range(3))
def test_differences_that_are_the_same_but_for_rounding_are_taken_up(tmp_path, seed):
    given, training = made(), replace(SHORT, steps=1)
    first = fit(tmp_path / "a", differences=given, training=training)
    noise = torch.randn(given.values.shape, generator=torch.Generator().manual_seed(seed))
    again = fit(tmp_path / "a", differences=replace(given, values=given.values * (1 + 1e-5 * noise)), training=training)
    assert again == first
    with pytest.raises(ArtifactError, match="differences are other numbers there"):
        fit(tmp_path / "a", differences=replace(given, values=given.values * 1.01), training=training)


def test_a_base_in_bfloat16_is_fitted_nearly_as_well_with_an_adapter_of_float32(tmp_path):
    exact = fit(tmp_path / "float32", training=SHORT, validation=made())
    half = fit(tmp_path / "bfloat16", training=SHORT, validation=made(), dtype=torch.bfloat16)
    assert half.curve.columns["relative_error"][0] == pytest.approx(1, abs=2e-2)
    assert half.relative_error < 0.97
    assert half.relative_error == pytest.approx(exact.relative_error, abs=2e-2)
    assert half.validation_relative_error == pytest.approx(half.relative_error, abs=1e-2)
    assert {weight.dtype for weight in adapter_weights(half).values()} == {torch.float32}
    assert half.open(dtype=torch.bfloat16, device="cpu").model.dtype == torch.bfloat16
    with pytest.raises(ArtifactError, match="dtype is 'bfloat16' there and 'float32' here"):
        fit(half.folder, training=SHORT, validation=made())
    with pytest.raises(RahfError, match=r"dtype=float16; float32 or bfloat16"):
        fit(tmp_path / "float16", dtype=torch.float16)


def test_an_update_is_a_mean_over_all_its_tokens_however_its_batches_are_cut(tmp_path):
    """Rows of one to five tokens: all in one batch, or each in a batch of its own."""
    options = {"lora": LoraSettings(rank=4, dropout=0.0, modules=WRITERS["llama"]), "validation": made()}
    one = replace(SHORT, steps=1, batch_size=len(ROWS), accumulation=1)
    each = replace(one, batch_size=1, accumulation=len(ROWS))
    found = [fit(tmp_path / str(number), training=cut, **options) for number, cut in enumerate((one, each))]
    assert found[1].curve.losses == pytest.approx(found[0].curve.losses, rel=1e-5)
    weights = [adapter_weights(each) for each in found]
    for name in weights[0]:
        torch.testing.assert_close(weights[1][name], weights[0][name], atol=1e-5, rtol=1e-3)
    curves = [each.validation_curve.losses for each in found]
    assert curves[1] == pytest.approx(curves[0], rel=1e-5)
    assert curves[0][1] < curves[0][0]
