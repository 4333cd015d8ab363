"""``[privacy]`` and ``[secure_aggregation]``: what patients are promised, and what the coordinator can see.

Promises
- ``unit`` has no default: whether patients are protected is said, never left out.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from shared.plan_section import Count, Positive, Section

SUM_BITS = 32
"""Widest ring that updates are added up in under masks (``shared.secure.ring``)."""


class Privacy(Section):
    """``[privacy]``: what is promised to a patient, and everything that decides it. No default for ``unit``.

    A patient of the training split takes part in a step with probability ``sampling_rate``; without one it is
    ``training.patients_per_step / public_patients``. What leaves is divided by constants made of these public numbers
    and never by a count (DESIGN, "Mechanism"; docs/guarantees.md).
    """

    unit: Literal["none", "patient"]
    epsilon: Positive | None = None
    delta: Annotated[float, Field(gt=0, lt=1)] | None = None
    clip_norm: Positive | None = None
    public_patients: Count | dict[str, Count] | None = None
    """Training patients that a site is taken to have: agreed in public, at all sites the same or by site."""
    sampling_rate: Annotated[float, Field(gt=0, le=1)] | None = None
    noise_multiplier: Positive | None = None
    """Standard deviation of the noise in units of ``clip_norm``; without one, the least that keeps ``epsilon``."""
    noise: Literal["own", "shared"] = "own"
    """Whether a site adds all of its patients' noise, or sites add parts of it that only their sum holds together."""
    colluding_sites: Annotated[int, Field(ge=0)] | None = None
    """Other sites that may tell the coordinator all they know, where noise is shared."""
    clipping: Literal["flat", "automatic"] = "flat"
    images_per_patient: Count = 1
    """Most images of a patient that enter one step."""
    views_per_image: Count = 1
    """Augmented views of each image that are averaged before clipping; free in privacy."""
    covers: Literal["everything", "training"] = "everything"
    """Whether validation and test patients are protected as training patients are."""

    @model_validator(mode="after")
    def _complete(self) -> Privacy:
        needed = (self.epsilon, self.delta, self.clip_norm, self.public_patients)
        if self.unit == "patient" and None in needed:
            raise ValueError('unit = "patient" needs epsilon, delta, clip_norm and public_patients')
        said = [name for name, key in type(self).model_fields.items() if getattr(self, name) != key.get_default()]
        if self.unit == "none" and said != ["unit"]:
            raise ValueError(f'unit = "none" takes no {", ".join(said[1:])}')
        if (self.noise == "shared") != (self.colluding_sites is not None):
            raise ValueError('noise = "shared" and colluding_sites belong together: how many sites are not trusted')
        return self


class SecureAggregation(Section):
    """``[secure_aggregation]``: whether the coordinator sees single updates or only their sum."""

    enabled: bool = False
    threshold: Annotated[int, Field(ge=2)] | None = None
    """Sites without whom no sum is unmasked; two thirds of those that offered keys, and one more, where not given."""
    step_s: Positive = 300.0
    """Longest wait for each of the four steps from an answer to its sum; they compute little."""

    @model_validator(mode="after")
    def _used(self) -> SecureAggregation:
        said = [name for name, key in type(self).model_fields.items() if getattr(self, name) != key.get_default()]
        if not self.enabled and said:
            raise ValueError(f"{said[0]} is set but enabled is false")
        return self
