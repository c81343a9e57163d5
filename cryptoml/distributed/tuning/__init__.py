"""A search on the cluster: Ray Tune runs the plain trials of a study, whose Optuna proposes and prunes them."""
