"""Noise that sites share, between real processes: only the sum holds it; every ledger and receipt says both sides."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from deciding_hospital import SHARED, plan_of
from real_federation import checkpoints, invariants, kept, real_federation
from real_sites import NAMES

from client.governance.ledger import Ledger
from client.site_folder import LEDGER
from shared import checkpoint
from shared.privacy.accounting import epsilon
from shared.privacy.terms import terms_for

pytestmark = pytest.mark.network

CHANGES: dict[str, Any] = SHARED | {
    "privacy": SHARED["privacy"] | {"colluding_sites": 1},
    "secure_aggregation": {"enabled": True, "threshold": 3, "step_s": 60.0},
    "participation": {"quorum": 3, "deadline_s": 120.0},
}
PLAN = plan_of(**CHANGES)


def change_of_round_1(run: Path) -> np.ndarray[Any, np.dtype[np.float64]]:
    first, second = (
        checkpoint.load(checkpoint.path_of(run / "checkpoints", digest)).tensors for digest in checkpoints(run)[:2]
    )
    return np.concatenate([(second[name] - first[name]).astype(np.float64).ravel() for name in sorted(first)])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_spends_the_plan_s_budget_and_says_what_is_left_if_all_others_collude(tmp_path: Path) -> None:
    """Before: three approved sites that depend on each other. After: the planned noise is in the model, twice told."""
    with real_federation(tmp_path / "f", PLAN) as federation:
        before = kept(federation)
        federation.start()
        federation.ready()
        run = federation.order()
        federation.finish(run)
        invariants(federation, before)
        results = json.loads((run / "results.json").read_text())
        for name in NAMES:
            terms, site = terms_for(PLAN, name), federation.joined.site(name)
            ledger = Ledger.open(site.path / LEDGER)
            (cohort,) = ledger.cohorts()
            events = ledger.spending(cohort.digest).splits["train"].own.released
            assert events == terms.all_events()
            alone = epsilon([event.if_alone() for event in events], PLAN.privacy.delta or 0)
            assert results["privacy"][name]["shared"]["epsilon_alone"] == pytest.approx(alone)
            assert alone > results["privacy"][name]["epsilon"] > 0.9 * (PLAN.privacy.epsilon or 0)
            lines = [line for line in site.audit.path.read_text().splitlines() if "leaves-masked" in line]
            figures = [json.loads(line)["figures"] for line in lines]
            assert [one["alone"] for one in figures if "clip_norm" in one] == [terms.alone] * PLAN.plan.rounds
        terms = terms_for(PLAN, NAMES[0])
        assert terms.share is not None
        # Of three sites' noise two thirds are counted on; the model moves by the mean.
        part = PLAN.training.learning_rate * terms.noise_per_coordinate / math.sqrt(terms.share.honest)
        planned = part / math.sqrt(len(NAMES))
        assert float(change_of_round_1(run).std()) == pytest.approx(planned, rel=0.2)
