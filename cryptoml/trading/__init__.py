"""From forecast to order: ONE decision path, used by the backtest and live alike.

`forecasts` is what the path takes, `signals` decides, `sizing` and `stops` give the numbers, `description` words them.
"""
