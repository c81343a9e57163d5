"""Networks: encoders, the graph across assets, multi-task heads, the forecaster, the ensemble and its bundle."""
