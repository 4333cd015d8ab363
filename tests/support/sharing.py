"""Plans whose sites share the noise: of three small hospitals to train, and of four with retinas to report on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from report_runs import PRIVATE, SITES, results

from server.results import Results

LEAST, COLLUDING = 3, 1

SHARED: dict[str, Any] = {
    "plan__rounds": 3,
    "training__steps": 1,
    "training__optimizer": "sgd",
    "training__learning_rate": 0.5,
    "training__patient_gradients": "loop",
    "aggregation__method": "fedadam",
    "aggregation__weights": "equal",
    "aggregation__fixed_point": {"range": 16.0, "bits": 24},
    "privacy__unit": "patient",
    "privacy__epsilon": 8.0,
    "privacy__delta": 1e-4,
    "privacy__clip_norm": 1.0,
    "privacy__public_patients": 10,
    "privacy__covers": "training",
    "privacy__noise": "shared",
    "privacy__colluding_sites": COLLUDING,
    "secure_aggregation__enabled": True,
    "secure_aggregation__threshold": LEAST,
    "participation__quorum": 3,
    "evaluation__release": "sum",
}
"""Changes of ``small_hospitals.document``."""

TEXT = (
    PRIVATE.replace("steps = 20", 'steps = 1\noptimizer = "sgd"')
    .replace("learning_rate = 1e-3", "learning_rate = 0.1")
    .replace('release = "site"', 'release = "sum"')
    .replace('covers = "training"', 'covers = "training"\nnoise = "shared"\ncolluding_sites = 1')
    + '\n[aggregation]\nweights = "equal"\nmethod = "fedadam"\nfixed_point = { range = 4.0, bits = 24 }\n'
    + "\n[secure_aggregation]\nenabled = true\nthreshold = 3\n"
)
"""The plan of ``report_runs``, with noise that its sites share."""


def shared_results() -> Results:
    """Results of ``TEXT``: what each ledger has paid, as planned and if all other sites collude."""
    privacy = {site: _spent(7.75 - 0.25 * place, 16.5 - 0.5 * place) for place, site in enumerate(SITES)}
    bare = replace(results(TEXT), personalised=None, baselines={}, differences=())
    final = {**bare.final, "sites": {}, "macro": {}, "worst": {}}
    return replace(bare, privacy=privacy, final=final)


def _spent(epsilon: float, alone: float) -> dict[str, Any]:
    shared = {"least": 3, "colluding": 1, "honest": 2, "sigma_alone": 0.85, "epsilon_alone": alone}
    paid = {"epsilon": epsilon, "delta": 1e-4, "sigma": 1.2, "q": 0.05, "steps": 40}
    return {"unit": "patient", **paid, "shared": shared}
