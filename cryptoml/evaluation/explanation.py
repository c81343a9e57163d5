"""Where forecasters look: back in time, and across assets, averaged over windows of the data."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch

from cryptoml.models.forecaster import Forecaster

__all__ = ["asset_graph", "input_influence", "temporal_attention"]

_WINDOWS = 64
_AT_ONCE = 8


def temporal_attention(members: Mapping[str, Forecaster], features: np.ndarray, lookback: int) -> dict[str, np.ndarray]:
    """Return each member's mean attention of the newest bar by bars ago `[lookback]`, the newest bar first, summing to 1.

    Members without attention are left out.

    Args:
        members: Forecasters by name.
        features: Scaled `[asset, time, feature]`, NaN where missing; windows are spread evenly over them.
        lookback: Bars of each window.
    """
    found = {}
    for name, member in members.items():
        weights = [weight.flatten(0, 1) for weight in _explained(member, features, lookback, "attention")]
        used = torch.cat([rows[rows.sum(dim=-1) > 0] for rows in weights]) if weights else torch.empty(0)
        if len(used):
            found[name] = used.mean(dim=0).flip(0).numpy()
    return found


def asset_graph(
    members: Sequence[Forecaster], weights: Sequence[float], features: np.ndarray, lookback: int
) -> np.ndarray | None:
    """Return the mean weight with which each asset (row) listens to each (column) `[asset, asset]`; rows sum to 1.

    None where no member has a graph. A row of NaN is an asset that is never there.

    Args:
        members: Forecasters.
        weights: Of the members in the ensemble; those without weight do not speak.
        features: Scaled `[asset, time, feature]`, NaN where missing; windows are spread evenly over them.
        lookback: Bars of each window.
    """
    total, share = np.zeros((features.shape[0], features.shape[0])), np.zeros((features.shape[0], 1))
    heard = False
    for member, weight in zip(members, weights, strict=True):
        for graphs in _explained(member, features, lookback, "graph") if weight > 0 else ():
            heard = True
            present = (graphs.sum(dim=-1, keepdim=True) > 0).numpy()
            total += weight * np.where(present, graphs.numpy(), 0.0).sum(axis=0)
            share += weight * present.sum(axis=0)
    if not heard:
        return None
    return np.divide(total, share, out=np.full_like(total, np.nan), where=share > 0)


def input_influence(members: Sequence[Forecaster], weights: Sequence[float], features: np.ndarray, asset: int) -> np.ndarray:
    """Return how much each feature of an asset moved its forecast at the last bar `[feature]`: above 0 towards UP.

    Gradient times input (Shrikumar et al. 2016) of the log odds of UP against DOWN, summed over the bars and averaged over the
    members by weight. A missing value has no influence.

    Args:
        members: Forecasters.
        weights: Of the members in the ensemble.
        features: Scaled `[asset, time, feature]` of one window, NaN where missing.
        asset: Row of the asset.
    """
    total = np.zeros(features.shape[-1])
    window = torch.from_numpy(features[None])
    mask = ~window.isnan()
    for member, weight in zip(members, weights, strict=True):
        if weight <= 0 or not mask[0, asset].any():
            continue
        values = window.nan_to_num().requires_grad_()
        with torch.enable_grad():
            direction = member(values, mask).direction[0, asset]
            (gradient,) = torch.autograd.grad(direction[2] - direction[0], values)
        total += weight * (gradient * values)[0, asset].sum(dim=0).detach().numpy()
    return total


def _explained(member: Forecaster, features: np.ndarray, lookback: int, name: str) -> Iterator[torch.Tensor]:
    """Yield one kind of weights, a few windows at a time; nothing where the member has none, or the data is too short."""
    last = features.shape[1] - lookback
    starts = np.unique(np.linspace(0, last, _WINDOWS).astype(int)) if last >= 0 else np.empty(0, dtype=int)
    for group in np.array_split(starts, max(1, -(-len(starts) // _AT_ONCE))) if len(starts) else ():
        window = torch.from_numpy(np.stack([features[:, start : start + lookback] for start in group]))
        with torch.inference_mode():
            weights = member.explain(window, ~window.isnan()).get(name)
        if weights is None:
            return
        yield weights.float()
