"""The training plan: what is trained, how, how private, and what is measured.

Promises
- A plan is a value: frozen, compared by content, the same in a simulation and in production.
- Everything wrong with a plan is found when it is read. An unknown key, a wrong type or an impossible value is one
  sentence with the key, the value and a suggestion, never a traceback and never silently ignored.
- ``canonical_bytes`` depends on what the plan says, not on how the file was written (order, comments, spacing), and
  ``digest`` is its SHA-256: what is signed, approved, carried in messages and written in checkpoints.
- What can change privacy sits in ``[privacy]``, and that section has no default: nobody trains without protection by
  leaving a line out.

Names of tasks and models are resolved by ``shared.tasks`` and ``shared.models``: adding one changes no line here.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from shared.errors import PlanError
from shared.plan_errors import describe
from shared.plan_preprocessing import Preprocessing
from shared.plan_promises import of_patients, of_sums
from shared.plan_protection import Privacy, SecureAggregation
from shared.plan_section import Count, Extent, Fraction, Label, Momentum, NonNegative, Positive, Section

OTHER, UNKNOWN = "other", "unknown"
"""Levels that every column of ``[evaluation.subgroups]`` has besides its own."""
MOST_LEVELS = 40
"""Of all columns together: each adds one vector of statistics to what a site sends."""

Column = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 _.-]{0,62}$")]


class Header(Section):
    """``[plan]``: the name of the undertaking and its size."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
    task: str
    rounds: Count
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0


class Data(Section):
    """``[data]``: which images, which classes, and how patients are divided."""

    modality: Literal["ct", "mr", "us", "xray", "fundus", "other"]
    classes: Annotated[tuple[Label, ...], Field(min_length=2)]
    labels: Literal["exclusive", "multilabel"] = "exclusive"
    train_fraction: Fraction = 0.6
    validation_fraction: Fraction = 0.15
    quarantine_quota: Fraction = 0.2
    """Largest share of a site's cases that may be unusable before the site sits out."""

    @model_validator(mode="after")
    def _leave_test_patients(self) -> Data:
        if self.train_fraction + self.validation_fraction >= 1:
            raise ValueError("train_fraction + validation_fraction must leave patients for testing (sum below 1)")
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("classes must differ from each other")
        return self


class Pretrained(Section):
    """Weights to start from: a local safetensors file, fixed by its digest."""

    file: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Model(Section):
    """``[model]``: a network from the table in ``shared.models``."""

    name: str
    channels: Annotated[tuple[Count, ...], Field(min_length=1)] | None = None
    norm: Literal["group", "instance"] = "instance"
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    pretrained: Pretrained | None = None
    freeze: tuple[str, ...] = ()
    """Prefixes of parameter names that stay as they are and never travel."""


class Augmentation(Section):
    """``[training.augmentation]``: random changes, drawn per image from the run's seed."""

    flip: bool = False
    rotate90: bool = False
    rotate_degrees: NonNegative = 0.0
    scale: Annotated[float, Field(ge=0, lt=1)] = 0.0
    brightness: NonNegative = 0.0
    contrast: Annotated[float, Field(ge=0, lt=1)] = 0.0
    gamma: Annotated[float, Field(ge=0, lt=1)] = 0.0
    noise: NonNegative = 0.0


class Training(Section):
    """``[training]``: what a site does in one round."""

    steps: Count
    patients_per_step: Count
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    learning_rate: Positive
    weight_decay: NonNegative = 0.0
    momentum: Momentum = 0.9
    schedule: Literal["constant", "cosine"] = "constant"
    warmup_rounds: Annotated[int, Field(ge=0)] = 0
    gradient_clip: Positive | None = None
    patch: Extent | None = None
    """Edge lengths of a random training patch; None trains on the whole image."""
    foreground_patches: Fraction = 0.0
    """Share of patches centred on a voxel of a class other than the first."""
    augmentation: Augmentation = Augmentation()
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    patient_gradients: Literal["auto", "loop", "vectorised"] = "auto"
    """How gradients of single patients are computed; "auto" times both on the device."""


class FixedPoint(Section):
    """How updates become integers: clipped to ``[-range, range]`` and rounded to ``bits`` bits with sign."""

    range: Positive = 4.0
    bits: Annotated[int, Field(ge=8, le=32)] = 32
    rounding: Literal["nearest", "stochastic"] = "nearest"


class Aggregation(Section):
    """``[aggregation]``: how updates become the next global model."""

    method: Literal["fedavg", "fedprox", "fedavgm", "fedadam", "fedyogi"] = "fedavg"
    weights: Literal["equal", "public", "patients"] = "equal"
    public_weights: dict[str, Annotated[int, Field(ge=1, le=1_000_000)]] = {}  # noqa: RUF012 - pydantic copies it
    server_learning_rate: Positive = 1.0
    server_momentum: Momentum = 0.9
    beta_1: Momentum = 0.9
    beta_2: Momentum = 0.99
    tau: Positive = 1e-3
    proximal_mu: NonNegative = 0.0
    average_last: Count = 1
    """The final model is the mean of this many last global models."""
    fixed_point: FixedPoint = FixedPoint()

    @model_validator(mode="after")
    def _consistent(self) -> Aggregation:
        if self.method == "fedprox" and self.proximal_mu == 0:
            raise ValueError("method fedprox needs proximal_mu > 0")
        if self.method != "fedprox" and self.proximal_mu > 0:
            raise ValueError(f"proximal_mu is set but method is {self.method}")
        if (self.weights == "public") != bool(self.public_weights):
            raise ValueError('public_weights and weights = "public" belong together')
        return self


class Participation(Section):
    """``[participation]``: how many sites make a round, and how long it may take."""

    quorum: Count = 1
    deadline_s: Positive = 3600.0
    admission_s: Positive | None = None
    """How long the first round waits for sites that have not greeted; ``deadline_s`` where it is not given."""
    below_quorum: Literal["abort", "skip-round"] = "abort"


class OperatingPoint(Section):
    """What a threshold must reach on pooled validation patients: one of the two."""

    sensitivity: Annotated[float, Field(gt=0, le=1)] | None = None
    specificity: Annotated[float, Field(gt=0, le=1)] | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> OperatingPoint:
        if (self.sensitivity is None) == (self.specificity is None):
            raise ValueError("operating_point needs a sensitivity or a specificity, not both")
        return self


class Evaluation(Section):
    """``[evaluation]``: when to measure, and what may leave a site."""

    every: Count = 5
    release: Literal["sum", "site", "dp"] = "sum"
    floor: Annotated[int, Field(ge=3)] = 5
    """Fewest patients of a subgroup whose numbers are told."""
    subgroups: dict[Column, Annotated[tuple[Label, ...], Field(min_length=1)]] = {}  # noqa: RUF012 - pydantic copies it
    """Public levels by column; every other value counts as ``OTHER``, a missing one as ``UNKNOWN``."""
    operating_point: OperatingPoint | None = None
    recalibrate: Literal["none", "temperature"] = "none"
    """Whether each site divides logits by a temperature of its own, fitted on its validation patients."""
    explain: Literal["none", "grad-cam", "occlusion"] = "none"
    """How maps are made of where the final model looks; what leaves a site is ``shared.evaluation.explanations``."""
    explain_cases: Count = 50
    """Most test images with a lesion that a site explains."""
    explain_lesion: Annotated[int, Field(ge=1, le=255)] | None = None
    """Class index in the masks that is the lesion; None takes whatever is drawn."""
    cross_site: bool = False

    @model_validator(mode="after")
    def _subgroups_can_be_told(self) -> Evaluation:
        if self.subgroups and self.release == "dp":
            raise ValueError(
                'release = "dp" knows no subgroups, since noise for each level would have to be paid for: '
                "leave [evaluation.subgroups] out"
            )
        for column, levels in self.subgroups.items():
            told = {level.strip().casefold() for level in levels}
            if len(told) < len(levels) or told & {OTHER, UNKNOWN, "gaps", "sites", "missing_sites", ""}:
                raise ValueError(
                    f"subgroups.{column} must name levels that differ by more than capitals, and none of them "
                    '"other", "unknown", "gaps", "sites" or "missing_sites"'
                )
        if sum(map(len, self.subgroups.values())) > MOST_LEVELS:
            raise ValueError(f"subgroups has more than {MOST_LEVELS} levels in all columns together")
        return self

    @model_validator(mode="after")
    def _needs_exact_counts(self) -> Evaluation:
        if self.release == "dp" and (self.operating_point is not None or self.recalibrate != "none"):
            raise ValueError('release = "dp" takes no operating_point and no recalibrate: both need exact counts')
        if self.release == "dp" and self.explain != "none":
            raise ValueError('release = "dp" takes no explain: sums over explanations are exact, without noise')
        return self


class Personalisation(Section):
    """``[personalisation]``: steps on own patients after the last round, at a rate that falls to 0 along half a cosine.

    These weights leave the site only under ``evaluation.cross_site``.
    """

    steps: Count
    learning_rate: Positive


class Plan(Section):
    """The whole plan. Build it with ``load``, ``parse`` or ``from_document``."""

    plan: Header
    data: Data
    preprocessing: Preprocessing
    model: Model
    training: Training
    aggregation: Aggregation = Aggregation()
    privacy: Privacy
    secure_aggregation: SecureAggregation = SecureAggregation()
    participation: Participation = Participation()
    evaluation: Evaluation = Evaluation()
    personalisation: Personalisation | None = None

    @model_validator(mode="after")
    def _patch_fits(self) -> Plan:
        patch, size = self.training.patch, self.preprocessing.size
        if patch and (len(patch) != len(size) or any(p > s for p, s in zip(patch, size, strict=True))):
            raise ValueError(f"training.patch {list(patch)} does not fit into preprocessing.size {list(size)}")
        return self

    @model_validator(mode="after")
    def _patients_are_protected(self) -> Plan:
        return self._without(of_patients(self))

    @model_validator(mode="after")
    def _scores_are_calibrated(self) -> Plan:
        asked = self.evaluation.operating_point is not None or self.evaluation.recalibrate != "none"
        if asked and self.plan.task != "classification":
            raise ValueError("evaluation.operating_point and recalibrate are for classification")
        if self.evaluation.explain != "none" and self.plan.task != "classification":
            raise ValueError("evaluation.explain is for classification: a segmentation is its own map")
        if self.evaluation.recalibrate != "none" and self.privacy.unit == "patient":
            raise ValueError(
                'privacy.unit = "patient" and evaluation.recalibrate would measure with a constant without noise'
            )
        return self

    @model_validator(mode="after")
    def _models_may_leave(self) -> Plan:
        said = (self.privacy.unit, self.secure_aggregation.enabled, self.evaluation.release, bool(self.personalisation))
        if self.evaluation.cross_site and said != ("none", False, "site", True):
            raise ValueError(
                'evaluation.cross_site sends models of single sites: it needs [personalisation], release = "site", '
                'privacy.unit = "none" and secure_aggregation.enabled = false'
            )
        return self

    @model_validator(mode="after")
    def _sum_is_enough(self) -> Plan:
        return self._without(of_sums(self))

    def _without(self, faults: Iterator[str]) -> Plan:
        for sentence in faults:
            raise ValueError(sentence)
        return self

    @property
    def dimensions(self) -> int:
        """Number of spatial axes, 2 or 3."""
        return len(self.preprocessing.size)

    @property
    def input_channels(self) -> int:
        """Number of channels a network of this plan reads."""
        return 3 if self.preprocessing.colour == "rgb" else 1

    def canonical_bytes(self) -> bytes:
        """The plan as UTF-8 JSON with sorted keys, after a line that names the format."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return b"consilium-plan-1\n" + text.encode()

    def digest(self) -> str:
        """SHA-256 of ``canonical_bytes``, 64 hexadecimal digits."""
        return hashlib.sha256(self.canonical_bytes()).hexdigest()


def from_document(document: dict[str, Any]) -> Plan:
    """Check a parsed TOML document and freeze it.

    Raises:
        PlanError: one sentence for the first thing that is wrong.
    """
    try:
        return Plan.model_validate(document)
    except ValidationError as error:
        sentence, hint = describe(error, Plan)
        raise PlanError(sentence, hint=hint) from None


def parse(text: str) -> Plan:
    """Read a plan from TOML text; raises ``PlanError``."""
    try:
        return from_document(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise PlanError(
            f"the plan is not valid TOML: {error}", hint="check quotes, brackets and the line named"
        ) from None


def load(path: Path) -> Plan:
    """Read a plan from a TOML file; raises ``PlanError``."""
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise PlanError(
            f"the plan {path.name} cannot be read: {reason}", hint="check the path and its permissions"
        ) from None
