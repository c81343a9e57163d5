"""Honest figures: metrics, backtest after costs, baselines on the same bars, intervals, and the report.

Start at `protocol.evaluate`, which every candidate, ensemble or baseline, goes through alike.
"""
