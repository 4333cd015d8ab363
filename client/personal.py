"""A site's own fine-tuned model: kept at the site, and given out again where its plan shares models.

Promises
- What is kept says whose it is: plan, run and site. Only its owner may read it.
- ``kept`` finds the model of one run, of this plan and site, and of no other; a file that is damaged is passed over.
- Where a plan has no ``evaluation.cross_site`` nothing of it is given out ("not-in-plan").
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from shared import checkpoint
from shared.arrays import ParameterSchema
from shared.errors import ProtocolError, RunError, SiteDataError
from shared.messages import Envelope, Vector
from shared.plan import Plan

FOLDER = "personal"


def keep(folder: Path, weights: Vector, schema: ParameterSchema, whose: dict[str, str]) -> None:
    """Write ``weights`` below ``folder``, as those of ``whose`` (see ``owner``)."""
    kept_in = folder / FOLDER
    kept_in.mkdir(mode=0o700, parents=True, exist_ok=True)
    checkpoint.save(kept_in, schema.split(weights), whose)


def kept(folder: Path | None, schema: ParameterSchema, whose: dict[str, str]) -> Vector:
    """What was kept of ``whose``; raises ``SiteDataError`` ("not-kept") where there is nothing."""
    for path in sorted((folder / FOLDER).glob(f"*{checkpoint.SUFFIX}")) if folder is not None else ():
        try:
            found = checkpoint.load(path)
        except RunError:
            continue
        if found.metadata == whose and found.tensors.keys() == set(schema.names):
            return np.concatenate([np.asarray(found.tensors[name], np.float32).ravel() for name in schema.names])
    raise SiteDataError(
        "this site keeps no fine-tuned model of this run",
        hint="it is made when the run asks for personalisation: see why that failed here",
        code="not-kept",
    )


def owner(envelope: Envelope, site: str) -> dict[str, str]:
    """Whose a model is that ``site`` makes in answer to ``envelope``."""
    return {"plan": envelope.plan_digest, "run": envelope.run, "site": site}


def require_shared(plan: Plan) -> None:
    """Return where ``plan`` lets models of single sites go to the others; raise ``ProtocolError`` where not."""
    if not plan.evaluation.cross_site:
        raise ProtocolError(
            "the plan has no evaluation.cross_site, so no model of a single site is sent or measured",
            hint="a run asks what its plan says, and nothing else",
            code="not-in-plan",
        )
