"""A small correction of a model's forecasts, learned from the newest bars of a regime; kept beside the bundle it belongs to."""

import hashlib
import json
import math
from pathlib import Path
from typing import Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from cryptoml.data.run_folder import publish_file
from cryptoml.errors import BundleError
from cryptoml.models.adapter import Knobs

__all__ = ["Adaptation", "finite_or_none"]


class Adaptation(BaseModel):
    """What `Predictor.adapt` learned. Immutable; it holds three numbers and no weights, and knows the model it corrects.

    Where it was not accepted its knobs are 0: the forecasts stay as they are.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(description="Version of the bundle that it corrects")
    symbols: tuple[str, ...] = Field(min_length=1, description="Symbols whose bars taught it, and whose forecasts it moves")
    regime: str = Field(description="Name of the regime: the caller's, or the most probable one at the newest bar")
    start: AwareDatetime = Field(description="Open of the first bar that taught it, UTC")
    end: AwareDatetime = Field(description="Open of the newest bar that taught it, UTC")
    num_bars: int = Field(ge=1, description="Bars from start to end")
    num_labels: int = Field(ge=0, description="Returns within them, over all symbols and horizons")
    accepted: bool = Field(description="Whether the loss on held-back bars did not rise")
    loss_before: FiniteFloat | None = Field(description="Mean loss per independent return on held-back bars, unadapted")
    loss_after: FiniteFloat | None = Field(description="The same, adapted; None where it was not finite")
    reason: str = Field(description="Why it was accepted, or not, in one line")
    drift: FiniteFloat = Field(description="Mean return per bar that was missed, in sigmas")
    volatility: FiniteFloat = Field(description="Log of the ratio of the volatility met to the one forecast")
    strength: FiniteFloat = Field(description="Log of the factor on the model's own signal")

    @property
    def id(self) -> str:
        """Twelve hex digits of the content's SHA-256: equal adaptations have equal ids."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:12]

    @property
    def knobs(self) -> Knobs:
        """What the forecasts are moved by."""
        return Knobs(self.drift, self.volatility, self.strength)

    def to_json(self) -> str:
        """Return a JSON object of all fields and the id."""
        return json.dumps({"id": self.id, **self.model_dump(mode="json")}, indent=1)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read what `to_json` wrote.

        Raises:
            BundleError: It is damaged; the message names the field.
        """
        try:
            fields = json.loads(text)
            claimed = fields.pop("id") if isinstance(fields, dict) else None
            found = cls.model_validate(fields)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"])) or "adaptation"
            raise BundleError(f"adaptation: {place}: {first['msg']}, was {first.get('input')!r}") from None
        except KeyError:
            raise BundleError("adaptation: id must be there, was missing") from None
        except ValueError as error:
            raise BundleError(f"adaptation: not JSON: {error}") from None
        if found.id != claimed:
            raise BundleError(f"adaptation: id must be {found.id}, as its content has it, was {claimed!r}")
        return found

    def save(self, path: str | Path) -> None:
        """Write a JSON file of about 1 KB in one atomic step."""
        with publish_file(Path(path)) as draft:
            draft.write_text(self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote.

        Raises:
            BundleError: The file is missing or damaged.
        """
        try:
            content = Path(path).read_bytes()
        except OSError as error:
            raise BundleError(f"adaptation: {path} cannot be read: {error.strerror}") from None
        try:
            return cls.from_json(content)
        except BundleError as error:
            raise BundleError(f"{path}: {error}") from None


def finite_or_none(value: float) -> float | None:
    """Return a number that JSON can hold, or None."""
    return value if math.isfinite(value) else None
