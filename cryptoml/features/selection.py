"""Choices among features: by pattern for runs that must be quick, by category for members that differ."""

from collections.abc import Collection, Sequence

from cryptoml.errors import ConfigError
from cryptoml.features.contract import category_of
from cryptoml.features.regimes import REGIME_LEVEL

__all__ = ["CORE_FEATURES", "columns_of"]

CORE_FEATURES: tuple[str, ...] = (
    "price_scaled_return_*",
    "price_sma_distance_25",
    "price_sma_distance_200",
    "price_zscore_close_50",
    "price_range_position_100",
    "price_drawdown_7d",
    "price_close_location",
    "volume_ratio_20",
    "volume_trend_1d_7d",
    "volume_obv_50",
    "volume_mfi_14",
    "volume_vwap_distance_7d",
    "volatility_historical_24h",
    "volatility_historical_20d",
    "volatility_ratio_6h_1d",
    "volatility_ratio_1d_5d",
    "volatility_downside_share_5d",
    "volatility_jump_share_1d",
    "momentum_rsi_14",
    "momentum_macd_12_26_9",
    "momentum_macd_histogram_12_26_9",
    "momentum_cci_20",
    "momentum_t_statistic_*",
    "pattern_body_ratio",
    "pattern_streak",
    "regime_adx_14",
    "regime_directional_index_28",
    "regime_efficiency_ratio_1d",
    "regime_autocorrelation_5d",
    "regime_volatility_position_*",
    "time_hour_*",
    "time_day_of_week_*",
    "time_is_weekend",
    "microstructure_taker_imbalance_1",
    "microstructure_taker_imbalance_ema_*",
    "microstructure_book_imbalance_5",
    "microstructure_book_imbalance_20",
    "microstructure_illiquidity_*",
    "onchain_net_flow_zscore_*",
    "onchain_active_addresses_zscore_*",
    "cross_exchange_price_difference_zscore_1d",
    "cross_exchange_basis_zscore_7d",
    "cross_exchange_funding_mean_3d",
    "cross_section_rank_return_1d",
    "cross_section_deviation_return_4h",
    "cross_section_rank_volatility_1d",
    "cross_section_beta_market_20d",
    "cross_section_trailing_return_*",
    "cross_section_market_lead_*",
    "cross_section_leader_lead_16h",
    "cross_section_peer_lead_*",
    "cross_section_breadth_1d",
    "cross_section_market_return_1",
    "cross_section_market_loudness_*",
    "cross_section_market_range_80d",
    "cross_section_market_trend_*",
)
"""One or two features for each idea in the catalogue, by pattern; about sixty in all."""


def columns_of(names: Sequence[str], categories: Collection[str]) -> tuple[int, ...]:
    """Return the positions of the features of some categories that encoders read.

    Raises:
        ConfigError: No feature is of one of the categories.
    """
    found = [category_of(name) for name in names]
    for category in categories:
        if category not in found:
            raise ConfigError(f"feature groups must be among those of the data, {sorted(set(found))}, was {category!r}")
    return tuple(index for index, category in enumerate(found) if category in categories and names[index] != REGIME_LEVEL)
