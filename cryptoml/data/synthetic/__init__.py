"""The built-in market: synthetic candles and tables with a planted signal whose best possible accuracy is computable.

Read `dynamics` for what is planted and how, `market` for how the parts are put together, `oracle` for the ceiling.
"""

from cryptoml.data.synthetic.config import MarketConfig
from cryptoml.data.synthetic.dynamics import REGIMES
from cryptoml.data.synthetic.market import SyntheticMarket, synthetic_market
from cryptoml.data.synthetic.oracle import DirectionCeiling

__all__ = [
    "REGIMES",
    "DirectionCeiling",
    "MarketConfig",
    "SyntheticMarket",
    "synthetic_market",
]
