"""Cross-exchange features: other venues, the spot leg of a perpetual, and funding.

Columns are log price differences between bars of the same open, known at this bar's close; see `joins.py`.
"""

import numpy as np
from numpy.typing import NDArray

from cryptoml.features.contract import Bars, days, feature, hours
from cryptoml.features.rolling import delay, rolling_mean, zscore

__all__: list[str] = []

FloatArray = NDArray[np.float64]
BPS = 1e4
PREMIUM = ("venue_premium",)
BASIS = ("basis",)
FUNDING = ("funding_rate",)
MAKAROV = "Makarov & Schoar 2020"


@feature("cross_exchange", lookback=2, input_run=1, inputs=PREMIUM, source=MAKAROV)
def price_difference(bars: Bars) -> FloatArray:
    """10,000 ln(mean price of other venues / own close), basis points"""
    return BPS * bars.column("venue_premium")


@feature("cross_exchange", lookback=lambda n: n + 1, params=(days(1), days(7)), inputs=PREMIUM, source=MAKAROV)
def price_difference_zscore(bars: Bars, n: int) -> FloatArray:
    """z-score over n bars of the price difference"""
    return zscore(bars.column("venue_premium"), n)


@feature("cross_exchange", lookback=lambda n: n + 2, params=(1, hours(4)), inputs=PREMIUM, source="Hasbrouck 1995")
def venue_lead(bars: Bars, n: int) -> FloatArray:
    """Change over n bars of the price difference: what other venues gained on this one, basis points"""
    premium = bars.column("venue_premium")
    return BPS * (premium - delay(premium, n))


@feature("cross_exchange", lookback=2, input_run=1, inputs=("venue_dispersion",), source=MAKAROV)
def dispersion(bars: Bars) -> FloatArray:
    """10,000 x the largest minus the smallest log price over all venues, basis points"""
    return BPS * bars.column("venue_dispersion")


@feature("cross_exchange", lookback=2, input_run=1, inputs=BASIS, source="Schmeling, Schrimpf & Todorov 2023")
def basis(bars: Bars) -> FloatArray:
    """10,000 ln(own close / spot close), basis points"""
    return BPS * bars.column("basis")


@feature("cross_exchange", lookback=lambda n: n + 1, params=(days(1), days(7)), inputs=BASIS, source="definition")
def basis_zscore(bars: Bars, n: int) -> FloatArray:
    """z-score over n bars of the basis"""
    return zscore(bars.column("basis"), n)


@feature("cross_exchange", lookback=lambda n: n + 1, params=(days(1),), inputs=BASIS, source="definition")
def basis_mean(bars: Bars, n: int) -> FloatArray:
    """Mean over n bars of the basis, basis points"""
    return BPS * rolling_mean(bars.column("basis"), n)


@feature("cross_exchange", lookback=lambda n: n + 2, params=(hours(4),), inputs=BASIS, source="definition")
def basis_change(bars: Bars, n: int) -> FloatArray:
    """Change over n bars of the basis, basis points"""
    value = bars.column("basis")
    return BPS * (value - delay(value, n))


@feature("cross_exchange", lookback=1, inputs=FUNDING, source="definition")
def funding_rate(bars: Bars) -> FloatArray:
    """Last funding rate, basis points per payment"""
    return BPS * bars.column("funding_rate")


@feature("cross_exchange", lookback=lambda n: n, params=(days(3),), inputs=FUNDING, source="definition")
def funding_mean(bars: Bars, n: int) -> FloatArray:
    """Mean over n bars of the funding rate, basis points"""
    return BPS * rolling_mean(bars.column("funding_rate"), n)


@feature("cross_exchange", lookback=lambda n: n, params=(days(30),), inputs=FUNDING, source="definition")
def funding_zscore(bars: Bars, n: int) -> FloatArray:
    """z-score over n bars of the funding rate"""
    return zscore(bars.column("funding_rate"), n)


@feature("cross_exchange", lookback=2, input_run=1, inputs=("funding_rate", "basis"), source="Schmeling, Schrimpf & Todorov 2023")
def funding_arbitrage(bars: Bars) -> FloatArray:
    """Funding rate + basis: what selling the perpetual against spot earns if the basis closes by the next payment, bps"""
    return BPS * (bars.column("funding_rate") + bars.column("basis"))


@feature("cross_exchange", lookback=2, input_run=1, inputs=("triangle",), source="definition")
def triangular(bars: Bars) -> FloatArray:
    """10,000 ln(base/BTC x BTC/quote / own close): the mispricing of a round trip through BTC, basis points"""
    return BPS * bars.column("triangle")
