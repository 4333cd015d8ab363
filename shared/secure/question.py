"""Which question a sum answers: what its numbers mean, of which model, and when two questions are the same.

Promises
- Sites whose models differ by a bit offer different definitions, and each refuses the other's ("offers-differ"): nobody
  can train one site's patients on a model and let the others send zeros about another (Pasquini, Francati and
  Ateniese, CCS 2022).
- Exact answers about one model differ by nothing but who gave them, whatever run or plan asked. So two sums of one
  ``question`` may be unmasked only over the same sites (``client.secure.released``).
- Where every answer has fresh noise, paid for each time, a run is part of the question.

Not promised: that two models which hardly differ are one question. Statistics of a model with one bit changed are often
the same to the bit, so a coordinator that lies can measure it over other sites. No digest closes that; noise does
(``release = "dp"``, which hospitals' policies ask for by default).
"""

from __future__ import annotations

import hashlib
import json

from shared.messages import Vector
from shared.plan import Plan
from shared.secure.context import Context


def definition(schema: str, weights: Vector, run: str) -> str:
    """Digest of the numbers' ``schema`` and of the model they are about; ``run`` is empty but under fresh noise."""
    model = hashlib.sha256(weights.astype("<f4", copy=False).tobytes()).hexdigest()
    said = json.dumps({"run": run, "schema": schema, "weights": model}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(b"consilium-secure-definition-1\n" + said.encode("ascii")).hexdigest()


def noised_run(plan: Plan, about: str, run: str) -> str:
    """``run`` where ``plan`` adds fresh noise to each answer about ``about``; else empty."""
    noised = plan.privacy.unit == "patient" if about == "train" else plan.evaluation.release == "dp"
    return run if noised else ""


def question(context: Context, defined: str) -> str:
    """What a site remembers of a sum: what it was about, which numbers of which model; of training, also the round."""
    number = str(context.round) if context.about == "train" else ""
    return hashlib.sha256(
        f"consilium-secure-question-1\n{context.about} {number} {defined}".encode("ascii")
    ).hexdigest()
