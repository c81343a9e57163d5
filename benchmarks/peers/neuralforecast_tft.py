"""neuralforecast's TFT: a timed training step, and ETTh1 in a given time. Prints one JSON object.

python -m benchmarks.peers.neuralforecast_tft speed STEPS
python -m benchmarks.peers.neuralforecast_tft etth1 FILE SECONDS SEED
"""

import json
import sys
import time
from datetime import timedelta

import numpy as np
import pandas as pd
import pytorch_lightning
import torch
from neuralforecast import NeuralForecast
from neuralforecast.losses.pytorch import MQLoss
from neuralforecast.models import TFT

from benchmarks import etth1
from benchmarks.peers import running

__all__ = ["etth1_loss", "speed"]

_QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu", "devices": 1}


def speed(steps: int) -> dict[str, float]:
    """Seconds of a training step: the target and 49 other series of the past."""
    names = [f"x{index}" for index in range(running.INPUTS - 1)]
    model = TFT(
        h=running.HORIZONS,
        input_size=running.PAST,
        hist_exog_list=names,
        hidden_size=running.HIDDEN,
        n_head=running.HEADS,
        loss=MQLoss(level=[80]),
        **_QUIET,
    ).train()
    batch = {"insample_y": torch.randn(running.BATCH, running.PAST, 1), "futr_exog": None, "stat_exog": None}
    batch["hist_exog"] = torch.randn(running.BATCH, running.PAST, len(names))
    return {"step_seconds": running.step_seconds(model, lambda: model(batch)[..., [1, 0, 2]], steps)}


def etth1_loss(path: str, seconds: float, seed: int) -> dict[str, float]:
    """Test pinball loss after training for `seconds`; validates every 200 steps and keeps the best weights."""
    torch.set_num_threads(1)
    frame = etth1.read_etth1(path)
    table = frame.rename(columns={"date": "ds", etth1.TARGET: "y"}).assign(unique_id="ETTh1")
    model = TFT(
        h=etth1.HORIZON,
        input_size=etth1.HISTORY,
        hist_exog_list=[name for name in etth1.COLUMNS if name != etth1.TARGET],
        futr_exog_list=list(etth1.CALENDAR),
        hidden_size=32,
        n_head=4,
        loss=MQLoss(level=[80]),
        learning_rate=1e-3,
        windows_batch_size=64,
        max_steps=10**6,
        num_lr_decays=0,
        val_check_steps=200,
        random_seed=seed,
        max_time=timedelta(seconds=seconds),
        num_sanity_val_steps=0,
        callbacks=[running.best_of(pytorch_lightning.Callback, "valid_loss")],
        **_QUIET,
    )
    began = time.perf_counter()
    forecasts = NeuralForecast(models=[model], freq="h").cross_validation(
        table,
        val_size=etth1.VALIDATION.stop - etth1.VALIDATION.start,
        test_size=etth1.TEST.stop - etth1.TEST.start,
        n_windows=None,
        step_size=1,
    )
    loss = etth1.pinball(frame[etth1.TARGET].to_numpy(), _quantiles(forecasts), etth1.TEST)
    return {"pinball": loss, "seconds_with_prediction": time.perf_counter() - began}


def _quantiles(forecasts: pd.DataFrame) -> np.ndarray:
    ordered = forecasts.sort_values(["cutoff", "ds"])
    low, middle, high = (next(name for name in ordered if name.startswith(start)) for start in ("TFT-lo", "TFT-median", "TFT-hi"))
    return ordered[[low, middle, high]].to_numpy().reshape(-1, etth1.HORIZON, 3)


if __name__ == "__main__":
    job, *rest = sys.argv[1:]
    result = speed(int(rest[0])) if job == "speed" else etth1_loss(rest[0], float(rest[1]), int(rest[2]))
    sys.stdout.write("\n" + json.dumps(result) + "\n")
