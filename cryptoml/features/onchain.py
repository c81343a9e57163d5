"""On-chain features: changes, z-scores and ratios of the base asset's chain, as known at the bar's close.

Columns (`onchain_*`) are the last value readable at the close; see `joins.py`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cryptoml.features.contract import Bars, days, feature
from cryptoml.features.rolling import delay, safe_ratio, zscore

__all__ = ["METRICS", "METRIC_ALIASES", "OnChainMetrics"]

FloatArray = NDArray[np.float64]
GLASSNODE = "Glassnode metric glossary"
MONTH = days(30)
WEEK = days(7)

METRIC_ALIASES = {
    "AdrActCnt": "active_addresses",
    "TxCnt": "transaction_count",
    "FeeTotNtv": "gas_fees",
    "FlowInExNtv": "exchange_inflows",
    "FlowOutExNtv": "exchange_outflows",
    "SplyExNtv": "exchange_supply",
    "SplyCur": "current_supply",
}
"""Coin Metrics names of what these features read."""


@dataclass(frozen=True)
class OnChainMetrics:
    """One reading of the chain, known from now on; missing figures are NaN.

    Attributes:
        whale_movements: Transfers by large wallets, native units.
        exchange_inflows: Native units sent to exchanges.
        exchange_outflows: Native units withdrawn from exchanges.
        active_addresses: Addresses seen.
        transaction_count: Transactions.
        gas_fees: Fees paid, native units.
        stablecoin_supply: Stablecoins in circulation, USD.
        long_term_holder_supply: Native units that have not moved for about half a year.
        exchange_supply: Native units held by exchanges.
        current_supply: Native units issued.
    """

    whale_movements: float = np.nan
    exchange_inflows: float = np.nan
    exchange_outflows: float = np.nan
    active_addresses: float = np.nan
    transaction_count: float = np.nan
    gas_fees: float = np.nan
    stablecoin_supply: float = np.nan
    long_term_holder_supply: float = np.nan
    exchange_supply: float = np.nan
    current_supply: float = np.nan


METRICS = tuple(OnChainMetrics.__dataclass_fields__)


def _change(bars: Bars, metric: str, n: int) -> FloatArray:
    """`ln(x_t / x_{t-n})`."""
    level = np.log(bars.column(f"onchain_{metric}"))
    return level - delay(level, n)


def _zscore(bars: Bars, metric: str, n: int) -> FloatArray:
    return zscore(bars.column(f"onchain_{metric}"), n)


@feature("onchain", lookback=lambda n: n, params=(MONTH,), inputs=("onchain_whale_movements",), source=GLASSNODE)
def whale_zscore(bars: Bars, n: int) -> FloatArray:
    """z-score over n bars of whale movements"""
    return _zscore(bars, "whale_movements", n)


@feature("onchain", lookback=lambda n: n, params=(MONTH,), inputs=("onchain_exchange_inflows",), source=GLASSNODE)
def inflow_zscore(bars: Bars, n: int) -> FloatArray:
    """z-score over n bars of flows into exchanges"""
    return _zscore(bars, "exchange_inflows", n)


@feature("onchain", lookback=lambda n: n, params=(MONTH,), inputs=("onchain_exchange_outflows",), source=GLASSNODE)
def outflow_zscore(bars: Bars, n: int) -> FloatArray:
    """z-score over n bars of flows out of exchanges"""
    return _zscore(bars, "exchange_outflows", n)


FLOWS = ("onchain_exchange_inflows", "onchain_exchange_outflows")


def _net_flow(bars: Bars) -> FloatArray:
    inflow, outflow = (bars.column(name) for name in FLOWS)
    return safe_ratio(inflow - outflow, inflow + outflow, 0.0)


@feature("onchain", lookback=1, inputs=FLOWS, source=GLASSNODE)
def net_flow(bars: Bars) -> FloatArray:
    """(inflow - outflow) / (inflow + outflow) of exchanges"""
    return _net_flow(bars)


@feature("onchain", lookback=lambda n: n, params=(MONTH,), inputs=FLOWS, source=GLASSNODE)
def net_flow_zscore(bars: Bars, n: int) -> FloatArray:
    """z-score over n bars of the net flow"""
    return zscore(_net_flow(bars), n)


@feature("onchain", lookback=lambda n: n + 1, params=(WEEK,), inputs=("onchain_active_addresses",), source=GLASSNODE)
def active_addresses_change(bars: Bars, n: int) -> FloatArray:
    """ln change over n bars of active addresses"""
    return _change(bars, "active_addresses", n)


@feature("onchain", lookback=lambda n: n, params=(MONTH,), inputs=("onchain_active_addresses",), source=GLASSNODE)
def active_addresses_zscore(bars: Bars, n: int) -> FloatArray:
    """z-score over n bars of active addresses"""
    return _zscore(bars, "active_addresses", n)


@feature("onchain", lookback=lambda n: n + 1, params=(WEEK,), inputs=("onchain_transaction_count",), source=GLASSNODE)
def transactions_change(bars: Bars, n: int) -> FloatArray:
    """ln change over n bars of transactions"""
    return _change(bars, "transaction_count", n)


@feature("onchain", lookback=lambda n: n, params=(MONTH,), inputs=("onchain_transaction_count",), source=GLASSNODE)
def transactions_zscore(bars: Bars, n: int) -> FloatArray:
    """z-score over n bars of transactions"""
    return _zscore(bars, "transaction_count", n)


@feature("onchain", lookback=lambda n: n, params=(MONTH,), inputs=("onchain_gas_fees",), source=GLASSNODE)
def fees_zscore(bars: Bars, n: int) -> FloatArray:
    """z-score over n bars of fees"""
    return _zscore(bars, "gas_fees", n)


@feature("onchain", lookback=1, inputs=("onchain_transaction_count", "onchain_active_addresses"), source=GLASSNODE)
def transactions_per_address(bars: Bars) -> FloatArray:
    """ln(transactions / active addresses)"""
    return np.log(bars.column("onchain_transaction_count") / bars.column("onchain_active_addresses"))


@feature("onchain", lookback=lambda n: n + 1, params=(WEEK, MONTH), inputs=("onchain_stablecoin_supply",), source=GLASSNODE)
def stablecoin_supply_change(bars: Bars, n: int) -> FloatArray:
    """ln change over n bars of the stablecoin supply"""
    return _change(bars, "stablecoin_supply", n)


@feature("onchain", lookback=lambda n: n + 1, params=(MONTH,), inputs=("onchain_long_term_holder_supply",), source=GLASSNODE)
def long_term_holder_change(bars: Bars, n: int) -> FloatArray:
    """ln change over n bars of the supply held by long-term holders"""
    return _change(bars, "long_term_holder_supply", n)


@feature("onchain", lookback=lambda n: n + 1, params=(WEEK, MONTH), inputs=("onchain_exchange_supply",), source=GLASSNODE)
def exchange_supply_change(bars: Bars, n: int) -> FloatArray:
    """ln change over n bars of the supply held by exchanges"""
    return _change(bars, "exchange_supply", n)


@feature("onchain", lookback=1, inputs=("onchain_exchange_supply", "onchain_current_supply"), source=GLASSNODE)
def exchange_share(bars: Bars) -> FloatArray:
    """Supply held by exchanges / supply issued"""
    return safe_ratio(bars.column("onchain_exchange_supply"), bars.column("onchain_current_supply"))
