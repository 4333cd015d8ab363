"""``consilium-sim attack``: the same patients attacked under every way of training, from images to page.

Promises
- Hospitals ingest, freeze and prepare as in ``consilium-sim run``; models and searches are spread over processes, and
  what is found does not depend on how many.
- The same scenario, seed and numbers give the same document on one machine.
- Pictures are made of synthetic patients only. Real patients' images stay where they are: of them there are numbers.

Left to others: how models are trained (``trials``), how they are attacked (``membership``, ``inversion``).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shared.durable import SHARED, replace_file
from shared.errors import ScenarioError
from shared.messages import Vector
from shared.seeds import generator
from simulations.attacks.arms import Arm, arms_of, without_privacy
from simulations.attacks.bounds import proven_epsilon
from simulations.attacks.curves import curve, success
from simulations.attacks.findings import ArmFound, Attack, Comparison, Network, Reconstruction, document
from simulations.attacks.membership import likelihood_ratio, loss_threshold
from simulations.attacks.page import render
from simulations.attacks.population import members_of, population
from simulations.attacks.reconstructing import Wish, grey_range, reconstruct
from simulations.attacks.trials import Answers, answers
from simulations.cohorts import forget, freeze_cohorts, prepare_stores
from simulations.federation import HOSPITALS, find_hospitals, require_source
from simulations.progress import Stages
from simulations.scenario import Phantoms, Scenario
from simulations.workers import SITES_DATA, Pool, Sites, SiteSpec, default_workers

DOCUMENT, PAGE = "attack.json", "attack.html"
LEAST_MODELS, LEAST_PATIENTS = 6, 8
NETWORKS: tuple[Network, ...] = ("small", "plan")


@dataclass(frozen=True)
class Order:
    """How a scenario is to be attacked.

    Attributes:
        out: the folder for document and page.
        data: folder with real images, for scenarios that need one.
        workers: processes; None for one per core.
        models: trained in each arm, each attacked with the others as shadows.
        images: how many patients' images are looked for in gradients.
        iterations: of each search.
        existing: what to do with a folder that is not empty: refuse, or start anew.
        command: what the user typed, for the page.
    """

    out: Path
    data: Path | None = None
    workers: int | None = None
    models: int = 16
    images: int = 3
    iterations: int = 400
    existing: str = "refuse"
    command: str = ""


@dataclass(frozen=True)
class _Attacking:
    """What the steps share; ``patients`` is the size of the population."""

    scenario: Scenario
    order: Order
    pool: Pool
    specs: tuple[SiteSpec, ...]
    initial: Vector
    patients: int
    stages: Stages


def attack(scenario: Scenario, order: Order, stages: Stages) -> Comparison:
    """Attack ``scenario``, write document and page into ``order.out``; raises ``ConsiliumError``."""
    require_source(scenario, order.data)
    if order.models < LEAST_MODELS:
        raise ScenarioError(
            f"{order.models} shadow models are too few to compare one with the others",
            hint=f"say --shadows {LEAST_MODELS} or more",
        )
    plain = without_privacy(scenario.plan)
    sites = Sites(plain, order.out)
    initial = sites.workbench.initial_weights()
    _require_folder(order)
    order.out.mkdir(parents=True, exist_ok=True)
    with Pool(sites, order.workers or default_workers(sites.workbench.device)) as pool:
        specs = _specs(Scenario(scenario.name, scenario.setting, plain), order, pool, stages)
        everybody = population(sites, specs)
        _require_patients(len(everybody.patients))
        attacking = _Attacking(scenario, order, pool, specs, initial, len(everybody.patients), stages)
        found = _comparison(attacking, len(everybody.cases))
    _write(found, order.out)
    return found


def _require_patients(patients: int) -> None:
    if patients < LEAST_PATIENTS:
        raise ScenarioError(
            f"the scenario has {patients} usable patients, too few to tell members from strangers",
            hint=f"choose a scenario with {LEAST_PATIENTS} patients or more",
        )


def _require_folder(order: Order) -> None:
    folder = order.out
    if not folder.exists() or not any(folder.iterdir()):
        return
    if order.existing == "refuse":
        raise ScenarioError(f"{folder} is not empty", hint="choose another --out, or say --overwrite")
    if not (folder / SITES_DATA).is_dir():
        raise ScenarioError(f"{folder} holds no attack to overwrite", hint="choose another --out")
    for name in (HOSPITALS, SITES_DATA):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in (DOCUMENT, PAGE):
        (folder / name).unlink(missing_ok=True)


def _specs(scenario: Scenario, order: Order, pool: Pool, stages: Stages) -> tuple[SiteSpec, ...]:
    forget(order.out)
    hospitals = find_hospitals(scenario, order.data, order.out, pool, stages)
    return prepare_stores(freeze_cohorts(hospitals, order.out, pool, stages), order.out, pool, stages)


def _comparison(attacking: _Attacking, images: int) -> Comparison:
    scenario, order = attacking.scenario, attacking.order
    plan = scenario.plan
    arms = arms_of(plan, max(1, round(attacking.patients / 2)))
    return Comparison(
        title=scenario.setting.title,
        synthetic=_synthetic(scenario),
        headline=attacking.pool.sites.workbench.task.headline,
        patients=attacking.patients,
        images=images,
        models=order.models,
        grey=grey_range(plan),
        arms=tuple(_arms_found(attacking, arms)),
        reconstructions=tuple(_reconstructions(attacking, arms)),
        provenance={"plan_digest": plan.digest(), "seed": plan.plan.seed, "command": order.command},
    )


def _synthetic(scenario: Scenario) -> bool:
    return isinstance(scenario.setting.source, Phantoms)


def _arms_found(attacking: _Attacking, arms: tuple[Arm, ...]) -> list[ArmFound]:
    numbers = range(attacking.order.models)
    jobs = {
        f"{arm.name}, model {number + 1}": (attacking.specs, arm, number, attacking.initial)
        for arm in arms
        for number in numbers
    }
    said: Mapping[str, Answers] = _done(attacking, answers, jobs, "training models to attack")
    return [_arm_found(attacking, arm, [said[f"{arm.name}, model {number + 1}"] for number in numbers]) for arm in arms]


def _arm_found(attacking: _Attacking, arm: Arm, said: list[Answers]) -> ArmFound:
    plan = attacking.scenario.plan
    members = np.stack([members_of(plan.plan.seed, number, attacking.patients) for number in range(len(said))])
    ratio = likelihood_ratio(np.stack([one.confidences for one in said]), members)
    scores = {"loss threshold": loss_threshold(np.stack([one.losses for one in said])), "likelihood ratio": ratio}
    rng = generator(plan.plan.seed, "attack", "intervals")
    attacks: dict[Attack, np.ndarray] = scores  # type: ignore[assignment]
    return ArmFound(
        arm=arm,
        quality=float(np.mean([one.quality for one in said])),
        attacks={name: success(of, members, rng) for name, of in attacks.items()},
        curves={name: curve(of, members) for name, of in attacks.items()},
        proof=proven_epsilon(ratio, members, arm.promise.delta if arm.promise else 0.0),
    )


def _reconstructions(attacking: _Attacking, arms: tuple[Arm, ...]) -> list[Reconstruction]:
    order, wanted = attacking.order, tuple(arm for arm in arms if arm.kind != "control")
    jobs = {
        f"{network} network, image {number + 1}": (
            attacking.specs,
            Wish(network, number, wanted, order.iterations, _synthetic(attacking.scenario)),
            attacking.initial,
        )
        for network in NETWORKS
        for number in range(min(order.images, attacking.patients))
    }
    found = _done(attacking, reconstruct, jobs, "images from gradients")
    return [one for some in found.values() for one in some]


def _done(attacking: _Attacking, work: Callable[..., Any], jobs: Mapping[str, Any], label: str) -> dict[str, Any]:
    done = {}
    with attacking.stages.stage(label, len(jobs)) as advance:
        for name, result in attacking.pool.each(work, jobs):
            done[name] = result
            advance(name)
    return {name: done[name] for name in jobs}


def _write(found: Comparison, folder: Path) -> None:
    text = json.dumps(document(found), indent=2, ensure_ascii=False, allow_nan=False)
    replace_file(folder / DOCUMENT, (text + "\n").encode(), SHARED)
    replace_file(folder / PAGE, render(found).encode(), SHARED)
