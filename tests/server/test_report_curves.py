"""Curves on the report: the points of results.json, told apart without colour, and said in words."""

import math
import re
from dataclasses import replace
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from classified_runs import CLASSIFIED, classified, curves, roc
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import auc

from server.report import curve_figures, panels, svg
from server.report.curve_figures import Curves, area_under
from server.report.run import Run
from server.site_curves import FEWEST, site_curves
from shared.evaluation.additive import collect
from shared.plan import parse
from shared.preprocessing.image import Case
from shared.tasks import task_for

SVG = "{http://www.w3.org/2000/svg}"
ONE = Curves({"": roc()}, {"drive": {"": roc(0.7)}, "stare": {"": roc(0.6)}})
TWO = Curves({"mass": roc(), "nodule": roc(0.7)}, {"drive": {"mass": roc(0.6)}})


def tree(drawing: svg.Drawing) -> ET.Element:
    return ET.fromstring(svg.to_svg(drawing))  # noqa: S314 - our own text


def words(drawing: svg.Drawing) -> set[str]:
    return {element.text or "" for element in tree(drawing).iter(f"{SVG}text")}


def thick(drawing: svg.Drawing) -> np.ndarray:
    """Corners of the first thick line."""
    lines = (path for path in tree(drawing).iter(f"{SVG}path") if "stroke-width: 2.4" in path.get("style", ""))
    return np.array([[float(x), float(y)] for x, y in re.findall(r"[ML] ([\d.]+) ([\d.]+)", next(lines).get("d", ""))])


def run(found: object = None) -> Run:
    return Run(parse(CLASSIFIED), CLASSIFIED, found or classified(), ())  # type: ignore[arg-type]


def test_the_thick_line_runs_through_the_points_of_results_json() -> None:
    corners, points = thick(curve_figures.roc_chart("roc", ONE)), roc()
    across, up = corners[:, 0], corners[:, 1]
    x = np.polyval(np.polyfit([across[0], across[-1]], [1.0, 0.0], 1), across)
    y = np.polyval(np.polyfit([up[0], up[-1]], [1.0, 0.0], 1), up)
    expected = np.interp(x, points["false_positive_rate"][::-1], points["sensitivity"][::-1])
    np.testing.assert_allclose(y, expected, atol=2e-3)
    assert len(corners) > 15


def test_an_area_is_that_of_scikit_learn() -> None:
    points = roc(0.85, 25)
    expected = auc(points["false_positive_rate"], points["sensitivity"])
    assert area_under(points, "false_positive_rate", "sensitivity") == pytest.approx(expected, abs=1e-12)
    assert expected == pytest.approx(0.85, abs=0.01), "the made-up curve has the area it says"


@given(st.floats(0.55, 0.98))
def test_the_text_alternative_says_the_area(area: float) -> None:
    drawing = curve_figures.roc_chart("roc", Curves({"": roc(area, 400)}, {}))
    said = float(re.findall(r"area (\d\.\d\d)", drawing.alt)[0])
    assert said == pytest.approx(area, abs=0.012)


def test_sensitivity_at_a_tenth_of_false_alarms_is_read_at_that_tenth() -> None:
    points = {"false_positive_rate": [1.0, 0.2, 0.1, 0.0], "sensitivity": [1.0, 0.9, 0.7, 0.0]}
    assert "sensitivity 0.70 at 10 % and 0.90 at 20 %" in curve_figures.roc_chart("r", Curves({"": points}, {})).alt


@pytest.mark.parametrize(
    ("drawing", "named"),
    [
        (curve_figures.roc_chart("roc", ONE), {"guessing", "all sites", "drive", "stare"}),
        (curve_figures.roc_chart("roc", TWO), {"guessing", "mass", "nodule"}),
        (curve_figures.precision_chart("pr", Curves(curves()["pr"], {})), {"calling all positive", "all sites"}),
        (
            curve_figures.reliability_chart("c", curves()["reliability_mass"], curves()["reliability_width"]),
            {"perfect calibration", "tenths of the images", "tenths of the scale"},
        ),
        (
            curve_figures.decision_chart("d", "", curves()["decision"][""]),
            {"treat nobody", "treat everybody", "follow the model"},
        ),
    ],
    ids=["roc", "findings", "precision", "calibration", "decision"],
)
def test_every_line_is_named_in_the_picture(drawing: svg.Drawing, named: set[str]) -> None:
    assert named <= words(drawing)
    assert len(drawing.alt) > 40


def test_sites_are_thin_dashed_and_only_drawn_for_a_single_finding() -> None:
    text = svg.to_svg(curve_figures.roc_chart("roc", ONE))
    assert text.count("stroke-width: 1.1") >= 4, "two sites and guessing, in the picture and in its legend"
    assert len(set(re.findall(r"stroke-dasharray: ([\d., ]+)", text))) >= 3
    assert "drive" not in words(curve_figures.roc_chart("roc", TWO))


def test_many_sites_are_drawn_without_a_name_each() -> None:
    many = Curves({"": roc()}, {f"site-{place:02}": {"": roc(0.7)} for place in range(30)})
    shown = words(curve_figures.roc_chart("roc", many))
    assert "single sites" in shown
    assert not any(text.startswith("site-") for text in shown)


def test_the_operating_point_is_marked_and_said() -> None:
    drawing = curve_figures.roc_chart("roc", ONE, {"": (0.4, 0.9)})
    assert "operating point" in words(drawing)
    assert "sensitivity 0.90 at 40 % false alarms" in drawing.alt
    assert "operating point" not in words(curve_figures.roc_chart("roc", ONE))


def test_a_bin_that_is_not_told_is_no_point() -> None:
    told = {"": {"score": [0.1, 0.5, 0.9], "observed": [0.1, 0.4, 0.8]}}
    hidden = {"": {"score": [0.1, None, 0.9], "observed": [0.1, None, 0.8]}}
    counts = [
        len([use for use in tree(curve_figures.reliability_chart("c", by, {})).iter(f"{SVG}use")
             if "--accent" in use.get("style", "")])
        for by in (told, hidden)
    ]  # fmt: skip
    assert counts[0] - counts[1] == 1
    assert "0.50 predicted" not in curve_figures.reliability_chart("c", hidden, {}).alt


def test_a_model_that_is_never_worth_it_is_said_to_be() -> None:
    points = {"threshold": [0.2, 0.5], "model": [0.1, -0.1], "treat_all": [0.2, -0.3]}
    assert "nowhere better" in curve_figures.decision_chart("d", "", points).alt
    better = {**points, "model": [0.3, 0.1]}
    assert "thresholds from 0.20 to 0.50" in curve_figures.decision_chart("d", "", better).alt


def test_a_run_with_curves_has_a_figure_of_each_kind_and_a_sentence_on_how_to_read_it() -> None:
    found = panels.curve_panels(run())
    assert [figure.title for figure in found] == ["ROC curve", "Precision and recall", "Calibration", "Net benefit"]
    assert [name for name, _ in panels.readings(found)] == ["ROC", "Precision and recall", "Calibration", "Net benefit"]
    assert all(text.count(". ") == 0 and text.endswith(".") for _, text in panels.READING.values()), "one sentence each"


def test_a_run_without_curves_has_no_figure_of_them() -> None:
    final = {name: part for name, part in classified().final.items() if name != "curves"}
    assert panels.curve_panels(run(replace(classified(), final=final))) == []


def test_the_operating_point_on_the_curve_is_that_of_results_json() -> None:
    figure = panels.curve_panels(run())[0]
    assert "Operating point: sensitivity 0.90 at 40 % false alarms" in figure.drawn.alt


# --- curves of sites


def measured(patients: int, findings: str = "exclusive") -> dict[str, object]:
    """Site curves of one site with so many patients of either class."""
    text = CLASSIFIED
    if findings == "multilabel":
        text = text.replace('["benign", "malignant"]', '["mass", "nodule"]\nlabels = "multilabel"')
    task = task_for(parse(text))
    rng = np.random.default_rng(5)
    cases = []
    for place in range(patients):
        truth = place % 2
        score = 1 / (1 + math.exp(-rng.normal(2 * truth - 1, 1)))
        label = (truth, 1 - truth) if findings == "multilabel" else truth
        case = Case(f"c{place}", f"p{place}", np.zeros((1, 4, 4), np.float32), None, label, (1.0, 1.0))
        cases.append((np.array([1 - score, score], np.float32), case))
    observed = ((case.patient, task.observe(scores, case)) for scores, case in cases)
    return dict(site_curves(task, {"drive": collect(task.schema, observed)}))


def test_a_site_of_few_patients_has_no_curve_of_its_own() -> None:
    assert measured(FEWEST - 1) == {}
    assert list(measured(FEWEST)) == ["drive"]


def test_a_sites_curves_are_those_that_cannot_do_without_it() -> None:
    assert set(measured(FEWEST)["drive"]) == {"roc", "pr"}  # type: ignore[call-overload]


def test_several_findings_have_no_curves_by_site() -> None:
    assert measured(2 * FEWEST, "multilabel") == {}
