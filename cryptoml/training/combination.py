"""Weigh trained models on validation data and average their predictions: any torch models, or our forecasters.

Predictions are combined as they come out of the models: a weighted mean of values, of logits, or of probabilities. The
forecasts of several tasks are mixed task by task, classes by their probabilities, as `cryptoml.models.ensemble` does.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from scipy.optimize import minimize
from torch import Tensor, nn
from torch.nn import functional

from cryptoml.errors import DataError
from cryptoml.models.calibration import convex_weights
from cryptoml.models.forecaster import Forecast
from cryptoml.training.chunks import Batch
from cryptoml.training.feed import moved
from cryptoml.training.objectives import aligned, prediction_of

__all__ = ["create_ensemble_predictions", "optimize_ensemble_weights"]

Loss = Callable[[Tensor, Tensor], Tensor]
"""(prediction, y) -> scalar mean loss."""

SMALLEST_PROBABILITY = 1e-12


def optimize_ensemble_weights(
    models: Sequence[nn.Module],
    val_loader: Iterable[Any],
    device: torch.device | str | None = None,
    *,
    loss_fn: Loss | None = None,
) -> Float[np.ndarray, " model"]:
    """Find the weights with the least loss of the weighted mean prediction: at least 0, summing to 1.

    On the data of `val_loader`, which the models must not have learned from, the mean is never worse than the best single
    model or than equal weights.

    Args:
        models: They agree on the shape of their predictions.
        val_loader: Batches (x, y), or those of a `ChunkLoader` where the models are forecasters.
        device: Where to predict; where each model is by default.
        loss_fn: (prediction, y) -> scalar; by default squared error for float y, for integer y the cross-entropy of
            logits, or of probabilities where the models give those, and for forecasters that of direction.

    Raises:
        ValueError: There is no model, or predictions and y do not fit.
        DataError: There is no example, or a prediction is not finite.
    """
    models = list(models)
    if not models:
        raise ValueError("models must hold at least one model, was empty")
    batches = iter(val_loader)
    first = next(batches, None)
    if first is None:
        raise DataError("val_loader must hold at least one batch, held none")
    with _predicting(models, device):
        if isinstance(first, Batch):
            return convex_weights(*_directions(models, _chain(first, batches)))
        predictions, y = _pairs(models, _chain(first, batches), exact=loss_fn is None)
    if not predictions.isfinite().flatten(1).all():
        broken = (~predictions.isfinite().flatten(1).all(dim=1)).nonzero()[0].item()
        raise DataError(f"predictions of all models must be finite, were not of model {broken}")
    return _least_loss(predictions, y, loss_fn or _loss_of(predictions, y))


def create_ensemble_predictions(
    models: Sequence[nn.Module],
    new_data: Any,
    weights: Sequence[float] | np.ndarray | Tensor | None = None,
    device: torch.device | str | None = None,
) -> Any:
    """Average what models predict for the same data.

    Args:
        models: They agree on the shape of their predictions.
        new_data: The models' input: a tensor or array, a tuple of arguments, or a dict of keywords. NaN in the features of
            forecasters is missing.
        weights: At least 0, summing to 1; equal if None.
        device: Where to predict; where each model is by default.

    Returns:
        A prediction as the models give it: a tensor, a dict of tensors, or a `Forecast` whose logits are log probabilities.
        Of models that return a tuple, the first entry is the prediction.

    Raises:
        ValueError: There is no model, or weights do not fit.
    """
    models = list(models)
    shares = _checked(weights, len(models))
    with _predicting(models, device):
        outputs = [_output(model, new_data) for model in models]
    home = _device_of(models[0])
    return _mean([moved(output, home) for output in outputs], shares)


def _least_loss(predictions: Float[Tensor, "model sample ..."], y: Tensor, loss: Loss) -> Float[np.ndarray, " model"]:
    """Minimise over the simplex; single models and equal weights are candidates, so that nothing is worse than they."""
    count = len(predictions)
    flat = predictions.flatten(1)

    def evaluate(weights: np.ndarray) -> tuple[float, np.ndarray]:
        with torch.enable_grad():
            given = torch.tensor(weights, dtype=torch.float64, requires_grad=True)
            value = loss((given @ flat).view(predictions.shape[1:]), y)
            (slope,) = torch.autograd.grad(value, given)
        return value.item(), slope.numpy()

    equal = np.full(count, 1.0 / count)
    sums_to_one = {"type": "eq", "fun": lambda weights: weights.sum() - 1.0, "jac": np.ones_like}
    options = {"ftol": 1e-12, "maxiter": 500}
    found = minimize(
        evaluate, equal, jac=True, method="SLSQP", bounds=[(0.0, 1.0)] * count, constraints=sums_to_one, options=options
    )
    inner = np.clip(np.nan_to_num(found.x), 0.0, None)
    candidates = [*([inner / inner.sum()] if inner.sum() > 0 else []), equal, *np.eye(count)]
    return candidates[int(np.argmin([evaluate(weights)[0] for weights in candidates]))]


def _loss_of(predictions: Float[Tensor, "model sample ..."], y: Tensor) -> Loss:
    if y.is_floating_point():
        return functional.mse_loss
    sums = predictions.sum(dim=-1)
    if (predictions >= 0).all() and torch.allclose(sums, torch.ones_like(sums), atol=1e-4):
        return lambda mixed, label: functional.nll_loss(
            mixed.clamp(min=SMALLEST_PROBABILITY).log().flatten(0, -2), label.flatten()
        )
    return lambda mixed, label: functional.cross_entropy(mixed.flatten(0, -2), label.flatten())


def _pairs(
    models: Sequence[nn.Module], batches: Iterable[Any], *, exact: bool
) -> tuple[Float[Tensor, "model sample ..."], Shaped[Tensor, "sample ..."]]:
    """Predict all (x, y) batches with all models, on the CPU in double precision."""
    rows, labels = [], []
    for batch in batches:
        if not isinstance(batch, list | tuple) or len(batch) != 2:
            raise ValueError(f"val_loader must yield pairs (x, y), found {type(batch).__name__}")
        x, y = batch[0], torch.as_tensor(batch[1]).cpu()
        outputs = [_output(model, x).cpu().double() for model in models]
        fitted = [aligned(output, y) if exact else (output, y) for output in outputs]
        if any(one is None or one[0].shape != fitted[0][0].shape for one in fitted):  # type: ignore[index]
            raise ValueError(
                f"predictions must fit y of shape {list(y.shape)}, had shapes {[list(output.shape) for output in outputs]}"
            )
        rows.append(torch.stack([one[0] for one in fitted]))  # type: ignore[index]
        labels.append(fitted[0][1])  # type: ignore[index]
    y = torch.cat(labels)
    return torch.cat(rows, dim=1), y.double() if y.is_floating_point() else y.long()


def _directions(models: Sequence[Any], batches: Iterable[Batch]) -> tuple[np.ndarray, np.ndarray]:
    """Return each forecaster's probabilities `[model, sample, 3]` at all labelled origins, and the labels."""
    found, labels = [], []
    for batch in batches:
        label, known = batch.targets["direction"], batch.origin_mask & (batch.targets["direction"] >= 0)
        known = known & batch.mask.any(dim=-1)
        parts = []
        for model in models:
            given = batch.to(_device_of(model))
            parts.append(model.dense(given.features, given.mask).direction.double().softmax(-1).cpu()[known.cpu()])
        found.append(torch.stack(parts))
        labels.append(label[known].cpu())
    if not sum(map(len, labels)):
        raise DataError("val_loader must hold at least one label of direction, held none")
    return torch.cat(found, dim=1).numpy(), torch.cat(labels).numpy()


def _output(model: nn.Module, x: Any) -> Any:
    """Return a model's prediction; a `Forecast` stays whole."""
    given = moved(_tensors(x, next((p.dtype for p in model.parameters()), torch.float32)), _device_of(model))
    if hasattr(model, "dense"):
        if isinstance(given, Tensor) and given.isnan().any():
            given = (given, ~given.isnan())
        return model(*given) if isinstance(given, list | tuple) else model(given)
    return prediction_of(model, given)


def _tensors(x: Any, dtype: torch.dtype) -> Any:
    if isinstance(x, np.ndarray):
        x = torch.as_tensor(x)
    if isinstance(x, Tensor):
        return x.to(dtype) if x.is_floating_point() else x
    if isinstance(x, dict):
        return {name: _tensors(part, dtype) for name, part in x.items()}
    return type(x)(_tensors(part, dtype) for part in x) if isinstance(x, list | tuple) else x


def _mean(outputs: Sequence[Any], weights: Float[np.ndarray, " model"]) -> Any:
    """Average outputs of one kind by weight."""
    first = outputs[0]
    if isinstance(first, Forecast):
        logits = ("direction", "regime")
        parts = {name: [getattr(output, name) for output in outputs] for name in Forecast._fields}
        mixed = {name: _mean([part.softmax(-1) for part in parts[name]], weights).log() for name in logits}
        return Forecast(**{name: mixed[name] if name in mixed else _mean(parts[name], weights) for name in Forecast._fields})
    if isinstance(first, dict):
        return {name: _mean([output[name] for output in outputs], weights) for name in first}
    return torch.stack([output * float(weight) for output, weight in zip(outputs, weights, strict=True)]).sum(dim=0)


def _checked(weights: Any, count: int) -> Float[np.ndarray, " model"]:
    if not count:
        raise ValueError("models must hold at least one model, was empty")
    if weights is None:
        return np.full(count, 1.0 / count)
    values = np.asarray(weights.detach().cpu() if isinstance(weights, Tensor) else weights, dtype=np.float64)
    if values.shape != (count,) or not np.isfinite(values).all() or values.min() < 0 or abs(values.sum() - 1.0) > 1e-4:
        raise ValueError(f"weights must be {count} numbers of at least 0 that sum to 1, was {values.tolist()}")
    return values


def _device_of(model: nn.Module) -> torch.device:
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def _chain(first: Any, rest: Iterator[Any]) -> Iterator[Any]:
    yield first
    yield from rest


@contextmanager
def _predicting(models: Sequence[nn.Module], device: torch.device | str | None) -> Iterator[None]:
    """Hold models in evaluation mode on a device, without gradients; they come back as they were."""
    with ExitStack() as stack, torch.no_grad():
        for model in models:
            stack.callback(model.train, model.training)
            if device is not None:
                stack.callback(model.to, _device_of(model))
                model.to(device)
            model.eval()
        yield
