"""The cross-site matrix and its evidence: every cell by hand, and no site judged by its own model."""

from dataclasses import asdict
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from tiny_federation import SITES, tiny_data, tiny_plan

from client.site import Site
from client.training.inference import predictions, scores, statistics
from shared.evaluation.additive import Statistics
from shared.evaluation.label_quality import Outlines, Ranks, displacements, findings
from shared.evaluation.summary import final_block, summarise
from shared.messages import Vector
from shared.plan import Plan
from shared.preprocessing.image import Case
from simulations import cross_site
from simulations.baselines import Baselines, run_baselines
from simulations.cross_site import CrossSite, cross_site_block, evidence_of, matrix_column, overlap_by_displacement
from simulations.progress import Silent
from simulations.workers import Pool, Sites, SiteSpec

SPECS = tuple(SiteSpec(name, Path("nowhere"), "", Path("nowhere")) for name in SITES)
PLAN = tiny_plan(plan__rounds=4)


def memory_sites(folder: Path, plan: Plan = PLAN) -> Sites:
    sites = Sites(plan, folder)
    sites._sites.update({name: Site(name, tiny_data(name), sites.workbench) for name in SITES})
    return sites


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    return Pool(memory_sites(tmp_path_factory.mktemp("sites")), workers=1)


@pytest.fixture(scope="module")
def measured(pool: Pool) -> Baselines:
    return run_baselines(pool, SPECS, pool.sites.workbench.initial_weights(), Silent())


@pytest.fixture(scope="module")
def models(measured: Baselines) -> dict[str, Vector]:
    return dict(measured.models)


@pytest.fixture(scope="module")
def found(pool: Pool, models: dict[str, Vector]) -> CrossSite:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cross_site, "shared_patients", lambda _specs: ())  # these sites have no archive
        return cross_site.cross_site(pool, SPECS, models, Silent())


# --- the matrix ------------------------------------------------------------------------------------------------------


def test_the_baselines_hand_over_the_model_that_they_measured(
    pool: Pool, measured: Baselines, models: dict[str, Vector]
) -> None:
    for site in SITES:
        again = matrix_column(pool.sites, SPECS[0], models, "test")[site]
        assert (again.flat() == measured.local[site]["aachen"].flat()).all()


def test_every_cell_is_the_row_s_model_on_the_column_s_patients(
    found: CrossSite, pool: Pool, models: dict[str, Vector]
) -> None:
    bench = pool.sites.workbench
    for model, site in product(SITES, SITES):
        for matrix, split in ((found.test, "test"), (found.validation, "validation")):
            cases = tiny_data(site).split(split)  # type: ignore[arg-type]
            by_hand = statistics(bench.load(models[model]), cases, bench.task, PLAN, bench.device)
            assert (matrix[model][site].flat() == by_hand.flat()).all()


def test_rows_and_columns_are_not_mixed_up(found: CrossSite) -> None:
    """The control of the test above: cells beside the diagonal differ from their mirror images."""
    assert any(
        (found.test[one][other].flat() != found.test[other][one].flat()).any() for one, other in product(SITES, SITES)
    )


def test_the_document_has_every_metric_of_every_cell_with_its_interval(found: CrossSite, pool: Pool) -> None:
    task = pool.sites.workbench.task
    said = cross_site_block(found, task)
    for name, matrix in (("cross_site", found.test), ("cross_site_validation", found.validation)):
        for model, site in product(SITES, SITES):
            cell = said[name][model][site]  # type: ignore[index]
            assert cell == final_block(summarise(task, matrix[model][site]))["pooled"]
            assert {"value", "low", "high", "n_patients"} <= set(cell["auroc"])


def test_a_column_sums_up_to_the_baseline_on_all_patients(found: CrossSite, pool: Pool) -> None:
    schema = pool.sites.workbench.task.schema
    cells = found.test["bergen"]
    pooled = sum(cells.values(), Statistics.zero(schema)).total()
    assert int(pooled["cases"]) == 3 * 8


def test_two_workers_find_what_one_finds_because_draws_have_seeds_of_their_own(
    found: CrossSite, pool: Pool, models: dict[str, Vector], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cross_site, "shared_patients", lambda _specs: ())
    again = cross_site.cross_site(pool, SPECS[::-1], models, Silent())
    assert repr(again.checks) == repr(found.checks)


def test_honest_sites_are_in_peace(found: CrossSite) -> None:
    assert found.findings == ()
    assert len(found.checks) == 3 * len(SITES)


# --- evidence of ranks -----------------------------------------------------------------------------------------------


def test_evidence_leaves_a_site_s_own_model_out(pool: Pool, models: dict[str, Vector]) -> None:
    own = evidence_of(pool.sites, SPECS[1], models)
    assert isinstance(own, Ranks)
    assert own.models == ("aachen", "coimbra")
    assert own.scores.shape == own.negatives.shape == (2, 13, 1)


def test_evidence_is_of_all_patients_with_all_their_images(pool: Pool, models: dict[str, Vector]) -> None:
    """Oracle: predictions case by case, averaged by patient by hand."""
    own = evidence_of(pool.sites, SPECS[1], models)
    bench, data = pool.sites.workbench, tiny_data("bergen")
    cases = [*data.train, *data.validation, *data.test]
    by_patient: dict[str, list[tuple[float, float]]] = {}
    for case, values in predictions(
        scores(bench.load(models["coimbra"]), cases, bench.task, PLAN, bench.device), bench.task
    ):
        by_patient.setdefault(case.patient, []).append((float(values["label"]), float(values["score"])))
    means = np.array([np.mean(rows, axis=0) for rows in by_patient.values()])
    assert isinstance(own, Ranks)
    np.testing.assert_allclose(own.labels[:, 0], means[:, 0])
    np.testing.assert_allclose(own.scores[1, :, 0], means[:, 1], atol=1e-6)


def test_negatives_are_scores_of_negated_voxels(pool: Pool, models: dict[str, Vector]) -> None:
    own = evidence_of(pool.sites, SPECS[0], models)
    data = tiny_data("aachen")
    cases = [
        Case(**asdict_shallow(case) | {"voxels": -case.voxels}) for case in (*data.train, *data.validation, *data.test)
    ]
    bench = pool.sites.workbench
    found = [
        values["score"]
        for _, values in predictions(
            scores(bench.load(models["bergen"]), cases, bench.task, PLAN, bench.device), bench.task
        )
    ]
    assert isinstance(own, Ranks)
    np.testing.assert_allclose(own.negatives[0, :, 0], np.reshape(found, (-1, 2)).mean(axis=1), atol=1e-6)


def asdict_shallow(case: Case) -> dict[str, object]:
    return {name: getattr(case, name) for name in Case.__slots__}


def test_no_more_patients_are_looked_at_than_the_limit(
    pool: Pool, models: dict[str, Vector], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cross_site, "PATIENTS", 5)
    own = evidence_of(pool.sites, SPECS[0], models)
    assert own is not None
    assert own.patients == 5


def test_flipped_labels_of_a_site_in_memory_are_found(tmp_path: Path, models: dict[str, Vector]) -> None:
    """Through the same evidence as a run's, with patients of one image each."""
    sites = memory_sites(tmp_path)
    evidence = {}
    for spec in SPECS:
        cases = [
            Case(f"{spec.name}-{n}", f"{spec.name}-{n}", case.voxels, None, case.label, (1.0, 1.0))
            for n, case in enumerate(
                [*tiny_data(spec.name).train, *tiny_data(spec.name).validation, *tiny_data(spec.name).test]
            )
        ]
        if spec.name == "bergen":
            cases = [Case(**asdict_shallow(case) | {"label": 1 - int(case.label or 0)}) for case in cases]
        data = tiny_data(spec.name)
        sites._sites[spec.name] = Site(
            spec.name, type(data)(cases, [], [], tuple((n,) for n in range(len(cases)))), sites.workbench
        )
        evidence[spec.name] = evidence_of(sites, spec, models)
    checks = cross_site.assess({site: one for site, one in evidence.items() if one}, np.random.default_rng(0))
    assert {one.site for one in findings(checks)} == {"bergen"}


# --- evidence of outlines --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(16, 20), (12, 12, 16)])
def test_dice_by_displacement_is_that_of_the_moved_prediction(shape: tuple[int, ...]) -> None:
    """Oracle: the prediction moved by hand, voxel by voxel, without wrapping round."""
    rng = np.random.default_rng(0)
    prediction, truth = (rng.random(shape) < 0.3 for _ in range(2))
    found = overlap_by_displacement(prediction.astype(np.uint8), truth.astype(np.uint8))
    reach = found.shape[0] // 2
    assert reach == min(shape) // 4
    total = prediction.sum() + truth.sum()
    for step, value in zip(displacements(reach, len(shape)), found.ravel(), strict=True):
        moved = np.zeros(shape, bool)
        to = tuple(slice(max(0, s), length + min(0, s)) for s, length in zip(step, shape, strict=True))
        origin = tuple(slice(max(0, -s), length + min(0, -s)) for s, length in zip(step, shape, strict=True))
        moved[to] = prediction[origin]
        assert value == pytest.approx(2 * (moved & truth).sum() / total)


def test_a_moved_mask_is_found_where_it_was_moved_to() -> None:
    truth = np.zeros((32, 32), np.uint8)
    truth[10:16, 12:18] = 1
    found = overlap_by_displacement(truth, np.roll(truth, (3, -2), (0, 1)))
    best = np.unravel_index(found.argmax(), found.shape)
    assert (np.array(best) - found.shape[0] // 2).tolist() == [3, -2]
    assert found.max() == 1.0


def test_classes_are_taken_together_and_two_empty_masks_say_nothing() -> None:
    truth = np.zeros((8, 8), np.uint8)
    assert np.isnan(overlap_by_displacement(truth, truth)).all()
    truth[2:5, 2:5] = 1
    found = overlap_by_displacement(truth * 2, truth)
    assert found[found.shape[0] // 2, found.shape[1] // 2] == 1.0


def masked(site: str, plan: Plan, folder: Path) -> tuple[Sites, list[Case]]:
    rng = np.random.default_rng(0)
    cases = []
    for number in range(6):
        mask = np.zeros((8, 8), np.uint8)
        if number:  # the first case is empty
            mask[2:6, number % 3 : number % 3 + 4] = 1
        voxels = (rng.normal(size=(1, 8, 8)) + mask).astype(np.float32)
        cases.append(Case(f"c{number}", f"p{number // 2}", voxels, mask, None, (1.0, 1.0)))
    sites = Sites(plan, folder)
    data = tiny_data(site)
    sites._sites[site] = Site(site, type(data)(cases, [], [], ((0,),)), sites.workbench)
    return sites, cases


def test_evidence_of_outlines_is_dice_by_patient(tmp_path: Path) -> None:
    """Oracle: the foreground's Dice case by case from predictions, averaged by patient."""
    plan = tiny_plan(
        plan__task="segmentation", data__classes=["background", "square"], model__name="unet", model__norm="instance"
    )
    sites, cases = masked("aachen", plan, tmp_path)
    weights = sites.workbench.initial_weights()
    own = evidence_of(sites, SPECS[0], {"aachen": weights * 0, "bergen": weights, "coimbra": weights * 0.5})
    assert isinstance(own, Outlines)
    assert own.models == ("bergen", "coimbra")
    bench = sites.workbench
    by_patient: dict[str, list[float]] = {}
    for case, values in predictions(scores(bench.load(weights), cases, bench.task, plan, bench.device), bench.task):
        value = float(values["dice"])
        if not np.isnan(value):
            by_patient.setdefault(case.patient, []).append(value)
    np.testing.assert_allclose(own.dice[0], [np.mean(values) for values in by_patient.values()])
    centre = own.moved.shape[1] // 2
    np.testing.assert_allclose(own.moved[:, centre, centre], own.dice.mean(axis=0))
    assert asdict(own)["negatives"].shape == own.dice.shape
