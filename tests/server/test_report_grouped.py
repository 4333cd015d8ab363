"""Runs compared from the statistics that they keep: the same interval as from one room, or the reason why not."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_runs import PLAN_TEXT, SITES, results, write_dice, write_run

from server import measured
from server.intake import Measurement
from server.report.compare import compare
from server.report.grouped import Folder, grouped_difference
from server.report.paired import Difference
from server.report.run import read_run
from server.results import PREDICTIONS, SiteData
from shared.evaluation.additive import Statistics, collect
from shared.evaluation.paired import paired_intervals
from shared.plan import parse
from shared.preprocessing.image import Case
from shared.tasks import task_for

TASK = task_for(parse(PLAN_TEXT))
PATIENTS = 60


def segmented(error: float, patients: int = PATIENTS) -> Statistics:
    """Squares of which a model misses about a share ``error``; what makes a patient hard is fixed by the patient."""
    hard = np.random.default_rng(1)
    found = []
    for number in range(patients):
        mask = np.zeros((16, 16), np.uint8)
        mask[3:13, 3:13] = 1
        missed = hard.uniform(size=mask.shape) < error + hard.uniform(0, 0.3)
        vessel = (mask * ~missed).astype(np.float32)
        case = Case(f"c{number}", f"p{number}", np.zeros((1, 16, 16), np.float32), mask, None, (1.0, 1.0))
        found.append((case.patient, TASK.observe(np.stack([1 - vessel, vessel]), case)))
    return collect(TASK.schema, found)


def made(folder: Path, statistics: Statistics | None, cohorts: Mapping[str, str], **changes: Any) -> Folder:
    data = {site: SiteData(40, 40, {}, cohort) for site, cohort in cohorts.items()}
    write_run(folder, replace(results(), data=data, **changes))
    if statistics is not None:
        (folder / "server-state").mkdir()
        measured.keep(folder, measured.TEST, 40, Measurement(statistics))
    return Folder(folder, read_run(folder))


SAME = {site: site[0] * 64 for site in SITES}


def test_the_difference_is_that_of_the_two_statistics(tmp_path: Path) -> None:
    worse, better = segmented(0.2), segmented(0.1)
    found = grouped_difference("dice", made(tmp_path / "a", worse, SAME), made(tmp_path / "b", better, SAME))
    wanted = paired_intervals(worse, better, TASK.metrics, TASK.limits)["dice"]
    assert found == Difference(wanted.value, wanted.low, wanted.high, PATIENTS)
    assert wanted.low > 0


@pytest.mark.parametrize("metric", ["iou", "hd95", "nsd", "precision"])
def test_every_metric_can_be_paired_not_only_what_predictions_hold(tmp_path: Path, metric: str) -> None:
    sides = [made(tmp_path / name, segmented(error), SAME) for name, error in (("a", 0.2), ("b", 0.1))]
    assert isinstance(grouped_difference(metric, *sides), (Difference, str))
    wanted = paired_intervals(segmented(0.2), segmented(0.1), TASK.metrics, TASK.limits)[metric]
    found = grouped_difference(metric, *sides)
    assert isinstance(found, Difference) == np.isfinite(wanted.low)


@pytest.mark.parametrize(
    ("cohorts", "reason"),
    [
        ({**SAME, "hrf": "0" * 64}, "the cohorts of 1 sites are not the same: hrf"),
        (dict.fromkeys(SITES, "0" * 64), "the cohorts of 4 sites are not the same: chase, drive, hrf and others"),
        ({site: SAME[site] for site in SITES[1:]}, "the cohorts of 1 sites are not the same: chase"),
        ({**SAME, "drive": ""}, "no cohort is known of drive"),
        ({}, "no cohort is known of any site of a run"),
    ],
    ids=["one site", "all sites", "a site less", "unknown", "nothing known"],
)
def test_other_patients_are_named_and_not_paired(tmp_path: Path, cohorts: Mapping[str, str], reason: str) -> None:
    first, second = made(tmp_path / "a", segmented(0.1), SAME), made(tmp_path / "b", segmented(0.1), cohorts)
    assert grouped_difference("dice", first, second) == reason


def test_the_same_cohorts_of_which_one_run_tested_fewer_are_not_paired(tmp_path: Path) -> None:
    first = made(tmp_path / "a", segmented(0.1), SAME)
    second = made(tmp_path / "b", segmented(0.1, PATIENTS - 7), SAME)
    found = grouped_difference("dice", first, second)
    assert isinstance(found, str)
    assert "60 in all on the first side, 53 on the second" in found


def test_a_run_without_statistics_says_so(tmp_path: Path) -> None:
    first, second = made(tmp_path / "a", segmented(0.1), SAME), made(tmp_path / "b", None, SAME)
    assert grouped_difference("dice", first, second) == "not both runs keep statistics of their test patients"


def test_a_damaged_file_is_a_reason_and_not_the_end_of_the_comparison(tmp_path: Path) -> None:
    first, second = (made(tmp_path / name, segmented(0.1), SAME) for name in "ab")
    (second.path / "server-state" / measured.TEST).write_bytes(b"")
    assert grouped_difference("dice", first, second) == f"{measured.TEST} cannot be read"


def test_compare_pairs_by_groups_where_there_are_no_predictions(tmp_path: Path) -> None:
    folders = [made(tmp_path / name, segmented(error), SAME).path for name, error in (("a", 0.2), ("b", 0.1))]
    [contrast] = compare(folders).contrasts
    assert (contrast.method, contrast.reason) == ("paired by groups", "")
    assert contrast.difference.low > 0
    assert not (folders[0] / PREDICTIONS).exists()


def test_compare_prefers_predictions_which_pair_patients_one_by_one(tmp_path: Path) -> None:
    folders = [made(tmp_path / name, segmented(0.1), SAME).path for name in "ab"]
    for seed, folder in enumerate(folders):
        write_dice(folder, 0.0, 0.02, seed)
    [contrast] = compare(folders).contrasts
    assert contrast.method == "paired"


def test_compare_gives_both_reasons_where_nothing_could_be_paired(tmp_path: Path) -> None:
    first = made(tmp_path / "a", segmented(0.1), SAME).path
    second = made(tmp_path / "b", segmented(0.1), {**SAME, "hrf": "0" * 64}).path
    [contrast] = compare([first, second]).contrasts
    assert contrast.method == "unpaired"
    assert contrast.reason == "not both runs have predictions, and the cohorts of 1 sites are not the same: hrf"
