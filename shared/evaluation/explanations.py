"""Where the final model looks: what leaves a site about it, what of that may be told, and the block of results.json.

Promises
- One vector follows the statistics of test patients in the same reply. Its length and definition depend on the plan
  alone; a plan with ``evaluation.explain = "none"`` counts and sends what it always did.
- Each image is explained twice: by the final model, and by a network of the same kind whose weights were drawn anew
  (the control). Whoever sees the same number twice sees that the map shows images and not what was learnt (Adebayo et
  al., NeurIPS 2018). ``difference`` is the model minus its control on the same images, with a paired interval.
- No number of fewer than ``evaluation.floor`` patients is told: neither of all explained images, nor of a class. It
  reads ``suppressed``, which is not zero and not null. Classes are cells of a table as subgroups are, and are hidden by
  the same rule, so that none can be worked out (``shared.evaluation.suppression``).
- Sums are the same in whatever room the images are: the control of an image depends on the image's name alone.

===========  ===========================================================================================================
release      who withholds
===========  ===========================================================================================================
``sum``      the coordinator, of the sum
``site``     each site, before it sends: a class, or everything where it has explained fewer patients than the floor.
             What is withheld is missing from the sum as well; how many sites that are stands beside it
``dp``       nobody: such a plan is refused, for these sums are exact
===========  ===========================================================================================================

Rules
- An image with several findings counts once for each of them: ``cases`` are pairs of an image and a class it has.
- Intervals are over patients, and the control's over draws of its weights too, as each image has its own. They say
  nothing about another training run: a single network that learnt nothing may still differ from the mean of many.
- ``saliency_inside`` and the others are means over such pairs (``shared.evaluation.saliency`` defines them).
- Test patients of the final model only, once: sums of two models on sites that differ by one would be that site's.

Left to others: maps, and which images are explained (``client.training.explained``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np

from shared.errors import ProtocolError
from shared.evaluation import saliency, subgroups
from shared.evaluation.additive import CASES, PATIENTS, IntArray, Observation, Schema, Statistics
from shared.evaluation.intervals import with_intervals
from shared.evaluation.paired import paired_intervals
from shared.evaluation.subgroups import Layout
from shared.evaluation.summary import rows
from shared.plan import OTHER, UNKNOWN, Plan
from shared.preprocessing.image import Case

Arm = Literal["model", "control"]
Measuring = Literal["validation", "test", "final"]
"""Validation patients; test patients of any model; test patients of the final one."""
ARMS: tuple[Arm, ...] = ("model", "control")
SUPPRESSED = "suppressed"
WITHHOLDING = "withholding_sites"
_CLASS = "class"

Block = dict[str, Any]


@dataclass(frozen=True)
class Explaining:
    """What a plan asks for.

    Attributes:
        method: how maps are made; part of the definition, as maps of two methods never add up.
        classes: of the plan.
        lesion: class index in the masks that is the lesion; None for whatever is drawn.
        release: ``evaluation.release`` of the plan.
        floor: fewest patients that may be told of.
    """

    method: str
    classes: tuple[str, ...]
    lesion: int | None
    release: str
    floor: int

    @cached_property
    def layout(self) -> Layout:
        """Statistics of all explained images and, cell by cell, of each class."""
        one = saliency.schema(1, self.method)
        drawn = "whatever is drawn" if self.lesion is None else f"mask {self.lesion}"
        shapes = tuple((f"{arm}/{name}", shape) for arm in ARMS for name, shape in one.shapes)
        definition = f"explanations-1, {one.definition}, {drawn}"
        # Levels are numbers: a class may be named like a level that every column has.
        levels = (*map(str, range(len(self.classes))), OTHER, UNKNOWN)
        return Layout(Schema(definition, (*shapes, (WITHHOLDING, ()))), self.release, ((_CLASS, levels),), self.floor)


@dataclass(frozen=True)
class Leaving:
    """What one reply holds: statistics of the task, and after them those of explanations where there are any."""

    measured: Layout
    explaining: Explaining | None = None

    @property
    def length(self) -> int:
        """Number of integers in the flat vector."""
        return self.measured.schema.length + (self.explaining.layout.schema.length if self.explaining else 0)

    def digest(self) -> str:
        """SHA-256 of the definition: the task's own where nothing is explained."""
        own = self.measured.schema.digest()
        if self.explaining is None:
            return own
        return hashlib.sha256(f"{own} {self.explaining.layout.schema.digest()}".encode()).hexdigest()

    def parts(self, counts: IntArray) -> tuple[Statistics, Statistics | None]:
        """The statistics in a flat vector; raises ``ProtocolError`` when the length is another definition's."""
        end = self.measured.schema.length
        measured = Statistics.from_flat(self.measured.schema, counts[:end] if self.explaining else counts)
        return measured, Statistics.from_flat(self.explaining.layout.schema, counts[end:]) if self.explaining else None

    def require_told(self, counts: IntArray) -> None:
        """Refuse what a site should have withheld; raises ``ProtocolError`` ("subgroup-floor", "explained-floor")."""
        if not self.measured.columns and self.explaining is None:
            return
        measured, explained = self.parts(counts)
        subgroups.require_told(self.measured, measured)
        if self.explaining is not None and explained is not None:
            _require_told(self.explaining, explained)


@dataclass(frozen=True, eq=False)
class Explained:
    """What sites sent of explanations: summed, and by site where the plan releases that."""

    explaining: Explaining
    pooled: Statistics
    sites: Mapping[str, Statistics]


def explaining(plan: Plan) -> Explaining | None:
    """What ``plan`` asks for; None where it asks for nothing."""
    wanted = plan.evaluation
    if wanted.explain == "none":
        return None
    return Explaining(wanted.explain, plan.data.classes, wanted.explain_lesion, wanted.release, wanted.floor)


def observation(moments: Mapping[Arm, Observation]) -> Observation:
    """What one image adds for one class: of each arm what ``saliency.observe`` counts as for a single class."""
    return {f"{arm}/{name}": values for arm, counted in moments.items() for name, values in counted.items()}


def collect(asked: Explaining, observed: Iterable[tuple[Case, int, Observation]]) -> Statistics:
    """What a site sends of (case, class, observation) triples: without what it must withhold."""
    by_class = ((replace(case, subgroups=((_CLASS, str(index)),)), counted) for case, index, counted in observed)
    counted = subgroups.told_by_site(asked.layout, subgroups.collect(asked.layout, by_class))
    if asked.release != "site" or not _few(counted, asked.floor):
        return counted
    counts = dict(counted.counts)
    for name in asked.layout.whole.full_shapes:
        counts[name] = np.zeros_like(counts[name])
    # Not in a patient's group: where it stands says nothing about anybody.
    counts[WITHHOLDING][0] = 1
    return Statistics(asked.layout.schema, counts)


def explanations_block(explained: Explained) -> Block:
    """``final.explanations`` of results.json."""
    asked, pooled = explained.explaining, explained.pooled
    block = _of_all(asked, pooled) | {"method": asked.method, "classes": _by_class(asked, pooled)}
    if asked.release == "site":
        block["missing_sites"] = int(pooled.counts[WITHHOLDING].sum())
        block["sites"] = {site: _of_all(asked, explained.sites[site]) for site in sorted(explained.sites)}
    return block


def _of_all(asked: Explaining, counted: Statistics) -> Block:
    held_back = asked.release == "site" and not counted.counts[PATIENTS].any() and counted.counts[WITHHOLDING].any()
    if held_back or _few(counted, asked.floor):
        return _suppressed()
    return _told(asked, subgroups.whole(asked.layout, counted))


def _by_class(asked: Explaining, counted: Statistics) -> Block:
    cells = subgroups.by_column(asked.layout, counted)[_CLASS]
    found = {name: cells[str(index)] for index, name in enumerate(asked.classes)}
    return {name: _suppressed() if of is None else _told(asked, of) for name, of in found.items()}


def _told(asked: Explaining, counted: Statistics) -> Block:
    one = saliency.schema(1, asked.method)
    of = {arm: Statistics(one, {name: counted.counts[_name(arm, name)] for name in one.full_shapes}) for arm in ARMS}
    limits = saliency.limits(_metrics(of["model"].total()))
    found: Block = {arm: rows(with_intervals(counts, _metrics, limits)) for arm, counts in of.items()}
    found["difference"] = rows(paired_intervals(of["control"], of["model"], _metrics, limits))
    return found | {"cases": int(counted.counts[CASES].sum()), "patients": int(counted.counts[PATIENTS].sum())}


def _suppressed() -> Block:
    none = Statistics.zero(saliency.schema(1, ""))
    hidden: Block = {part: dict.fromkeys(_metrics(none.total()), SUPPRESSED) for part in (*ARMS, "difference")}
    return hidden | {"cases": SUPPRESSED, "patients": SUPPRESSED}


def _metrics(counts: Mapping[str, IntArray]) -> dict[str, float]:
    return saliency.metrics(counts, ("",))


def _name(arm: Arm, name: str) -> str:
    return name if name in {PATIENTS, CASES} else f"{arm}/{name}"


def _few(counted: Statistics, floor: int) -> bool:
    return 0 < int(counted.counts[PATIENTS].sum()) < floor


def _require_told(asked: Explaining, counted: Statistics) -> None:
    subgroups.require_told(asked.layout, counted)
    if asked.release == "site" and _few(counted, asked.floor):
        raise ProtocolError(
            f"the site told where a model looks in images of fewer than {asked.floor} patients, which it must withhold",
            hint="run the same version at every site",
            code="explained-floor",
        )
