"""What each training run may use, of an ensemble member or of a trial of a search, and how it deals with failures."""

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["WorkerConfig"]


class WorkerConfig(BaseModel):
    """Resources and fault tolerance of one training run; nothing here but `num_workers` changes what is fitted."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    num_workers: int = Field(1, ge=1, description="Data-parallel workers of one member; n of them learn from n-fold batches")
    cpus: float = Field(1.0, gt=0, description="CPUs of one worker, and its threads")
    gpus: float = Field(0.0, ge=0, description="GPUs of one worker; a fraction lets several members share one")
    max_failures: int = Field(2, ge=0, description="Lost workers (crash, out of memory, node) from which one run recovers")
    max_concurrent: int | None = Field(None, ge=1, description="Members fitted at once; None is as many as the cluster holds")
    cluster_can_grow: bool = Field(False, description="An autoscaler may add nodes: wait for what the cluster lacks now")
    keep_checkpoints: bool = Field(False, description="Keep the resumable checkpoint of a finished run beside its fitted member")

    @model_validator(mode="after")
    def _gpus_can_be_given(self) -> Self:
        if self.gpus > 1 and self.gpus % 1:
            raise ValueError(f"gpus must be a fraction of one GPU or a whole number, was {self.gpus}")
        if self.num_workers > 1 and 0 < self.gpus < 1:
            raise ValueError(
                f"gpus must be at least 1 where num_workers is {self.num_workers}: the workers of one member "
                f"exchange gradients and cannot share a GPU, was {self.gpus}"
            )
        return self

    @property
    def threads(self) -> int:
        """Threads with which one worker computes."""
        return max(1, int(self.cpus))
