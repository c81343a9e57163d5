"""Where a study is kept: an Optuna database, written once per step of a trial and read when a search begins."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import OptunaError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from cryptoml.errors import ConfigError, CryptomlError
from cryptoml.training.search_config import OBJECTIVES, ObjectiveName

__all__ = ["INTERRUPTED", "StudyStorage", "stored_trials"]

INTERRUPTED = "interrupted"
"""Reason of trials that were running when their search was stopped; they are repeated."""
LOCK_SECONDS = 60


class StudyStorage:
    """One study in a database.

    Args:
        address: Optuna storage URL, such as `sqlite:///study.db`, or the path of an SQLite file, made if absent.
        name: Of the study; made if absent.
        objectives: By name.
        fresh: Delete what is there under this name.

    Raises:
        ConfigError: The storage cannot be written, or the study that it holds under this name has other objectives.
    """

    def __init__(self, address: str, name: str, objectives: Sequence[ObjectiveName], *, fresh: bool = False) -> None:
        self.address, self.name = _shown(address), name
        with self._errors(ConfigError):
            self._database = _open(address)
            if fresh and name in optuna.get_all_study_names(self._database):
                optuna.delete_study(study_name=name, storage=self._database)
            study = optuna.create_study(
                storage=self._database,
                study_name=name,
                directions=[OBJECTIVES[one] for one in objectives],
                load_if_exists=True,
            )
            found = study.user_attrs.get("objectives", list(objectives))
            if found != list(objectives) or len(study.directions) != len(objectives):
                raise ConfigError(f"objectives must be {found} as in study {name} of {self.address}, were {list(objectives)}")
            study.set_user_attr("objectives", list(objectives))
            self._id = self._database.get_study_id_from_name(name)

    def load(self) -> tuple[list[FrozenTrial], list[dict[str, Any]]]:
        """Return the finished trials, and the parameters of those that were running when their search was stopped.

        The latter are failed in the storage. Whatever was interrupted and not repeated since is to be repeated.
        """
        with self._errors():
            for trial in self._database.get_all_trials(self._id):
                if not trial.state.is_finished():
                    self._database.set_trial_user_attr(trial._trial_id, "reason", INTERRUPTED)
                    self._database.set_trial_state_values(trial._trial_id, TrialState.FAIL)
            trials = self._database.get_all_trials(self._id)
        tried = [trial.params for trial in trials if trial.user_attrs.get("reason") != INTERRUPTED]
        repeated: list[dict[str, Any]] = []
        for trial in trials:
            if trial.params and trial.params not in tried + repeated:
                repeated.append(trial.params)
        return trials, repeated

    def begin(self, trial: FrozenTrial) -> int:
        """Write a trial that starts; returns its id in the storage.

        Raises:
            ConfigError: The earlier trials are of another search space.
        """
        with self._errors():
            try:
                return self._database.create_new_trial(self._id, trial)
            except ValueError as error:
                raise ConfigError(f"search space must be that of the earlier trials of study {self.name}: {error}") from error

    def report(self, stored_id: int, step: int, value: float) -> None:
        """Write a trial's value after a step."""
        with self._errors():
            self._database.set_trial_intermediate_value(stored_id, step, value)

    def end(self, stored_id: int, trial: FrozenTrial) -> None:
        """Write how a trial ended."""
        with self._errors():
            for name, value in trial.user_attrs.items():
                self._database.set_trial_user_attr(stored_id, name, value)
            for name, value in trial.system_attrs.items():
                self._database.set_trial_system_attr(stored_id, name, value)
            self._database.set_trial_state_values(stored_id, trial.state, trial.values)

    @contextmanager
    def _errors(self, kind: type[CryptomlError] = CryptomlError) -> Iterator[None]:
        try:
            yield
        except (OptunaError, SQLAlchemyError, OSError, ImportError) as error:
            reason = " ".join(str(error.__cause__ or error).split())
            raise kind(f"storage {self.address} cannot be written: {reason}") from error


def stored_trials(address: str) -> list[tuple[list[str], list[FrozenTrial]]]:
    """Return the directions and the trials of every study in a storage.

    Raises:
        ConfigError: There is no such storage.
    """
    path = _file(address)
    if path is not None and not path.is_file():
        raise ConfigError(f"warm_start must name earlier studies, {_shown(address)} does not exist")
    try:
        database = _open(address)
        studies = optuna.get_all_study_summaries(database)
        return [([one.name.lower() for one in study.directions], database.get_all_trials(study._study_id)) for study in studies]
    except (OptunaError, SQLAlchemyError, OSError, ImportError) as error:
        raise ConfigError(f"warm_start {_shown(address)} cannot be read: {' '.join(str(error).split())}") from error


def _open(address: str) -> RDBStorage:
    path = _file(address)
    if path is None:
        return RDBStorage(address)
    path.parent.mkdir(parents=True, exist_ok=True)
    return RDBStorage(f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": LOCK_SECONDS}})


def _file(address: str) -> Path | None:
    """Return the path of an SQLite file; None for other databases."""
    if "://" not in address:
        return Path(address).absolute()
    url = make_url(address)
    return Path(url.database).absolute() if url.drivername.startswith("sqlite") and url.database else None


def _shown(address: str) -> str:
    """Return the address for messages, without a password."""
    return make_url(address).render_as_string(hide_password=True) if "://" in address else address
