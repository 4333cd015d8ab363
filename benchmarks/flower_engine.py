"""The same federation on Flower's own simulation engine: one Ray actor a core, with the same coordinator and sites.

Only the whole process is compared: Flower starts Ray, the actors and itself within the run.
"""

from __future__ import annotations

from collections.abc import Sequence

import federation
from training import Instant, Log, Result, result, setting

from simulations.ray_engine import run_on_ray


def on_ray(stores: str, sites: int, rounds: int, changes: Sequence[str] = ()) -> Result:
    """Like ``training.in_process``, on Flower's engine."""
    plan = federation.plan(rounds, changes)
    with setting(plan, 1, stores) as (setup, pool):
        log = Log()
        began = Instant.now()
        run_on_ray(setup, log.watch(), pool.sites, federation.specs(stores, sites))
    ended, loss = log.rounds[-1]
    return result(ended - began, loss)
