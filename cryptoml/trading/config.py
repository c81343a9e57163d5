"""The settings of a trading decision."""

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["CostConfig", "TradingConfig"]


class CostConfig(BaseModel):
    """What trading costs, per side, in bps of traded notional; 5 bps in all is a retail taker on perpetuals."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    fee_bps: float = Field(default=4.0, ge=0, description="Exchange fee per side in bps of notional")
    half_spread_bps: float = Field(default=0.5, ge=0, description="Half of the quoted spread per side in bps of notional")
    slippage_bps: float = Field(default=0.5, ge=0, description="Expected slippage per side in bps of notional")

    @property
    def side_bps(self) -> float:
        """Cost of one side in bps of notional."""
        return self.fee_bps + self.half_spread_bps + self.slippage_bps

    @property
    def round_trip(self) -> float:
        """Cost of opening and closing as a fraction of notional."""
        return 2e-4 * self.side_bps


class TradingConfig(BaseModel):
    """How a forecast becomes an order, in the backtest and live alike.

    Every position is a signed fraction of equity. Chance over three classes is 1/3, which is what confidences are read
    against.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    min_confidence: float = Field(default=0.35, ge=0, le=1, description="Least calibrated probability of the traded direction")
    position_size: float = Field(
        default=0.02, gt=0, le=1, description="Fraction of equity per symbol at min_confidence and target_volatility"
    )
    max_position: float = Field(default=0.05, gt=0, description="Largest fraction of equity per symbol, long or short")
    max_gross: float = Field(default=1.0, gt=0, description="Largest sum of absolute positions over symbols, fraction of equity")
    target_volatility: float = Field(default=0.6, gt=0, description="Annualised volatility at which the base size is taken")
    stop_loss_multiple: float = Field(default=1.5, gt=0, description="Stop distance in units of the volatility over the horizon")
    take_profit_multiple: float = Field(
        default=2.5, gt=0, description="Profit target in units of the volatility over the horizon"
    )
    stop_loss_pct: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Fixed stop distance, fraction of price, for the multiple; from min_stop_pct to max_stop_pct",
    )
    take_profit_pct: float | None = Field(
        default=None, gt=0, description="Fixed target distance, fraction of price, for the multiple; min_stop_pct at least"
    )
    min_stop_pct: float = Field(default=0.002, gt=0, lt=1, description="Nearest stop or target, as a fraction of price")
    max_stop_pct: float = Field(default=0.25, gt=0, lt=1, description="Farthest stop, as a fraction of price")
    costs: CostConfig = CostConfig()
    cost_multiple: float = Field(
        default=1.0, ge=0, description="The expected edge must exceed the round-trip cost this many times"
    )
    move_ratio: float = Field(
        default=1.14, gt=0, description="Mean UP or DOWN move in units of predicted volatility (1.14: Gaussian beyond 0.5)"
    )
    allow_short: bool = Field(default=True, description="Whether SELL opens a short; if not it only goes flat")
    holding_bars: int | None = Field(
        default=None, ge=1, description="Bars each decision's tranche is held; None takes the forecast horizon, 1 trades it whole"
    )
    drawdown_brake: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Drawdown at which positions are down to a tenth, in proportion from the peak on; None for no brake",
    )

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if self.position_size > self.max_position:
            raise ValueError(f"position_size must be at most max_position {self.max_position}, was {self.position_size}")
        if self.min_stop_pct > self.max_stop_pct:
            raise ValueError(f"min_stop_pct must be at most max_stop_pct {self.max_stop_pct}, was {self.min_stop_pct}")
        return self

    @model_validator(mode="after")
    def _fixed_distances_are_allowed(self) -> Self:
        nearest, farthest, stop, take = self.min_stop_pct, self.max_stop_pct, self.stop_loss_pct, self.take_profit_pct
        if stop is not None and not nearest <= stop <= farthest:
            raise ValueError(f"stop_loss_pct must be within min_stop_pct {nearest} and max_stop_pct {farthest}, was {stop}")
        if take is not None and take < nearest:
            raise ValueError(f"take_profit_pct must be at least min_stop_pct {nearest}, was {take}")
        return self
