"""Properties that every architecture of the forecaster shares."""

import itertools
import warnings

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor
from torch.nn import functional

from cryptoml.models import forecaster
from cryptoml.models.forecaster import ARCHITECTURES, Forecast, Forecaster, ForecasterConfig, build_forecaster
from cryptoml.training.mappable import mappable

BATCH, ASSETS, TIME, FEATURES = 2, 3, 14, 5

every_architecture = pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))


def make_model(architecture: str = "tft", **settings: object) -> Forecaster:
    torch.manual_seed(0)
    shape = {"num_features": FEATURES, "num_assets": ASSETS, "hidden_size": 8, "num_heads": 2, "lookback": 6, "variable_size": 4}
    return build_forecaster(ForecasterConfig(architecture=architecture, **shape | settings)).eval()


def make_inputs(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features with a fifth missing; asset 1 is absent for the first bars."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(BATCH, ASSETS, TIME, FEATURES, generator=generator)
    mask = torch.rand(features.shape, generator=generator) > 0.2
    mask[:, 1, :4] = False
    return features, mask


def largest_difference(left: Forecast, right: Forecast) -> float:
    return max(float((a - b).detach().abs().max()) for a, b in zip(left, right, strict=True))


def at(forecast: Forecast, *index: object) -> Forecast:
    return Forecast(*(part[index] for part in forecast))


@every_architecture
def test_shapes_and_ranges(architecture: str) -> None:
    forecast = make_model(architecture)(*make_inputs())
    assert [tuple(part.shape) for part in forecast] == [(2, 3, 3), (2, 3, 1), (2, 3, 4), (2, 3, 1), (2, 3, 3, 3)]
    assert (forecast.volatility > 0).all()
    assert ((forecast.position_size >= 0) & (forecast.position_size <= 1)).all()
    assert (forecast.quantiles.diff(dim=-1) >= 0).all()


@every_architecture
def test_dense_equals_forward_at_every_bar(architecture: str) -> None:
    model, (features, mask) = make_model(architecture), make_inputs()
    dense = model.dense(features, mask)
    for time in range(TIME):
        plain = model(features[:, :, : time + 1], mask[:, :, : time + 1])
        assert largest_difference(at(dense, slice(None), slice(None), time), plain) < 1e-5


@every_architecture
@pytest.mark.parametrize("context", [4, 9])
def test_windowed_equals_forward_on_every_window(architecture: str, context: int) -> None:
    model, (features, mask) = make_model(architecture), make_inputs()
    windowed = model.windowed(features[0], context, mask[0])
    for start in range(TIME - context + 1):
        window = slice(start, start + context)
        plain = model(features[:1, :, window], mask[:1, :, window])
        assert largest_difference(at(windowed, slice(None), start), at(plain, 0)) < 1e-6


@every_architecture
def test_embedding_is_local_in_time(architecture: str) -> None:
    encoder = make_model(architecture).encoder
    features, mask = (part[0] for part in make_inputs())
    static = torch.zeros(ASSETS, 8)
    alone = encoder.embed(features[:, 5:6], mask[:, 5:6], static)
    assert torch.allclose(encoder.embed(features, mask, static)[:, 5:6], alone, atol=1e-6)


@every_architecture
def test_changing_the_future_changes_nothing_before_it(architecture: str) -> None:
    model, (features, mask) = make_model(architecture), make_inputs()
    changed = features.clone()
    changed[:, :, 9:] += 10.0
    past = (slice(None), slice(None), slice(0, 9))
    assert largest_difference(at(model.dense(features, mask), *past), at(model.dense(changed, mask), *past)) == 0.0


@pytest.mark.parametrize("architecture", ["tcn", "patch", "linear"])
def test_finite_memory_is_kept(architecture: str) -> None:
    model, (features, mask) = make_model(architecture), make_inputs()
    assert model.encoder.memory is not None
    assert model.encoder.memory <= 6
    changed = features.clone()
    changed[:, :, : TIME - 6] += 10.0
    assert largest_difference(model(features, mask), model(changed, mask)) == 0.0


@every_architecture
def test_masked_values_do_not_matter(architecture: str) -> None:
    model, (features, mask) = make_model(architecture), make_inputs()
    poisoned = torch.where(mask, features, torch.nan)
    assert largest_difference(model.dense(features, mask), model.dense(poisoned, mask)) == 0.0


@every_architecture
def test_a_broadcast_mask_equals_the_full_one(architecture: str) -> None:
    model, (features, mask) = make_model(architecture), make_inputs()
    bars = mask[..., :1]
    assert largest_difference(model(features, bars), model(features, bars.expand(features.shape))) == 0.0


@every_architecture
def test_absent_assets_influence_no_other(architecture: str) -> None:
    model, (features, mask) = make_model(architecture), make_inputs()
    mask[:, 1, -1] = False
    changed, others = features.clone(), [0, 2]
    changed[:, 1] += 5.0
    left, right = model(features, mask), model(changed, mask)
    assert largest_difference(at(left, slice(None), others), at(right, slice(None), others)) == 0.0


def test_present_assets_do_influence_others() -> None:
    model, (features, _) = make_model(), make_inputs()
    changed = features.clone()
    changed[:, 1] += 5.0
    assert largest_difference(at(model(features), slice(None), 0), at(model(changed), slice(None), 0)) > 0.0


@every_architecture
@pytest.mark.parametrize("settings", [{}, {"lookback": 2}, {"num_layers": 3}, {"lookback": 12, "num_layers": 2}])
def test_gradient_reaches_every_parameter(architecture: str, settings: dict[str, int]) -> None:
    model, (features, mask) = make_model(architecture, **settings), make_inputs()
    dense = model.dense(features, mask)
    sum(torch.sin(part * torch.arange(1, 1 + part.shape[-1])).sum() for part in dense).backward()
    unreached = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert unreached == []


@every_architecture
def test_one_batch_can_be_overfitted(architecture: str) -> None:
    model, (features, _) = make_model(architecture, hidden_size=16, dropout=0.0), make_inputs()
    labels = torch.randint(0, 3, (BATCH, ASSETS), generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(150):
        loss = functional.cross_entropy(model(features).direction.flatten(0, 1), labels.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.05


@every_architecture
def test_weights_survive_storage_bit_by_bit(architecture: str) -> None:
    model, (features, mask) = make_model(architecture), make_inputs()
    torch.manual_seed(99)
    other = build_forecaster(model.config).eval()
    other.load_state_dict(load(save(model.state_dict())))
    assert all(torch.equal(a, b) for a, b in zip(model(features, mask), other(features, mask), strict=True))


@every_architecture
def test_columns_that_are_not_read_do_not_matter(architecture: str) -> None:
    model, (features, mask) = make_model(architecture, columns=(0, 3)), make_inputs()
    changed, hidden = features.clone(), mask.clone()
    changed[..., [1, 2, 4]] += 5.0
    hidden[..., [1, 2, 4]] = False
    assert largest_difference(model.dense(features, mask), model.dense(changed, hidden)) == 0.0
    narrow = make_model(architecture, num_features=2)
    assert largest_difference(model(features, mask), narrow(features[..., [0, 3]], mask[..., [0, 3]])) == 0.0
    windowed = narrow.windowed(features[0][..., [0, 3]], 9, mask[0][..., [0, 3]])
    assert largest_difference(model.windowed(features[0], 9, mask[0]), windowed) == 0.0


def test_columns_that_are_not_read_have_no_weight() -> None:
    selection = make_model(columns=(0, 3)).explain(*make_inputs())["variable_selection"]
    assert selection.shape[-1] == FEATURES
    assert not selection[..., [1, 2, 4]].any()
    assert selection[..., [0, 3]].any()


@every_architecture
def test_autocast_stays_close_and_finite(architecture: str) -> None:
    model, (features, mask) = make_model(architecture), make_inputs()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        halved = model.dense(features, mask)
    assert largest_difference(model.dense(features, mask), Forecast(*(part.float() for part in halved))) < 0.2


@pytest.mark.parametrize(("architecture", "count"), [("linear", 1162), ("patch", 1878), ("tcn", 1514), ("tft", 4945)])
def test_parameter_count(architecture: str, count: int) -> None:
    assert sum(weight.numel() for weight in make_model(architecture).parameters()) == count


@pytest.mark.slow
@pytest.mark.timeout(900)
@every_architecture
def test_compiled_equals_eager(architecture: str) -> None:
    model, (features, mask) = make_model(architecture), make_inputs()
    torch.compiler.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own
        compiled = torch.compile(model.dense)(features, mask)
    assert largest_difference(model.dense(features, mask), compiled) < 1e-5


def test_explanations_sum_to_one() -> None:
    features, mask = make_inputs()
    weights = make_model().explain(features, mask)
    assert {name: tuple(weight.shape) for name, weight in weights.items()} == {
        "attention": (BATCH, ASSETS, TIME),
        "variable_selection": (BATCH, ASSETS, TIME, FEATURES),
        "graph": (BATCH, ASSETS, ASSETS),
    }
    present = mask.any(dim=-1)
    assert torch.allclose(weights["variable_selection"].sum(-1), present.float(), atol=1e-6)
    assert torch.allclose(weights["attention"].sum(-1), torch.ones(BATCH, ASSETS), atol=1e-6)
    assert torch.allclose(weights["graph"].sum(-1), torch.ones(BATCH, ASSETS), atol=1e-6)
    assert not weights["attention"][..., : TIME - 6].any()
    assert not weights["variable_selection"][~mask].any()


def test_a_single_asset_needs_no_graph() -> None:
    model = make_model(num_assets=1)
    assert model.graph is None
    assert model(torch.zeros(2, 1, 4, FEATURES)).direction.shape == (2, 1, 3)


def test_bad_inputs_are_named() -> None:
    model, (features, mask) = make_model(), make_inputs()
    poisoned = torch.where(mask, features, torch.nan)
    for call, words in (
        (lambda: model(features[..., :3]), r"features must have shape \[batch asset time feature\] with 5 features"),
        (lambda: model(features[:, :2]), "features must have 3 assets"),
        (lambda: model(features[0]), r"was \[3, 14, 5\]"),
        (lambda: model(poisoned), "holds NaN: pass mask"),
        (lambda: model.dense(poisoned, torch.ones_like(mask)), r"features of shape \[.*\] holds NaN where mask of shape"),
        (lambda: model(features, mask[..., :2]), "mask must broadcast"),
        (lambda: model(features, mask.float()), "mask must be boolean"),
        (lambda: model.windowed(features[0], TIME + 1), "context must be within 1 and the 14 bars"),
    ):
        with pytest.raises(ValueError, match=words):
            call()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_heads": 3}, "hidden_size must be a multiple"),
        ({"quantiles": (0.9, 0.1)}, "quantiles must increase"),
        ({"horizons": (4, 1)}, "horizons must increase"),
        ({"architecture": "oracle"}, "architecture"),
        ({"columns": (0, FEATURES)}, "columns must increase within 0 and 4"),
        ({"columns": (1, 0)}, "columns must increase"),
        ({"columns": ()}, "columns"),
        ({"wings": 2}, "wings"),
    ],
)
def test_bad_config_is_named(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make_model(**settings)


@every_architecture
def test_vmap_equals_a_loop(architecture: str) -> None:
    model, (features, _) = make_model(architecture), make_inputs()
    with torch.no_grad(), mappable(model):
        mapped = torch.func.vmap(lambda x: model(x[None]).direction[0])(features)
    assert torch.allclose(mapped, model(features).direction, atol=1e-6)


@every_architecture
def test_many_assets_are_mixed_part_by_part(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, (features, mask) = make_model(architecture), make_inputs()
    together = model.dense(features, mask)
    monkeypatch.setattr(forecaster, "_PAIRS_AT_ONCE", 5 * ASSETS**2)
    assert largest_difference(model.dense(features, mask), together) < 1e-6


def test_seed_decides_the_weights() -> None:
    first, second = make_model(), make_model()
    pairs = itertools.zip_longest(first.parameters(), second.parameters())
    assert all(torch.equal(a, b) for a, b in pairs)
