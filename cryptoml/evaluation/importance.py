"""Which features the forecasters look at: their variable selection weights, averaged."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from cryptoml.features.contract import CATEGORIES, category_of
from cryptoml.models.forecaster import Forecaster

__all__ = ["feature_importance", "importance_by_category"]

SAMPLED_BARS = 512


def feature_importance(
    members: Sequence[Forecaster], weights: Sequence[float], features: np.ndarray, names: Sequence[str]
) -> dict[str, float]:
    """Return the mean selection weight of every feature, largest first, summing to 1.

    Empty where no member selects, or nothing is present.

    Args:
        members: Forecasters; those without variable selection or without weight are left out.
        weights: Of the members in the ensemble.
        features: Scaled `[asset, time, feature]`, NaN where missing; the last bars are looked at.
        names: Of the last axis.
    """
    window = torch.from_numpy(np.array(features[None, :, -SAMPLED_BARS:]))
    present = ~window.isnan()
    found, shares = [], []
    for member, weight in zip(members, weights, strict=True):
        if weight <= 0:
            continue
        with torch.inference_mode():
            selection = member.explain(window, present).get("variable_selection")
        if selection is not None:
            flat = selection.float().flatten(0, -2)
            used = flat[flat.sum(dim=-1) > 0]
            if len(used):
                found.append(used.mean(dim=0).numpy())
                shares.append(weight)
    if not found:
        return {}
    mean = np.average(found, axis=0, weights=shares)
    order = np.argsort(-mean, kind="stable")
    return {names[index]: float(mean[index]) for index in order}


def importance_by_category(importance: Mapping[str, float]) -> dict[str, float]:
    """Return the summed weights per category, largest first."""
    totals = dict.fromkeys(CATEGORIES, 0.0)
    for name, weight in importance.items():
        category = category_of(name)
        totals[category] = totals.get(category, 0.0) + weight
    return dict(sorted(((name, weight) for name, weight in totals.items() if weight > 0), key=lambda item: -item[1]))
