"""What a probe brings back: a value, a proven absence, or an honest unknown."""

from datetime import datetime
from typing import Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, model_validator
from typing_extensions import Self

T = TypeVar("T")

NOTHING_IS_RUN = "nothing of this environment is run (--no-execute)"
"""The cause of what is unknown because the user wants no code of the judged environment to run."""


class Fact(BaseModel):
    """Base of all facts: immutable; unknown fields of a newer file are ignored, so old readers still judge it."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Observation(Fact, Generic[T]):
    """Outcome of one probe.

    `ok` carries a value. `absent` says that the thing is proven not to be there. `unknown` says that the probe itself
    broke, ran out of time or was not run: it is evidence of nothing.
    """

    status: Literal["ok", "absent", "unknown"]
    value: T | None = None
    cause: str | None = None
    """Why it is absent or unknown, in one line."""
    evidence: tuple[str, ...] = ()
    """Raw lines that back the cause or the value (error text, exit status), redacted."""
    seconds: float = 0.0
    kept_from: datetime | None = None
    """When it was observed, where an earlier run's answer was kept; None where it was observed in this run."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.status == "ok") != (self.value is not None):
            raise ValueError(f"an observation has a value exactly when its status is ok; status {self.status!r}")
        if self.status != "ok" and not self.cause:
            raise ValueError(f"an observation with status {self.status!r} needs a cause")
        return self

    @classmethod
    def ok(cls, value: T, *, evidence: tuple[str, ...] = (), seconds: float = 0.0) -> Self:
        """Return an observation of `value`."""
        return cls(status="ok", value=value, evidence=evidence, seconds=seconds)

    @classmethod
    def absent(cls, cause: str, *, evidence: tuple[str, ...] = (), seconds: float = 0.0) -> Self:
        """Return a proven absence, with its cause."""
        return cls(status="absent", cause=cause, evidence=evidence, seconds=seconds)

    @classmethod
    def unknown(cls, cause: str, *, evidence: tuple[str, ...] = (), seconds: float = 0.0) -> Self:
        """Return the outcome of a probe that broke or was not run, with its cause."""
        return cls(status="unknown", cause=cause, evidence=evidence, seconds=seconds)
