"""Why a forecast came out as it did: what the ensemble's members looked at, or else what their answer turned on."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from cryptoml.models.ensemble import Ensemble

__all__ = ["Explanation", "explain_last_bar"]


@dataclass(frozen=True)
class Explanation:
    """What one forecast rests on; each sums to 1, and is empty where the asset has no inputs.

    Attributes:
        feature_importance: Feature -> weight, largest first.
        temporal_attention: Bars ago (0 is the last closed bar) -> weight.
    """

    feature_importance: dict[str, float] = field(default_factory=dict)
    temporal_attention: dict[int, float] = field(default_factory=dict)


def explain_last_bar(
    ensemble: Ensemble, window: Float32[np.ndarray, "asset context feature"], names: Sequence[str], rows: Sequence[int]
) -> list[Explanation]:
    """Explain some assets' forecasts at the last bar of a window.

    Importance is the mean weight by which the members select a feature over the bars of the window (Lim et al. 2021, section
    4.2), attention that of the last bar on the others (section 4.4), averaged over the members that have them by their weight in
    the ensemble. Where none of those that have a say in the forecast does, each is the share in the absolute input times
    gradient of `P(UP) - P(DOWN)` (Shrikumar et al. 2017, section 2) instead.

    Args:
        ensemble: The models.
        window: Scaled features, NaN where missing: all the history that the forecast reads.
        names: Of the features.
        rows: Of the assets.
    """
    told = []
    for member, weight in zip(ensemble.members, ensemble.weights, strict=True):
        if weight > 0:
            values = torch.tensor(window, device=next(member.parameters()).device)[None]
            with torch.inference_mode():
                told.append((weight, member.explain(values, ~values.isnan())))
    return [_explanation(ensemble, window, names, row, told) for row in rows]


def _explanation(
    ensemble: Ensemble, window: np.ndarray, names: Sequence[str], row: int, told: Sequence[tuple[float, dict[str, Tensor]]]
) -> Explanation:
    selected, attended = (
        _mean([(weight, _summed(found[name][0, row].float().cpu())) for weight, found in told if name in found])
        for name in ("variable_selection", "attention")
    )
    if selected is None or attended is None:
        turned_on = _input_times_gradient(ensemble, window, row)
        selected = _share(turned_on.sum(axis=0)) if selected is None else selected
        attended = _share(turned_on.sum(axis=1)) if attended is None else attended
    return Explanation(_ranked(selected, names), _by_bars_ago(attended))


def _summed(weights: Float[Tensor, "..."]) -> np.ndarray:
    """Return weights of one asset `[item]`: those per bar and feature are summed over the bars."""
    return (weights.sum(dim=0) if weights.ndim == 2 else weights).numpy()


def _mean(parts: Sequence[tuple[float, np.ndarray]]) -> np.ndarray | None:
    """Average shares over the members that gave any."""
    used = [(weight, _share(values)) for weight, values in parts if values.sum() > 0]
    return np.average([values for _, values in used], axis=0, weights=[weight for weight, _ in used]) if used else None


def _share(values: np.ndarray) -> np.ndarray:
    total = values.sum()
    return values / total if total > 0 else values[:0]


def _input_times_gradient(
    ensemble: Ensemble, window: Float32[np.ndarray, "asset context feature"], row: int
) -> Float[np.ndarray, "context feature"]:
    total = np.zeros(window.shape[1:])
    for member, weight in zip(ensemble.members, ensemble.weights, strict=True):
        if weight > 0:
            given = torch.tensor(window, device=next(member.parameters()).device)[None]
            values, present = given.nan_to_num().requires_grad_(), ~given.isnan()
            with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):  # its recurrent kernels know no gradient here
                probabilities = member(values, present).direction[0, row].softmax(dim=-1)
                (slope,) = torch.autograd.grad(probabilities[2] - probabilities[0], values)
            total += weight * (slope * values).detach()[0, row].abs().double().cpu().numpy()
    return total


def _ranked(weights: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    order = np.argsort(-weights, kind="stable")
    return {names[index]: float(weights[index]) for index in order}


def _by_bars_ago(weights: np.ndarray) -> dict[int, float]:
    return dict(enumerate(weights[::-1].tolist()))
