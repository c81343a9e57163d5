"""Settings of the built-in market."""

from datetime import UTC, datetime

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

__all__ = ["MarketConfig"]

PerRegime = tuple[float, float, float, float]


class MarketConfig(BaseModel):
    """What the built-in market looks like; the defaults are tuned for a horizon of 24 bars of 1 h.

    "Sigma" below is the asset's true volatility of one bar at that instant; tuples are in the order BULL, BEAR, RANGING,
    HIGH_VOL.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    num_assets: int = Field(6, ge=1, description="Number of symbols.")
    num_bars: int = Field(10_000, ge=2, description="Number of bars of every symbol.")
    timeframe: str = Field("1h", description="Length of a bar.")
    start: AwareDatetime = Field(datetime(2021, 1, 1, tzinfo=UTC), description="Open of the first bar.")
    seed: int = Field(0, ge=0, description="Seed of every random draw.")

    flow_strength: float = Field(
        0.28, ge=0, le=1, description="Mean return per bar, in sigmas, per unit of order-flow imbalance."
    )
    flow_half_life_bars: float = Field(24.0, gt=0, description="Half-life of the order-flow imbalance, in bars.")
    flow_share: float = Field(
        0.05, gt=0, le=0.09, description="Deviation of the taker-buy share of volume from 1/2 per unit of imbalance."
    )
    lead_lag_strength: float = Field(
        0.13, ge=0, le=0.5, description="Mean return per bar, in sigmas, per unit of the leaders' trailing return."
    )
    lead_lag_half_life_bars: float = Field(16.0, gt=0, description="Half-life of the leaders' trailing return, in bars.")
    leader_fraction: float = Field(
        1 / 3, gt=0, lt=1, description="Share of assets that lead; the rest follow one or two of them."
    )

    base_volatility: float = Field(0.006, gt=0, le=0.1, description="Typical volatility of one bar, log-return.")
    market_share: float = Field(
        0.3, ge=0, lt=1, description="Share of each asset's noise variance that all assets have in common."
    )
    tail_degrees: float = Field(5.0, gt=2, description="Degrees of freedom of the Student-t shocks.")
    log_volatility_std: float = Field(0.15, ge=0, le=0.5, description="Standard deviation of log volatility within a regime.")
    log_volatility_half_life_bars: float = Field(120.0, gt=0, description="Half-life of log volatility, in bars.")
    reversion_bars: float = Field(
        4_000.0, gt=100, description="Bars in which log price is pulled back to its start by a factor e; keeps prices in range."
    )

    regime_duration_bars: PerRegime = Field((250.0, 250.0, 250.0, 150.0), description="Mean duration of each regime, in bars.")
    regime_drift: PerRegime = Field((0.04, -0.04, 0.0, 0.0), description="Mean return per bar of each regime, in sigmas.")
    regime_volatility: PerRegime = Field(
        (0.77, 1.08, 0.5, 1.75), description="Factor of each regime on volatility; falling markets are louder (Black 1976)."
    )

    with_tables: bool = Field(True, description="Make funding, on-chain, order-book and second-venue tables too.")
    orderbook_assets: int = Field(8, ge=0, description="The first so many symbols have order-book snapshots, one per bar.")
