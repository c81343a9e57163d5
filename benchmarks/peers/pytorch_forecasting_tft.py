"""pytorch-forecasting's TFT: a timed training step, and ETTh1 in a given time. Prints one JSON object.

python -m benchmarks.peers.pytorch_forecasting_tft speed STEPS
python -m benchmarks.peers.pytorch_forecasting_tft etth1 FILE SECONDS SEED
"""

import json
import sys
import time
from datetime import timedelta

import lightning.pytorch
import numpy as np
import pandas as pd
import torch
from pytorch_forecasting import TemporalFusionTransformer, TimeSeriesDataSet
from pytorch_forecasting.metrics import QuantileLoss

from benchmarks import etth1
from benchmarks.peers import running

__all__ = ["etth1_loss", "speed"]


def speed(steps: int) -> dict[str, float]:
    """Seconds of a training step: 50 series of the past, of which one is also known ahead (the network demands one)."""
    names = [f"x{index}" for index in range(running.INPUTS)]
    model = TemporalFusionTransformer(
        hidden_size=running.HIDDEN,
        attention_head_size=running.HEADS,
        max_encoder_length=running.PAST,
        output_size=3,
        loss=QuantileLoss(list(running.QUANTILES)),
        x_reals=names,
        time_varying_reals_encoder=names,
        time_varying_reals_decoder=names[:1],
        output_transformer=lambda out: out["prediction"],
    ).train()
    batch, past, ahead = running.BATCH, running.PAST, running.HORIZONS
    inputs = {
        "encoder_cat": torch.zeros(batch, past, 0, dtype=torch.long),
        "decoder_cat": torch.zeros(batch, ahead, 0, dtype=torch.long),
        "encoder_cont": torch.randn(batch, past, len(names)),
        "decoder_cont": torch.randn(batch, ahead, len(names)),
        "encoder_lengths": torch.full((batch,), past),
        "decoder_lengths": torch.full((batch,), ahead),
        "target_scale": torch.tensor([[0.0, 1.0]]).expand(batch, -1),
    }
    return {"step_seconds": running.step_seconds(model, lambda: model(inputs)["prediction"], steps)}


def etth1_loss(path: str, seconds: float, seed: int) -> dict[str, float]:
    """Test pinball loss after training for `seconds`; validates every 200 steps and keeps the best weights."""
    torch.set_num_threads(1)
    lightning.pytorch.seed_everything(seed)
    frame = etth1.read_etth1(path)
    table = frame.assign(series="ETTh1", time_idx=np.arange(len(frame)))
    training = _dataset(table.iloc[etth1.TRAIN])
    validation, test = (_following(training, table, rows) for rows in (etth1.VALIDATION, etth1.TEST))
    model = TemporalFusionTransformer.from_dataset(
        training, hidden_size=32, attention_head_size=4, loss=QuantileLoss(list(etth1.QUANTILES)), learning_rate=1e-3
    )
    trainer = lightning.pytorch.Trainer(
        max_time=timedelta(seconds=seconds),
        max_epochs=10**6,
        accelerator="cpu",
        gradient_clip_val=0.1,
        val_check_interval=200,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[running.best_of(lightning.pytorch.Callback, "val_loss")],
    )
    began = time.perf_counter()
    loaders = (data.to_dataloader(train=data is training, batch_size=size) for data, size in ((training, 64), (validation, 256)))
    trainer.fit(model, *loaders)
    quiet = {"logger": False, "enable_progress_bar": False, "accelerator": "cpu"}
    forecasts = model.predict(test.to_dataloader(train=False, batch_size=256), mode="quantiles", trainer_kwargs=quiet)
    loss = etth1.pinball(frame[etth1.TARGET].to_numpy(), forecasts.numpy(), etth1.TEST)
    return {"pinball": loss, "seconds_with_prediction": time.perf_counter() - began}


def _dataset(table: pd.DataFrame) -> TimeSeriesDataSet:
    return TimeSeriesDataSet(
        table,
        time_idx="time_idx",
        target=etth1.TARGET,
        group_ids=["series"],
        min_encoder_length=etth1.HISTORY,
        max_encoder_length=etth1.HISTORY,
        max_prediction_length=etth1.HORIZON,
        time_varying_known_reals=list(etth1.CALENDAR),
        time_varying_unknown_reals=list(etth1.COLUMNS),
    )


def _following(training: TimeSeriesDataSet, table: pd.DataFrame, rows: slice) -> TimeSeriesDataSet:
    """Return every window whose forecast lies within `rows`, its history before them."""
    return TimeSeriesDataSet.from_dataset(training, table.iloc[rows.start - etth1.HISTORY : rows.stop], stop_randomization=True)


if __name__ == "__main__":
    job, *rest = sys.argv[1:]
    result = speed(int(rest[0])) if job == "speed" else etth1_loss(rest[0], float(rest[1]), int(rest[2]))
    sys.stdout.write("\n" + json.dumps(result) + "\n")
