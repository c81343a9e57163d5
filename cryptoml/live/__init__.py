"""A bundle at work on live candles: predictor, and the face that a trading bot uses."""
