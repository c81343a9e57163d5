"""The same fit without a part: the graph across assets, or a category of features."""

from dataclasses import replace

import numpy as np

from cryptoml.features.contract import CATEGORIES, category_of
from cryptoml.features.selection import columns_of
from cryptoml.training.member import FoldData, MemberTask, regime_columns

__all__ = ["ablations"]


def ablations(task: MemberTask, data: FoldData) -> tuple[list[MemberTask], dict[str, str]]:
    """Return fits without the graph across assets and without each category of features, and those left out with the reason."""
    found = [replace(task, name="without_graph", forecaster=task.forecaster.model_copy(update={"graph": False}))]
    places = {
        category: [index for index, name in enumerate(task.feature_names) if category_of(name) == category]
        for category in CATEGORIES
    }
    known = data.features[:, data.fold.train.bars]
    present = [category for category, columns in places.items() if columns]
    filled = [one for one in present if any(np.isfinite(known[..., column]).any() for column in places[one])]
    judged = filled if len(filled) > 1 else []
    for category in judged:
        columns = columns_of(task.feature_names, [one for one in present if one != category])
        read = {"columns": columns, "regime_columns": regime_columns(task.feature_names, columns)}
        forecaster = task.forecaster.model_copy(update=read)
        found.append(replace(task, name=f"without_{category}", forecaster=forecaster))
    reasons = {category: f"no {category} feature holds a value in the training data" for category in present}
    reasons |= dict.fromkeys(filled, "no other category of features holds a value in the training data")
    return found, {f"without_{category}": reasons[category] for category in present if category not in judged}
