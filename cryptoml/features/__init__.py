"""Point-in-time features, their scaling, and the targets that forecasters learn.

Start at `contract.py` (what a feature is), then `engineer.py` (how all of them are computed); one module per category
holds the formulas.
"""
