"""Every site's own model at every site, through signed orders, desks and the coordinator's process, to the report."""

import dataclasses
import json
from pathlib import Path

import pytest
from deployed_federation import SITES, Deployed
from tiny_federation import MemoryFleet, coordinate, tiny_plan

from server.enrolment import set_state
from server.report.more_tables import cross_site_table
from server.report.run import read_run
from shared.message_bytes import reply_from_bytes, request_from_bytes
from shared.messages import Cross, Shared
from shared.parcels import Parcel

PLAN = tiny_plan(
    plan__rounds=1, evaluation__cross_site=True, personalisation__steps=5, personalisation__learning_rate=0.01
)


def baselines(folder: Path) -> dict[str, object]:
    found = json.loads((folder / "results.json").read_text())["baselines"]
    assert isinstance(found, dict)
    return found


def test_a_deployed_run_has_the_table_in_its_results_and_in_its_report(tmp_path: Path) -> None:
    deployed = Deployed(tmp_path, PLAN)
    folder = deployed.run(deployed.order())
    matrix = baselines(folder)["cross_site"]
    assert isinstance(matrix, dict)
    assert {model: set(row) for model, row in matrix.items()} == {model: set(SITES) for model in SITES}
    table = cross_site_table(read_run(folder))
    assert table is not None
    assert "own-site steps" in table.note
    page = (folder / "report.html").read_text()
    assert "Every model at every site" in page
    for book in deployed.books.values():
        said = [line[1] for line in book.lines]
        assert said == ["Welcome", "Update", "Measured", "Measured", "Measured", "Shared", *["Measured"] * 3]


@pytest.mark.slow
def test_the_deployed_table_is_that_of_a_run_without_desks(tmp_path: Path) -> None:
    deployed = Deployed(tmp_path / "deployed", PLAN)
    folder = deployed.run(deployed.order())
    fleet = MemoryFleet(PLAN)
    fleet.sites = {name: dataclasses.replace(site, folder=tmp_path / name) for name, site in fleet.sites.items()}
    outcome = coordinate(PLAN, fleet, tmp_path / "simulated")
    shared = [path.name for path in (tmp_path / "simulated" / "checkpoints").iterdir()]
    assert sorted(shared) == sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert len(outcome.crossed.models) == len(SITES)


@pytest.mark.slow
def test_a_coordinator_that_was_killed_between_two_models_goes_on_to_the_whole_table(tmp_path: Path) -> None:
    class KilledError(BaseException):
        pass

    crossed: list[str] = []
    killed: list[str] = []

    def die_once(_site: str, request: Parcel, reply: Parcel) -> Parcel:
        asked = request_from_bytes(request.body)
        crossed.extend([asked.model] if isinstance(asked, Cross) else [])
        if len(crossed) == 5 and not killed:
            killed.append(crossed[-1])
            raise KilledError
        return reply

    deployed = Deployed(tmp_path / "killed", PLAN, die_once)
    found = deployed.order()
    with pytest.raises(KilledError):
        deployed.run(found)
    folder = deployed.run(found)
    assert killed == ["bergen"]
    matrix = baselines(folder)["cross_site"]
    assert isinstance(matrix, dict)
    assert {model: set(row) for model, row in matrix.items()} == {model: set(SITES) for model in SITES}
    assert baselines(folder)["cross_site_missing"] == {}


@pytest.mark.slow
def test_a_relay_that_swallows_a_model_leaves_its_row_empty_and_the_run_ends(tmp_path: Path) -> None:
    def swallow(site: str, _request: Parcel, reply: Parcel) -> Parcel | None:
        return None if site == "coimbra" and isinstance(reply_from_bytes(reply.body), Shared) else reply

    deployed = Deployed(tmp_path, PLAN, swallow)
    folder = deployed.run(deployed.order())
    found = baselines(folder)
    assert isinstance(found["cross_site"], dict)
    assert found["cross_site"]["coimbra"] == {}
    assert found["cross_site_missing"] == {"coimbra": dict.fromkeys(SITES, "no-answer")}
    table = cross_site_table(read_run(folder))
    assert table is not None
    assert len(table.rows) == 3


@pytest.mark.slow
def test_a_suspended_site_is_in_no_row_and_in_no_column(tmp_path: Path) -> None:
    deployed = Deployed(tmp_path, PLAN)
    set_state(deployed.federation, "bergen", "suspended", deployed.lead, deployed.now())
    matrix = baselines(deployed.run(deployed.order()))["cross_site"]
    assert isinstance(matrix, dict)
    left = ["aachen", "coimbra"]
    assert {model: list(row) for model, row in matrix.items()} == dict.fromkeys(left, left)
