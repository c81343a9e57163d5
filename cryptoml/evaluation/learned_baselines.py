"""Baselines that learn from the same features: ridge, multinomial logistic regression, LightGBM.

Each is fitted on the training rows alone and answers with probabilities for rows of features. Missing features are 0
(the training mean or median after scaling) for the linear ones and NaN for trees.
"""

from typing import Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

__all__ = ["BaselineConfig", "LightGbmBaseline", "LogisticBaseline", "RidgeBaseline", "RowModel", "TrainingRows"]


class BaselineConfig(BaseModel):
    """Sizes and seeds of the baselines."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_train_rows: int = Field(default=100_000, ge=100, description="Training rows drawn at random, for speed")
    momentum_bars: int = Field(default=168, ge=1, description="Look-back of time-series momentum, bars")
    ridge_penalty: float = Field(default=1e-2, ge=0, description="L2 penalty as a fraction of the rows")
    logistic_penalty: float = Field(default=1e-3, ge=0, description="L2 penalty on weights, per row")
    logistic_iterations: int = Field(default=100, ge=1, description="Most L-BFGS iterations")
    lightgbm_rounds: int = Field(default=200, ge=1, description="Boosting rounds")
    lightgbm_learning_rate: float = Field(default=0.05, gt=0, description="Shrinkage per round")
    lightgbm_leaves: int = Field(default=31, ge=2, description="Leaves per tree")
    lightgbm_min_leaf_rows: int = Field(default=200, ge=1, description="Fewest rows in a leaf")
    lightgbm_feature_fraction: float = Field(default=0.5, gt=0, le=1, description="Share of features each tree sees")
    num_threads: int = Field(default=1, ge=0, description="Threads of LightGBM; 0 takes all cores")
    seed: int = Field(default=0, ge=0, description="Of row sampling and boosting")


class TrainingRows:
    """Rows to learn from: features float32 `[row, feature]` (NaN = missing), class `[row]`, normalised return `[row]`."""

    def __init__(self, features: np.ndarray, direction: np.ndarray, normalised_return: np.ndarray) -> None:
        """Keep the rows."""
        self.features = features
        self.direction = direction
        self.normalised_return = normalised_return


class RowModel(Protocol):
    """A fitted baseline."""

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """Return P(DOWN, SIDEWAYS, UP) `[row, 3]` of features `[row, feature]`."""


class RidgeBaseline:
    """Linear regression of the normalised return with an L2 penalty; classes follow from its training residuals."""

    def __init__(self, rows: TrainingRows, threshold: float, penalty: float) -> None:
        """Solve the normal equations.

        Args:
            rows: Training rows.
            threshold: Normalised return beyond which a move counts as UP or DOWN.
            penalty: L2 penalty as a fraction of the number of rows.
        """
        x = np.nan_to_num(rows.features)
        self.center = x.mean(axis=0, dtype=np.float64)
        self.intercept = float(rows.normalised_return.mean(dtype=np.float64))
        x = x - self.center.astype(np.float32)
        gram = (x.T @ x).astype(np.float64)
        moment = (x.T @ (rows.normalised_return - self.intercept).astype(np.float32)).astype(np.float64)
        self.weights = np.linalg.solve(gram + max(penalty, 1e-9) * len(x) * np.eye(x.shape[1]), moment)
        self.residuals = np.sort(rows.normalised_return - self.mean(rows.features))
        self.threshold = threshold

    def mean(self, features: np.ndarray) -> np.ndarray:
        """Return the expected normalised return `[row]`."""
        return self.intercept + (np.nan_to_num(features) - self.center.astype(np.float32)) @ self.weights

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """Return P(DOWN, SIDEWAYS, UP) `[row, 3]`."""
        mean = self.mean(features)
        down = np.searchsorted(self.residuals, -self.threshold - mean) / len(self.residuals)
        up = 1 - np.searchsorted(self.residuals, self.threshold - mean, side="right") / len(self.residuals)
        return np.stack([down, 1 - down - up, up], axis=-1)


class LogisticBaseline:
    """Multinomial logistic regression with an L2 penalty, by L-BFGS."""

    def __init__(self, rows: TrainingRows, penalty: float, max_iterations: int) -> None:
        """Minimise the mean log loss plus `penalty / 2 * |weights|^2` (intercepts are not penalised)."""
        x = _with_intercept(rows.features)
        hits = np.eye(3, dtype=np.float32)[rows.direction]

        def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
            weights = flat.reshape(-1, 3)
            log_p = log_softmax(x @ weights.astype(np.float32), axis=1)
            penalised = weights.copy()
            penalised[-1] = 0
            gradient = (x.T @ (np.exp(log_p) - hits)).astype(np.float64) / len(x) + penalty * penalised
            value = -float((log_p * hits).sum(dtype=np.float64)) / len(x) + penalty / 2 * float((penalised**2).sum())
            return value, gradient.ravel()

        start = np.zeros(x.shape[1] * 3)
        solution = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": max_iterations})
        self.weights = solution.x.reshape(-1, 3)

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """Return P(DOWN, SIDEWAYS, UP) `[row, 3]`."""
        return softmax(_with_intercept(features) @ self.weights, axis=1)


class LightGbmBaseline:
    """Gradient-boosted trees on the same features; deterministic for a seed and a number of threads."""

    def __init__(self, rows: TrainingRows, config: BaselineConfig) -> None:
        """Fit `lightgbm_rounds` rounds of multi-class boosting.

        Raises:
            ImportError: LightGBM is not installed.
            OSError: Its compiled library does not load (OpenMP runtime missing, say).
        """
        import lightgbm

        parameters = {
            "objective": "multiclass",
            "num_class": 3,
            "learning_rate": config.lightgbm_learning_rate,
            "num_leaves": config.lightgbm_leaves,
            "min_data_in_leaf": config.lightgbm_min_leaf_rows,
            "feature_fraction": config.lightgbm_feature_fraction,
            "num_threads": config.num_threads,
            "seed": config.seed,
            "deterministic": True,
            "force_row_wise": True,
            "verbosity": -1,
        }
        data = lightgbm.Dataset(rows.features, label=rows.direction, free_raw_data=True)
        self.booster = lightgbm.train(parameters, data, num_boost_round=config.lightgbm_rounds)
        self.num_threads = config.num_threads

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """Return P(DOWN, SIDEWAYS, UP) `[row, 3]`."""
        return np.asarray(self.booster.predict(features, num_threads=self.num_threads))


def _with_intercept(features: np.ndarray) -> np.ndarray:
    filled = np.nan_to_num(features).astype(np.float32, copy=False)
    return np.concatenate([filled, np.ones((len(filled), 1), dtype=np.float32)], axis=1)
