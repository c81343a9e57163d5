"""Member deployments: each replica holds one member of the ensemble and forecasts for all who wait, in batches."""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from ray import serve

from cryptoml.models.bundle import Bundle
from cryptoml.models.ensemble import Predictions, predict_member
from cryptoml.models.forecaster import Forecaster
from serve.metrics import observe_batch
from serve.model_source import LoadedModels, ModelSource, watch
from serve.settings import AppArgs

__all__ = ["LocalMember", "forecast_windows"]


MOST_ASSETS = 8192
"""Windows of single assets in one pass of an accelerator, so that what it holds meanwhile is bounded."""


class Window(NamedTuple):
    """What one caller asks a member; see `LocalMember.forecast`."""

    version: str
    place: int
    features: np.ndarray


class _Members(NamedTuple):
    """This replica's share of one version."""

    members: dict[int, Forecaster]
    context: int


class LocalMember:
    """One member (or every n-th, where an ensemble has more members than there are deployments) on this replica's device.

    Args:
        args: Settings of the application.
        number: Of this deployment.
        count: How many member deployments there are.

    Raises:
        BundleError: The model cannot be loaded.
    """

    def __init__(self, args: AppArgs, number: int, count: int) -> None:
        self._number, self._count = number, count
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._models: LoadedModels[_Members] = LoadedModels(ModelSource(args.bundle, args.registry), self._share)
        watch(self._models, args.watch_seconds)
        size = args.batching.max_size
        self._in_batches = serve.batch(max_batch_size=size, batch_wait_timeout_s=0.0)(self._batch)  # a queue of its own

    async def forecast(self, version: str, place: int, features: np.ndarray) -> Predictions:
        """Return normalised predictions `[asset, origin, ...]`, made together with those of others who wait.

        Args:
            version: Of the model, so that no forecast is made of two of them.
            place: Of the member in its ensemble.
            features: `[asset, context - 1 + origin, feature]`, scaled; callers may send a reference to an object.

        Raises:
            ModelUnavailableError: The version cannot be loaded.
        """
        return await self._in_batches(Window(version, place, features))

    async def _batch(self, windows: list[Window]) -> list[Predictions]:
        observe_batch(f"member-{self._number}", len(windows))
        return await asyncio.to_thread(self._forecast, windows)

    def _forecast(self, windows: Sequence[Window]) -> list[Predictions]:
        found: dict[int, Predictions] = {}
        for version, place in dict.fromkeys((window.version, window.place) for window in windows):
            share = self._models.get(version)
            mine = [index for index, window in enumerate(windows) if (window.version, window.place) == (version, place)]
            parts = forecast_windows(share.members[place], [windows[index].features for index in mine], share.context)
            found |= dict(zip(mine, parts, strict=True))
        return [found[index] for index in range(len(windows))]

    def _share(self, version: str, bundle: Bundle) -> _Members:
        members = bundle.ensemble.members
        mine = {place: members[place].to(self._device).eval() for place in range(self._number, len(members), self._count)}
        return _Members(mine, bundle.context_bars)


def forecast_windows(member: Forecaster, windows: Sequence[np.ndarray], context: int) -> list[Predictions]:
    """Return normalised predictions `[asset, origin, ...]` of each window.

    An accelerator takes windows of one shape together; on a CPU one after the other is quicker, since each fills its cache.

    Args:
        member: The forecaster.
        windows: `[asset, context - 1 + origin, feature]`, scaled, NaN where missing.
        context: Bars that each forecast reads.
    """
    if next(member.parameters()).device.type == "cpu" or len({window.shape for window in windows}) > 1:
        return [predict_member(member, window, context).on_bars(slice(context - 1, None)) for window in windows]
    return _together(member, windows, context)


def _together(member: Forecaster, windows: Sequence[np.ndarray], context: int) -> list[Predictions]:
    """Forecast all windows of one shape in few passes, every origin as a row of the batch."""
    assets, origins = len(windows[0]), windows[0].shape[1] - context + 1
    cut = [window[:, origin : origin + context] for window in windows for origin in range(origins)]
    rows = max(1, MOST_ASSETS // assets)
    passes = [_pass(member, np.stack(cut[first : first + rows])) for first in range(0, len(cut), rows)]
    joined = {name: np.moveaxis(np.concatenate([one[name] for one in passes]), 0, 1) for name in passes[0]}
    return [
        Predictions(**{name: values[:, first : first + origins] for name, values in joined.items()})
        for first in range(0, len(cut), origins)
    ]


def _pass(member: Forecaster, stacked: np.ndarray) -> dict[str, np.ndarray]:
    """Return the outputs `[row, asset, ...]` at the last bar of windows `[row, asset, context, feature]`, NaN where absent."""
    features = torch.from_numpy(stacked).to(next(member.parameters()).device)
    mask = ~torch.isnan(features)
    with torch.inference_mode():
        forecast = member(features, mask)
    columns = slice(None) if member.config.columns is None else list(member.config.columns)
    absent = ~mask[:, :, -1][..., columns].any(dim=-1).cpu().numpy()
    outputs = {
        "probabilities": forecast.direction.float().softmax(-1),
        "volatility": forecast.volatility[..., 0].float(),
        "regime": forecast.regime.float().softmax(-1),
        "position_size": forecast.position_size[..., 0].float(),
        "quantiles": forecast.quantiles.float(),
    }
    arrays = {name: values.cpu().numpy() for name, values in outputs.items()}
    for values in arrays.values():
        values[absent] = np.nan
    return arrays
