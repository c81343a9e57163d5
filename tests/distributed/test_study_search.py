"""A study as Ray Tune sees it, without a cluster: what a trial's last report becomes."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from ray.tune.experiment import Trial
from ray.tune.utils import flatten_dict

from cryptoml.distributed.tuning.reports import epoch_report, outcome_report
from cryptoml.distributed.tuning.search import StudyArrays, StudyPruning, StudySearch
from cryptoml.training.search_config import SearchConfig
from cryptoml.training.study import Study
from cryptoml.training.trial import attempt
from tests.distributed.objectives import suggest


def test_arrays_reach_the_study_and_not_tunes_own_records(tmp_path: Path) -> None:
    study = Study(suggest, SearchConfig(num_trials=1), 3, folder=tmp_path)
    search = StudySearch(study, {"CPU": 1.0})
    pruning, trial = StudyPruning(search), cast(Trial, SimpleNamespace(trial_id="first"))
    parameters = search.suggest("first")
    pruning.on_trial_result(None, trial, epoch_report(1, 0.5, 0.0))

    def objective(parameters: Any, report: Any, worker: Any) -> dict[str, Any]:
        return {"loss": parameters["x"], "returns": np.arange(3.0)}

    result = outcome_report(attempt(objective, parameters, lambda step, value: None))
    pruning.on_trial_result(None, trial, flatten_dict(result))
    StudyArrays(search).on_trial_result(1, [trial], trial, result)
    assert "arrays" not in result
    search.on_trial_complete("first", result)
    assert study.trials[0].values == {"loss": parameters["x"]}
    np.testing.assert_array_equal(study.arrays("returns")[0], [0.0, 1.0, 2.0])
