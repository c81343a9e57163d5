"""The regime task as a filter: a hidden Markov chain over a few readings of the market (Hamilton 1989, Econometrica 57(2)).

A regime lasts for days, so that even years of bars hold few of them: a network learns them by heart, while the chain has a few
dozen numbers, which the labels of the training span give in closed form.

A reading such as loudness is measured against the average of a window, and that window holds few regimes: after a loud one
the same market looks quieter. How far is a regression on the window's own level within each regime (an analysis of
covariance), which leaves a market of one usual loudness with absolute readings, and one that drifts with relative ones.

Shape legend: row = any leading axes, time, column (the readings and, last, their level), reading, regime.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from cryptoml.data.markov import filter_states
from cryptoml.models.multitask import REGIMES

__all__ = ["RegimeFilter"]

TEMPERS = (0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0)
"""Shares of the evidence that may be believed: readings of neighbouring bars repeat each other."""
_RIDGE = 1e-3
_SMALLEST = 1e-6
_TINY = 1e-30


class RegimeFilter(nn.Module):
    """Probabilities of the regimes given the readings of a window up to each bar; in equal parts before `learn`.

    Args:
        num_readings: Numbers observed per bar beside the level, in the scaled units of features.
    """

    slopes: Tensor
    level_range: Tensor
    means: Tensor
    whitening: Tensor
    offsets: Tensor
    transitions: Tensor
    shares: Tensor

    def __init__(self, num_readings: int) -> None:
        super().__init__()
        count = len(REGIMES)
        self.register_buffer("slopes", torch.zeros(num_readings))
        self.register_buffer("level_range", torch.zeros(2))
        self.register_buffer("means", torch.zeros(count, num_readings))
        self.register_buffer("whitening", torch.zeros(count, num_readings, num_readings))
        self.register_buffer("offsets", torch.zeros(count))
        self.register_buffer("transitions", torch.full((count, count), 1 / count))
        self.register_buffer("shares", torch.full((count,), 1 / count))

    @torch.no_grad()
    def learn(self, columns: Float[np.ndarray, "time column"], labels: Int[np.ndarray, " time"]) -> None:
        """Take each regime's normal distribution and how regimes follow each other from labelled bars, in order.

        How far the evidence is believed is what makes the labels likeliest.

        Args:
            columns: NaN where missing.
            labels: Indices into `REGIMES`, -1 where unknown.
        """
        known = np.isfinite(columns).all(axis=1) & (labels >= 0)
        if not known.any():
            return
        self._take_slopes(columns[known], labels[known])
        readings = self._levelled(torch.from_numpy(columns).float()).numpy()
        moves = np.eye(len(REGIMES)) + 1.0
        followed = (labels[:-1] >= 0) & (labels[1:] >= 0)
        np.add.at(moves, (labels[:-1][followed], labels[1:][followed]), 1.0)
        shares = np.bincount(labels[known], minlength=len(REGIMES)) + 1.0
        self.transitions.copy_(torch.from_numpy(moves / moves.sum(axis=1, keepdims=True)))
        self.shares.copy_(torch.from_numpy(shares / shares.sum()))
        self._take_moments(readings[known], labels[known])
        temper = self._believable(readings, labels, known)
        self.whitening.mul_(temper**0.5)
        self.offsets.mul_(temper)

    @torch.compiler.disable
    @torch.no_grad()
    def forward(
        self, columns: Float[Tensor, "*row time column"], present: Bool[Tensor, "*row time"], *, last_only: bool = False
    ) -> Float[Tensor, "*row query regime"]:
        """Return the log-probability of each regime at every bar, or at the last bar alone; no gradient.

        Args:
            columns: 0 where missing.
            present: Bars whose columns are all there; the others say nothing.
            last_only: Return the last bar alone.
        """
        with torch.autocast(columns.device.type, enabled=False):
            evidence = torch.where(present[..., None], self._evidence(self._levelled(columns.float())), 0.0)
            return self._filtered(evidence.softmax(dim=-1), last_only)

    def _filtered(self, likelihood: Tensor, last_only: bool) -> Tensor:
        state, found = self.shares.expand(likelihood[..., 0, :].shape), []
        for bar, seen in enumerate(likelihood.unbind(dim=-2)):
            state = (state @ self.transitions if bar else state) * seen
            state = state / state.sum(dim=-1, keepdim=True).clamp(min=_TINY)
            found.append(state)
        states = found[-1].unsqueeze(-2) if last_only else torch.stack(found, dim=-2)
        return states.clamp(min=_SMALLEST).log()

    def _levelled(self, columns: Tensor) -> Tensor:
        """Return the readings as if their level were always the same; one far from what was learned counts as the nearest."""
        level = columns[..., -1:].clamp(self.level_range[0], self.level_range[1])
        return columns[..., :-1] - self.slopes * level

    def _evidence(self, readings: Tensor) -> Tensor:
        shocks = torch.einsum("krs,...ks->...kr", self.whitening, readings[..., None, :] - self.means)
        return self.offsets - shocks.square().sum(dim=-1) / 2

    def _take_slopes(self, columns: np.ndarray, labels: np.ndarray) -> None:
        """Regress the readings on their level within regimes."""
        within = columns.astype(np.float64)
        for regime in np.unique(labels):
            within[labels == regime] -= within[labels == regime].mean(axis=0)
        readings, level = within[:, :-1], within[:, -1]
        self.slopes.copy_(torch.from_numpy(level @ readings / (level @ level + _RIDGE * len(level))))
        low, high = columns[:, -1].min(), columns[:, -1].max()
        self.level_range.copy_(torch.tensor([low - (high - low) / 2, high + (high - low) / 2]))

    def _take_moments(self, readings: np.ndarray, labels: np.ndarray) -> None:
        count = readings.shape[1]
        for regime in range(len(REGIMES)):
            own = readings[labels == regime]
            own = own if len(own) > 2 * count else readings
            covariance = np.cov(own.T).reshape(count, count) + _RIDGE * np.eye(count)
            root = np.linalg.cholesky(np.linalg.inv(covariance)).T
            self.means[regime] = torch.from_numpy(own.mean(axis=0))
            self.whitening[regime] = torch.from_numpy(root)
            self.offsets[regime] = float(np.log(np.diag(root)).sum())

    def _believable(self, readings: np.ndarray, labels: np.ndarray, known: np.ndarray) -> float:
        evidence = self._evidence(torch.from_numpy(np.nan_to_num(readings)).float()).double().numpy()
        evidence[~np.isfinite(readings).all(axis=1)] = np.nan
        tempered = np.array(TEMPERS)[:, None, None] * evidence
        states = filter_states(tempered, self.transitions.double().numpy())
        right = states[:, known, labels[known]]
        return TEMPERS[int(np.log(right + _SMALLEST).mean(axis=1).argmax())]
