"""A federation whose sites share the noise: what is said of it, what its sums hold, and that masks change nothing."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from picture_hospitals import SITES, write_hospitals
from sharing import COLLUDING, LEAST, SHARED
from small_hospitals import run, scenario, sim, write_scenario

from client.governance.ledger import Ledger
from server.journal import Journal
from server.results import read_results
from shared.arrays import read_vector
from shared.checkpoint import load, path_of
from shared.fixed_point import resolution
from shared.message_bytes import reply_from_bytes
from shared.messages import Update
from shared.plan import Plan
from shared.plan import load as read_plan
from shared.privacy.accounting import epsilon
from shared.privacy.events import Event
from simulations.progress import Silent
from simulations.protection import LEDGER, REPLIES
from simulations.run import Order
from simulations.run import run as run_scenario
from simulations.workers import SITES_DATA, Sites

PLAIN = SHARED | {"plan__rounds": 2, "aggregation__method": "fedavg", "aggregation__server_learning_rate": 1.0}
"""The next model is the last one and the mean change; a site keeps its replies to two rounds."""
EVERYBODY = PLAIN | {"plan__rounds": 1, "privacy__sampling_rate": 1.0, "model__channels": [16, 32]}
"""One round that all patients take part in: two runs differ in their noise alone, of five thousand parameters."""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    write_hospitals(folder)
    return folder


@pytest.fixture(scope="module")
def finished(images: Path) -> Path:
    """Under noise of the operating system, with adaptive steps at the coordinator."""
    return run(images, "shared", **SHARED)


@pytest.fixture(scope="module")
def pair(images: Path) -> tuple[Path, Path]:
    """Two runs that differ in their noise alone."""
    return run(images, "everybody", **EVERYBODY), run(images, "everybody-else", **EVERYBODY)


def seeded(images: Path, out: str, workers: int = 1, **changes: Any) -> Path:
    order = Order(images / out, images, workers=workers, noise="unsafe-seeded")
    return run_scenario(scenario(images, **changes), order, Silent())


def load_plan(folder: Path) -> Plan:
    return read_plan(folder / "plan.toml")


def models(folder: Path) -> list[NDArray[np.float32]]:
    """The global model after each round, as vectors."""
    plan = load_plan(folder)
    with Journal.open_or_create(folder / "journal.sqlite", plan, lambda: 0.0) as journal:
        digests = journal.checkpoints()
    bench, found = Sites(plan, folder).workbench, []
    for digest in digests:
        tensors = load(path_of(folder / "checkpoints", digest)).tensors
        bench.model.load_state_dict({name: torch.from_numpy(values) for name, values in tensors.items()})
        found.append(read_vector(bench.model))
    return found


def parts(folder: Path) -> dict[str, list[NDArray[np.int32]]]:
    """What each site has made in each round before it was masked, as its own disk holds it."""
    found = {}
    for site in SITES:
        replies = sorted((folder / SITES_DATA / site / REPLIES).glob("*/*.reply"))
        updates = [reply_from_bytes(path.read_bytes()) for path in replies]
        found[site] = [one.values for one in updates if isinstance(one, Update)]
    return found


def planned(folder: Path) -> float:
    """Standard deviation of the noise in the mean change of the first round, from what results.json says."""
    plan, (said, *others) = load_plan(folder), read_results(folder).privacy.values()
    assert all(one == said for one in others)
    grid = resolution(plan.aggregation.fixed_point)
    whole = plan.training.learning_rate * said["sigma"] * said["clip_norm"] / said["denominator"]
    each = math.sqrt((whole**2 + (2 * grid) ** 2) / said["shared"]["honest"])
    return each / math.sqrt(len(SITES))


def spread(one: Path, other: Path) -> float:
    """Standard deviation of the noise in a model, from two that differ in their noise."""
    first, second = models(one)[0].astype(np.float64), models(other)[0].astype(np.float64)
    return float((first - second).std()) / math.sqrt(2)


# --- what is said ----------------------------------------------------------------------------------------------------


def test_results_say_of_whose_noise_the_promise_is_made_and_what_is_left_without_it(finished: Path) -> None:
    privacy = read_results(finished).privacy
    assert set(privacy) == set(SITES)
    for said in privacy.values():
        shared = said["shared"]
        assert (shared["least"], shared["colluding"], shared["honest"]) == (LEAST, COLLUDING, LEAST - COLLUDING)
        assert shared["sigma_alone"] == pytest.approx(said["sigma"] / math.sqrt(2))
        assert said["epsilon"] == pytest.approx(epsilon([Event(said["sigma"], 0.4, 3)], 1e-4))
        assert shared["epsilon_alone"] == pytest.approx(epsilon([Event(shared["sigma_alone"], 0.4, 3)], 1e-4))
        assert 7.9 < said["epsilon"] <= 8 < shared["epsilon_alone"]


def test_each_ledger_has_paid_under_the_assumption_and_keeps_what_is_left_without_it(finished: Path) -> None:
    for site, said in read_results(finished).privacy.items():
        ledger = Ledger.open(finished / SITES_DATA / site / LEDGER)
        [cohort] = ledger.cohorts()
        [event] = ledger.spending(cohort.digest).splits["train"].own.released
        assert event == Event(said["sigma"], 0.4, 3, said["shared"]["sigma_alone"])


def test_where_each_site_adds_its_own_noise_no_assumption_is_told(images: Path) -> None:
    own = {key: value for key, value in SHARED.items() if key not in {"privacy__noise", "privacy__colluding_sites"}}
    out = run(images, "own", **(own | {"plan__rounds": 1}))
    assert all("shared" not in said for said in read_results(out).privacy.values())
    assert "collude" not in (out / "report.html").read_text()


def test_page_and_results_tell_the_same_two_epsilons(finished: Path) -> None:
    page = (finished / "report.html").read_text()
    worst = max(said["shared"]["epsilon_alone"] for said in read_results(finished).privacy.values())
    assert "as long as at most 1 of the other sites tells the coordinator what it added" in page
    assert f"ε = {worst:.4g} if all other sites collude" in page
    assert "ε, if all others collude" in page


def test_the_command_runs_such_a_plan_and_states_the_assumption(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_scenario(tmp_path, **(SHARED | {"plan__rounds": 1}))
    told = sim(capsys, "run", path, "--data", images, "--out", tmp_path / "run", "--workers", 1)
    assert told.status == 0, told.err
    said = " ".join(told.out.split())
    assert "the promise holds for sums of at least 3 sites" in said
    assert "if all other sites collude" in said
    assert json.loads((tmp_path / "run" / "results.json").read_text())["privacy"]["aachen"]["shared"]["honest"] == 2


# --- what the sums hold ----------------------------------------------------------------------------------------------


def test_models_are_bit_for_bit_those_of_the_parts_added_up_without_masks(images: Path) -> None:
    out = seeded(images, "masked", **PLAIN)
    plan, made = load_plan(out), parts(out)
    before = Sites(plan, out).workbench.initial_weights()
    after = models(out)
    assert len(after) == plan.plan.rounds == 2
    for number, model in enumerate(after):
        total = np.sum([made[site][number] for site in SITES], axis=0, dtype=np.int64)
        mean = (total * (resolution(plan.aggregation.fixed_point) / len(SITES))).astype(np.float32)
        assert np.any(total)
        assert (before + mean).tobytes() == model.tobytes()
        before = model


@pytest.mark.slow
def test_the_same_seeds_give_the_same_bytes_for_any_number_of_workers(images: Path) -> None:
    one, two = seeded(images, "one", **SHARED), seeded(images, "two", workers=2, **SHARED)
    assert read_results(one).checkpoint == read_results(two).checkpoint
    assert {said["noise"] for said in read_results(one).privacy.values()} == {"unsafe-seeded"}


def test_noise_of_the_operating_system_does_not_repeat(images: Path, finished: Path) -> None:
    assert read_results(finished).checkpoint != read_results(run(images, "again", **SHARED)).checkpoint


def test_the_first_model_holds_as_much_noise_as_was_planned_and_neither_more_nor_less(pair: tuple[Path, Path]) -> None:
    found, wanted = spread(*pair), planned(pair[0])
    assert models(pair[0])[0].size > 4000
    assert found == pytest.approx(wanted, rel=0.05)
    # Control: all of the noise at each site, and a third of it at each of three, nobody of whom colludes.
    assert found != pytest.approx(wanted * math.sqrt(2), rel=0.05)
    assert found != pytest.approx(wanted * math.sqrt(2 / 3), rel=0.05)


def test_each_site_stores_and_sends_its_part_of_the_noise_and_no_more(pair: tuple[Path, Path]) -> None:
    one, other = map(parts, pair)
    grid = resolution(load_plan(pair[0]).aggregation.fixed_point)
    each = planned(pair[0]) * math.sqrt(len(SITES))
    for site in SITES:
        apart = (one[site][0].astype(np.float64) - other[site][0]) * grid
        assert float(apart.std()) / math.sqrt(2) == pytest.approx(each, rel=0.05)
