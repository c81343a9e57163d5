"""The public Temporal Fusion Transformer."""

import warnings

import pytest
import torch
from torch import Tensor

from cryptoml.models.tft import TemporalFusionTransformer

BATCH, TIME, FEATURES, HORIZONS, STATIC, KNOWN = 2, 13, 5, 3, 4, 2

INPUTS = {"observed": {}, "static": {"static_size": STATIC}, "known": {"known_future_size": KNOWN}}
INPUTS["all"] = INPUTS["static"] | INPUTS["known"]
every_kind_of_input = pytest.mark.parametrize("settings", INPUTS.values(), ids=INPUTS)


def make_model(**settings: object) -> TemporalFusionTransformer:
    torch.manual_seed(0)
    shape = {"hidden_size": 8, "num_attention_heads": 2, "num_horizons": HORIZONS, "lookback": 6, "variable_size": 4}
    return TemporalFusionTransformer(FEATURES, **shape | settings).eval()


def make_inputs(settings: dict[str, int], time: int = TIME) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    inputs = {"x": torch.randn(BATCH, time, FEATURES, generator=generator)}
    inputs["mask"] = torch.rand(inputs["x"].shape, generator=generator) > 0.2
    if "static_size" in settings:
        inputs["static"] = torch.randn(BATCH, STATIC, generator=generator)
    if "known_future_size" in settings:
        inputs["known_future"] = torch.randn(BATCH, time + HORIZONS, KNOWN, generator=generator)
    return inputs


def until(inputs: dict[str, Tensor], bars: int) -> dict[str, Tensor]:
    """What was there when only the first `bars` bars were past."""
    ends = {"x": bars, "mask": bars, "known_future": bars + HORIZONS}
    return {name: value[:, : ends[name]] if name in ends else value for name, value in inputs.items()}


def test_quick_start_of_the_documentation() -> None:
    model = TemporalFusionTransformer(input_size=15, hidden_size=16, num_attention_heads=4, output_quantiles=[0.1, 0.5, 0.9])
    predictions, interpretability = model(torch.randn(2, 10, 15))
    assert predictions.shape == (2, 1, 3)
    assert set(interpretability) == {"attention", "variable_selection"}


@every_kind_of_input
def test_shapes_and_sums(settings: dict[str, int]) -> None:
    inputs = make_inputs(settings)
    predictions, weights = make_model(**settings)(**inputs)
    known = settings.get("known_future_size", 0)
    shapes = {"attention": (BATCH, HORIZONS, TIME), "variable_selection": (BATCH, TIME, FEATURES + known)}
    shapes |= {"static_selection": (BATCH, STATIC)} if "static_size" in settings else {}
    shapes |= {"known_future_selection": (BATCH, HORIZONS, KNOWN)} if known else {}
    assert predictions.shape == (BATCH, HORIZONS, 3)
    assert (predictions.diff(dim=-1) >= 0).all()
    assert {name: tuple(weight.shape) for name, weight in weights.items()} == shapes
    for weight in weights.values():
        assert torch.allclose(weight.sum(-1), torch.ones(weight.shape[:-1]), atol=1e-6)
    assert not weights["attention"][..., : TIME - 6].any()
    assert not weights["variable_selection"][..., :FEATURES][~inputs["mask"]].any()


@every_kind_of_input
@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("lookback", [1, 6, 40])
def test_dense_equals_forward_at_every_bar(settings: dict[str, int], num_layers: int, lookback: int) -> None:
    model, inputs = make_model(num_layers=num_layers, lookback=lookback, **settings), make_inputs(settings)
    dense = model.dense(**inputs)
    assert dense.shape == (BATCH, TIME, HORIZONS, 3)
    for time in range(TIME):
        assert torch.allclose(dense[:, time], model(**until(inputs, time + 1))[0], atol=1e-5)


@pytest.mark.parametrize("first", [1, 4, TIME - 1])
def test_a_warm_up_changes_no_forecast_after_it(first: int) -> None:
    model, inputs = make_model(**INPUTS["all"]), make_inputs(INPUTS["all"])
    assert torch.allclose(model.dense(**inputs, first_origin=first), model.dense(**inputs)[:, first:], atol=1e-6)
    with pytest.raises(ValueError, match="first_origin must lie within the 13 bars of x, was 13"):
        model.dense(**inputs, first_origin=TIME)


@every_kind_of_input
def test_dense_and_forward_have_the_same_gradient(settings: dict[str, int]) -> None:
    model, inputs = make_model(**settings), make_inputs(settings)
    weights = list(model.parameters())
    dense = torch.autograd.grad(model.dense(**inputs).sin().sum(), weights)
    plain = torch.autograd.grad(sum(model(**until(inputs, bars))[0].sin().sum() for bars in range(1, TIME + 1)), weights)
    assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in zip(dense, plain, strict=True))
    assert [name for (name, _), grad in zip(model.named_parameters(), dense, strict=True) if not grad.any()] == []


def test_a_horizon_reads_what_is_known_up_to_it() -> None:
    model, inputs = make_model(**INPUTS["all"]), make_inputs(INPUTS["all"])
    changed = inputs["known_future"].clone()
    changed[:, TIME + 1] += 1.0
    before, after = model(**inputs)[0], model(**inputs | {"known_future": changed})[0]
    assert torch.equal(before[:, 0], after[:, 0])
    assert (before[:, 1:] != after[:, 1:]).all()


def test_known_inputs_may_come_without_their_past() -> None:
    model, inputs = make_model(**INPUTS["known"]), make_inputs(INPUTS["known"])
    predictions, weights = model(**inputs | {"known_future": inputs["known_future"][:, TIME:]})
    assert predictions.shape == (BATCH, HORIZONS, 3)
    assert not weights["variable_selection"][..., FEATURES:].any()


def test_missing_values_do_not_matter() -> None:
    model, inputs = make_model(), make_inputs({})
    poisoned = torch.where(inputs["mask"], inputs["x"], torch.nan)
    assert torch.equal(model(**inputs)[0], model(poisoned, inputs["mask"])[0])


def test_static_covariates_matter() -> None:
    model, inputs = make_model(**INPUTS["static"]), make_inputs(INPUTS["static"])
    assert not torch.allclose(model(**inputs)[0], model(**inputs | {"static": -inputs["static"]})[0])


def test_it_learns_what_is_known_of_the_future() -> None:
    model = make_model(dropout=0.0, known_future_size=1).train()
    x, known = torch.randn(4, 16, FEATURES), torch.randn(4, 16 + HORIZONS, 1)
    target = known[:, 1:, 0].unfold(1, HORIZONS, 1) * x[:, :, :1]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(60):
        loss = (model.dense(x, known_future=known)[..., 1] - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.2 * float(target.var())


@pytest.mark.parametrize(
    ("hidden_size", "heads", "quantiles", "num_layers", "horizons"),
    [(17, 1, (0.5,), 3, 1), (21, 3, (0.05, 0.25, 0.4, 0.45, 0.9), 2, 5), (1, 1, (0.9,), 1, 2), (8, 8, (0.1, 0.9), 1, 7)],
)
def test_unusual_sizes(hidden_size: int, heads: int, quantiles: tuple[float, ...], num_layers: int, horizons: int) -> None:
    shape = {"hidden_size": hidden_size, "num_attention_heads": heads, "output_quantiles": quantiles}
    model, inputs = make_model(**shape, num_layers=num_layers, num_horizons=horizons), make_inputs({})
    dense = model.dense(**inputs)
    assert dense.shape == (BATCH, TIME, horizons, len(quantiles))
    assert (dense.diff(dim=-1) >= 0).all()
    for time in range(TIME):
        assert torch.allclose(dense[:, time], model(**until(inputs, time + 1))[0], atol=1e-5)


def test_many_variables_are_selected_at_once() -> None:
    model = TemporalFusionTransformer(310, 8, 2, num_horizons=2).eval()
    _, weights = model(torch.randn(2, 6, 310))
    assert weights["variable_selection"].shape == (2, 6, 310)
    assert torch.allclose(weights["variable_selection"].sum(-1), torch.ones(2, 6), atol=1e-5)
    assert model(torch.randn(0, 6, 310))[0].shape == (0, 2, 3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions(dtype: torch.dtype) -> None:
    model, inputs = make_model(**INPUTS["all"]), make_inputs(INPUTS["all"])
    cast = {name: value.to(dtype) if value.is_floating_point() else value for name, value in inputs.items()}
    expected = model(**inputs)[0]
    model.to(dtype)
    assert torch.allclose(model(**cast)[0].float(), expected, atol=0.2)
    assert torch.allclose(model.dense(**cast)[:, -1].float(), expected, atol=0.2)


@every_kind_of_input
def test_autocast_stays_close_and_finite(settings: dict[str, int]) -> None:
    model, inputs = make_model(**settings), make_inputs(settings)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (plain, weights), dense = model(**inputs), model.dense(**inputs)
        dense.float().sum().backward()
    assert torch.allclose(plain.float(), model(**inputs)[0], atol=0.1)
    assert torch.allclose(dense.float(), model.dense(**inputs), atol=0.1)
    assert all(weight.grad.isfinite().all() for weight in model.parameters())
    for weight in weights.values():
        assert torch.allclose(weight.sum(-1), torch.ones(weight.shape[:-1]), atol=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("dense", [False, True])
def test_compiled_equals_eager(dense: bool) -> None:
    model, inputs = make_model(**INPUTS["all"]), make_inputs(INPUTS["all"])
    function = model.dense if dense else lambda **given: model(**given)[0]
    torch.compiler.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own
        compiled = torch.compile(function)(**inputs)
        compiled.sum().backward()
    assert torch.allclose(compiled, function(**inputs), atol=1e-5)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"x": torch.zeros(2, 13, 4)}, r"x must have shape \[batch time feature\] with 5 features, was \[2, 13, 4\]"),
        ({"x": torch.full((2, 13, 5), torch.nan), "mask": None}, r"x of shape \[2, 13, 5\] holds NaN: pass mask"),
        (
            {"x": torch.full((2, 13, 5), torch.nan), "mask": torch.ones(5, dtype=torch.bool)},
            r"where mask of shape \[5\] says present",
        ),
        ({"x": torch.zeros(2, 0, 5), "mask": None}, r"x must hold at least one bar, had shape \[2, 0, 5\]"),
        ({"mask": torch.ones(2, 13, 5)}, r"mask must be boolean and broadcast to \[2, 13, 5\], was torch.float32 of shape"),
        ({"mask": torch.ones(2, 12, 5, dtype=torch.bool)}, r"mask must broadcast to x of shape \[2, 13, 5\], was \[2, 12, 5\]"),
        ({"static": None}, r"static must have shape \[2, 4\], was None"),
        ({"static": torch.zeros(2, 3)}, r"static must have shape \[2, 4\], was \[2, 3\]"),
        ({"static": torch.full((2, 4), torch.nan)}, r"static of shape \[2, 4\] holds NaN"),
        ({"known_future": None}, r"known_future must have shape \[2, 16, 2\] or \[2, 3, 2\], was None"),
        ({"known_future": torch.zeros(2, 4, 2)}, r"known_future must have shape .*, was \[2, 4, 2\]"),
        ({"known_future": torch.full((2, 16, 2), torch.nan)}, "known_future of shape .* holds NaN"),
    ],
)
def test_bad_inputs_are_named(changed: dict[str, Tensor | None], words: str) -> None:
    model, inputs = make_model(**INPUTS["all"]), make_inputs(INPUTS["all"])
    with pytest.raises(ValueError, match=words):
        model(**inputs | changed)


def test_inputs_that_the_model_has_no_part_for_are_named() -> None:
    model, inputs = make_model(), make_inputs(INPUTS["all"])
    with pytest.raises(ValueError, match=r"static must be None for a model without static_size, had shape \[2, 4\]"):
        model(inputs["x"], static=inputs["static"])
    with pytest.raises(ValueError, match="known_future must be None for a model without known_future_size"):
        model(inputs["x"], known_future=inputs["known_future"])
    with pytest.raises(ValueError, match=r"known_future must have shape \[2, 16, 2\], was \[2, 3, 2\]"):
        make_model(**INPUTS["known"]).dense(inputs["x"], known_future=inputs["known_future"][:, TIME:])


def test_bad_settings_are_named() -> None:
    with pytest.raises(ValueError, match=r"output_quantiles must increase strictly within \(0, 1\), was \[0.9, 0.1\]"):
        make_model(output_quantiles=(0.9, 0.1))
    with pytest.raises(ValueError, match="hidden_size must be a multiple of num_attention_heads, was 8 with 3 heads"):
        make_model(num_attention_heads=3)
    for name in ("hidden_size", "num_attention_heads", "num_horizons", "num_layers", "lookback", "static_size"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, was 0"):
            make_model(**{name: 0})
