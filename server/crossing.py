"""Every site's own fine-tuned model at every site: taking the models, and the table of what they were measured to be.

Promises
- A shared model counts if it is what was agreed: as many numbers under the same names, all of them finite.
- It is on the disk, under its digest, before anybody else is sent it; memory holds one at a time.
- A cell that is missing has a code: of the site that did not share its model, or of the one that did not measure it.

Rows of ``baselines.cross_site`` are models, columns are patients, as in a simulation; there the models were trained at
one site alone, here they are the federation's after own-site steps, and ``cross_site_models`` says which.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from server.intake import Measurement, expect
from server.run_state import ModelFiles
from shared.errors import UpdateRejected
from shared.evaluation.additive import Statistics
from shared.evaluation.summary import final_block, summarise
from shared.messages import Reply, Shared, Vector
from shared.tasks.task import Task

PERSONALISED = "personalised"


class Models:
    """Takes ``Shared``: a site's model goes to the disk as soon as it has counted."""

    def __init__(self, files: ModelFiles) -> None:
        self._files = files
        self._taken: dict[str, Vector] = {}
        self.digests: dict[str, str] = {}

    def take(self, site: str, reply: Reply) -> None:
        """Check the model of ``site``; ``put_away`` is due."""
        shared, schema = expect(reply, Shared), self._files.schema
        if shared.schema != schema.digest() or shared.weights.shape != (schema.length,):
            raise UpdateRejected(
                f"the shared model has {shared.weights.size} parameters of another network, or not the "
                f"{schema.length} of this one",
                hint="run the same plan and version at every site",
                code="model-schema",
            )
        if not np.isfinite(shared.weights).all():
            raise UpdateRejected("the shared model holds numbers that are not finite", code="model-not-finite")
        self._taken[site] = shared.weights

    def put_away(self) -> None:
        """Write what was taken; raises ``CapacityError`` where this machine's disk is full."""
        for site in tuple(self._taken):
            self.digests[site] = self._files.save_shared(self._taken[site], site)
            del self._taken[site]


@dataclass
class Crossed:
    """What was measured of the models that sites shared.

    Attributes:
        models: digest of each shared model by its site.
        measured: model's site -> patients' site -> statistics of test patients.
        missing: model's site -> patients' site -> code.
    """

    models: dict[str, str] = field(default_factory=dict)
    measured: dict[str, Mapping[str, Statistics]] = field(default_factory=dict)
    missing: dict[str, dict[str, str]] = field(default_factory=dict)

    def shared(self, models: Models, sites: frozenset[str], missing: Mapping[str, str]) -> None:
        """Note whose models there are; a site without one has a row without a number."""
        self.models = models.digests
        self.missing = {site: dict.fromkeys(sorted(sites), code) for site, code in missing.items()}

    def row(self, model: str, found: Measurement, missing: Mapping[str, str]) -> None:
        """Note where the model of the site ``model`` was measured, and where not."""
        self.measured[model] = found.sites
        if missing:
            self.missing[model] = dict(missing)

    def block(self, task: Task) -> dict[str, object]:
        """As ``baselines`` of results.json holds it; empty where no site was asked for its model."""
        rows = sorted(self.measured.keys() | self.missing.keys())
        if not rows:
            return {}
        return {
            "cross_site": {model: _row(task, self.measured.get(model, {})) for model in rows},
            "cross_site_models": PERSONALISED,
            "cross_site_missing": self.missing,
        }


def _row(task: Task, cells: Mapping[str, Statistics]) -> dict[str, object]:
    return {site: final_block(summarise(task, cells[site]))["pooled"] for site in sorted(cells)}
