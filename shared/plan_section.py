"""What the tables of a plan are made of: frozen sections, and numbers within bounds."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Momentum = Annotated[float, Field(ge=0, lt=1)]


def _countable(count: int) -> int:
    if count >= 2**31:
        raise ValueError("a count is below 2147483648")
    return count


Count = Annotated[int, Field(ge=1), AfterValidator(_countable)]
Extent = Annotated[tuple[Count, ...], Field(min_length=2, max_length=3)]


def _one_line(text: str) -> str:
    if not text.isprintable():
        raise ValueError("a name is of printable characters, in one line")
    return text


Label = Annotated[str, Field(max_length=200), AfterValidator(_one_line)]
"""What people read in terminals and pages: nothing in it moves a cursor or turns the direction of writing."""


class Section(BaseModel):
    """A table of the plan: frozen, and closed to keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)
