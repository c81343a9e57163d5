"""Time, the chain, microstructure and other venues."""

import calendar
import math

import numpy as np

from tests.features.naive.window import correlation, mean, products, ratio, smooth, span, zscore


def hour(w):
    return w.stamp.hour + w.stamp.minute / 60


def turn(part, whole):
    return 2 * math.pi * part / whole


def week(w):
    return turn(w.stamp.weekday() + hour(w) / 24, 7)


def month_day(w):
    return turn(w.stamp.day - 1, calendar.monthrange(w.stamp.year, w.stamp.month)[1])


def quarter(w):
    return turn((w.stamp.month - 1) // 3, 4)


TIME = {
    "hour_sin": lambda w: math.sin(turn(hour(w), 24)),
    "hour_cos": lambda w: math.cos(turn(hour(w), 24)),
    "day_of_week_sin": lambda w: math.sin(week(w)),
    "day_of_week_cos": lambda w: math.cos(week(w)),
    "day_of_month_sin": lambda w: math.sin(month_day(w)),
    "day_of_month_cos": lambda w: math.cos(month_day(w)),
    "month_sin": lambda w: math.sin(turn(w.stamp.month - 1, 12)),
    "month_cos": lambda w: math.cos(turn(w.stamp.month - 1, 12)),
    "quarter_sin": lambda w: math.sin(quarter(w)),
    "quarter_cos": lambda w: math.cos(quarter(w)),
    "is_weekend": lambda w: float(w.stamp.weekday() >= 5),
    "us_session": lambda w: float(13.5 <= hour(w) < 20 and w.stamp.weekday() < 5),
    "funding_cycle": lambda w: hour(w) % 8 / 8,
}


def grown(metric):
    return lambda w, n: math.log(w[f"onchain_{metric}"][-1] / w[f"onchain_{metric}"][-1 - n])


def scored(column):
    return lambda w, n: zscore(w[column][-n:])


def net_flows(w):
    pairs = zip(w["onchain_exchange_inflows"], w["onchain_exchange_outflows"], strict=True)
    return np.array([ratio(given - taken, given + taken, 0.0) for given, taken in pairs])


ONCHAIN = {
    "whale_zscore": scored("onchain_whale_movements"),
    "inflow_zscore": scored("onchain_exchange_inflows"),
    "outflow_zscore": scored("onchain_exchange_outflows"),
    "net_flow": lambda w: net_flows(w)[-1],
    "net_flow_zscore": lambda w, n: zscore(net_flows(w)[-n:]),
    "active_addresses_change": grown("active_addresses"),
    "active_addresses_zscore": scored("onchain_active_addresses"),
    "transactions_change": grown("transaction_count"),
    "transactions_zscore": scored("onchain_transaction_count"),
    "fees_zscore": scored("onchain_gas_fees"),
    "transactions_per_address": lambda w: math.log(w["onchain_transaction_count"][-1] / w["onchain_active_addresses"][-1]),
    "stablecoin_supply_change": grown("stablecoin_supply"),
    "long_term_holder_change": grown("long_term_holder_supply"),
    "exchange_supply_change": grown("exchange_supply"),
    "exchange_share": lambda w: w["onchain_exchange_supply"][-1] / w["onchain_current_supply"][-1],
}


def taken(w):
    return 2 * w["taker_buy_volume"] - w.v


def imbalances(w):
    return np.array([ratio(net, volume, 0.0) for net, volume in zip(taken(w), w.v, strict=True)])


def impact(w, n):
    return ratio(math.fsum(np.abs(w.r[-n:])), math.fsum((w.c * w.v)[-n:]))


def roll_spread(w, n):
    return 2 * math.sqrt(max(-products(w.r[-n:], w.r[-n - 1 : -1]) / max(n - 1, 1), 0.0))


def newest(column, scale=1.0):
    return lambda w: scale * w[column][-1]


MICROSTRUCTURE = {
    "taker_imbalance": lambda w, n: ratio(math.fsum(taken(w)[-n:]), math.fsum(w.v[-n:]), 0.0),
    "taker_imbalance_ema": lambda w, n: smooth(imbalances(w), span(n)),
    "taker_imbalance_zscore": lambda w, n: zscore(imbalances(w)[-n:]),
    "flow_impact": lambda w, n: correlation(w.r[-n:], imbalances(w)[-n:], 0.0),
    "illiquidity": lambda w, n, m: math.log(ratio(impact(w, n), impact(w, m))),
    "roll_spread": roll_spread,
    **{f"book_imbalance_{depth}": newest(f"book_imbalance_{depth}") for depth in (1, 5, 10, 20)},
    "book_imbalance_mean": lambda w, n: mean(w["book_imbalance_5"][-n:]),
    "relative_spread": newest("book_spread"),
    "spread_ratio": lambda w, n: math.log(w["book_spread"][-1] / mean(w["book_spread"][-n:])),
    "depth_ratio": newest("book_depth"),
    "microprice": newest("book_microprice"),
    "trade_flow_imbalance": newest("trade_flow"),
}


def moved(column):
    return lambda w, n: 1e4 * (w[column][-1] - w[column][-1 - n])


CROSS_EXCHANGE = {
    "price_difference": newest("venue_premium", 1e4),
    "price_difference_zscore": scored("venue_premium"),
    "venue_lead": moved("venue_premium"),
    "dispersion": newest("venue_dispersion", 1e4),
    "basis": newest("basis", 1e4),
    "basis_zscore": scored("basis"),
    "basis_mean": lambda w, n: 1e4 * mean(w["basis"][-n:]),
    "basis_change": moved("basis"),
    "funding_rate": newest("funding_rate", 1e4),
    "funding_mean": lambda w, n: 1e4 * mean(w["funding_rate"][-n:]),
    "funding_zscore": scored("funding_rate"),
    "funding_arbitrage": lambda w: 1e4 * (w["funding_rate"][-1] + w["basis"][-1]),
    "triangular": newest("triangle", 1e4),
}
