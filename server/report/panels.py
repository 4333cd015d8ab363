"""Which figures a report has: each with its heading, its caption, and a sentence on how to read it.

Promises
- A figure is there when its numbers are in the run, and only then; what a figure leaves out its caption says.
- Captions and readings are ours; names of sites and classes come from the run and are escaped by whoever shows them.

Leaves to others: drawing (``figures``, ``curve_figures``, ``gap_figures``, ``matrix_figure``) and showing (``page``,
``document``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from server.report import curve_figures, figures, gap_figures, matrix_figure, more_tables, svg
from server.report.arms import Kind, arms_of, at_a_glance
from server.report.metrics import LEVEL, Better, label, measure
from server.report.run import Run, sites_of

LEGEND = (
    ("federation", "shared model of the federation"),
    ("personalised", "after own-site steps"),
    ("central", "all data in one room"),
    ("local", "one site alone"),
)
READING = {
    "roc": (
        "ROC",
        "Each point is a threshold: the share of images with the finding that raise an alarm (up) against the share of "
        "those without it that do (across); the nearer to the upper left corner the better, and the dotted line is "
        "guessing.",
    ),
    "pr": (
        "Precision and recall",
        "Each point is a threshold: how many alarms are right (up) against how many images with the finding are found "
        "(across); the dotted line is what calling every image positive gives.",
    ),
    "reliability": (
        "Calibration",
        "Images of about the same predicted probability make one point, and on the dotted line that probability comes "
        "true; below it the model is too alarmed, above it not alarmed enough.",
    ),
    "decision": (
        "Net benefit",
        "Find the risk from which on you would act (across): the model is worth using if its line there is above both "
        "treating everybody and treating nobody.",
    ),
    "gaps": (
        "Subgroups",
        "A dot is a group's value minus that of all other patients: where its line crosses zero, chance is enough to "
        "explain the difference; where it does not, the mark is a diamond.",
    ),
    "matrix": (
        "Every model at every site",
        "A pale column is a site whose patients the others' models do not understand, a pale row a model that does not "
        "travel; framed cells are models at home.",
    ),
    "dots": (
        "Dots and lines",
        "The dot is the value, the line its 95\N{NO-BREAK SPACE}% interval: where two lines overlap widely, these "
        "patients do not tell which is better.",
    ),
}
"""How to read each kind of figure: a name and one sentence."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawing with its heading, its caption, the kinds of marks in it, and the key of how to read it."""

    title: str
    drawn: svg.Drawing
    caption: str
    kinds: tuple[tuple[str, str], ...] = ()
    reading: str = ""

    @property
    def drawing(self) -> Markup:
        """As inline SVG."""
        return Markup(svg.to_svg(self.drawn))  # noqa: S704 - drawn here, names escaped by matplotlib


def result_figures(run: Run) -> list[Figure]:
    """Ways of training side by side, and the shared model site by site."""
    found, arms = [], at_a_glance(arms_of(run))
    if len(arms) > 1:
        rows = [figures.Row(arm.name, ((arm.kind, arm.measure(run.headline)),)) for arm in arms]
        drawn = figures.dot_chart("arms", run.headline, rows, run.pooled)
        caption = "On the test patients of all sites. Lines are 95\N{NO-BREAK SPACE}% intervals."
        title = f"{label(run.headline)} by way of training"
        found.append(Figure(title, drawn, caption, _legend({arm.kind for arm in arms}), "dots"))
    if sites_of(run.results.final):
        found.append(_sites_figure(run))
    return found


def curve_panels(run: Run) -> list[Figure]:
    """ROC, precision against recall, calibration and net benefit of the final model, where the run has them."""
    pooled: Any = run.results.final.get("curves") or {}
    by_site: Any = run.results.final.get("site_curves") or {}

    def both(kind: str) -> curve_figures.Curves:
        sites = {site: of[kind] for site, of in sorted(by_site.items()) if kind in of}
        return curve_figures.Curves(pooled[kind], sites)

    found = []
    if "roc" in pooled:
        drawn = curve_figures.roc_chart("roc", both("roc"), _operating_points(run))
        found.append(Figure("ROC curve", drawn, _whose(both("roc")), reading="roc"))
    if "pr" in pooled:
        drawn = curve_figures.precision_chart("pr", both("pr"))
        found.append(Figure("Precision and recall", drawn, _whose(both("pr")), reading="pr"))
    if "reliability_mass" in pooled:
        drawn = curve_figures.reliability_chart("calibration", pooled["reliability_mass"], pooled["reliability_width"])
        caption = "All test patients. Points of fewer than 3 images are left out."
        found.append(Figure("Calibration", drawn, caption, reading="reliability"))
    return [*found, *_decisions(pooled.get("decision") or {})]


def gap_panels(run: Run) -> dict[str, Figure]:
    """By declared column: how far its levels lie from all others, in the first metric that says so of two levels."""
    found = {}
    for place, column in enumerate(run.results.final.get("subgroups") or {}):
        told = ((metric, gap_figures.gaps_of(run, column, metric)) for metric in run.overall_metrics)
        chosen = next(((metric, gaps) for metric, gaps in told if _told(gaps) > 1), None)
        if chosen is None:
            continue
        metric, gaps = chosen
        drawn = gap_figures.gap_chart(f"gaps-{place}", f"by {column}", metric, gaps, _better(run, metric))
        caption = (
            "Of the shared model on test patients. Lines are 95\N{NO-BREAK SPACE}% intervals; of twenty groups that do "
            "not differ, one leaves zero by chance."
        )
        found[column] = Figure(f"{label(metric)} by {column}: gaps", drawn, caption, reading="gaps")
    return found


def matrix_panel(run: Run) -> Figure | None:
    """Every site's model at every site as a heat map; None where nobody asked, or of more sites than fit."""
    found = run.results.baselines.get("cross_site") or {}
    if not 0 < len(found) <= matrix_figure.MOST_SITES:
        return None
    drawn = matrix_figure.matrix_chart("matrix", run.headline, found, _better(run, run.headline))
    caption = f"{more_tables.whose_models(run)} Columns: whose test patients. Framed: at home. Darker is better."
    return Figure(f"{label(run.headline)} of every model at every site", drawn, caption, reading="matrix")


def training_figures(run: Run) -> list[Figure]:
    """Loss and headline metric by round, where there are rounds to show."""
    found = []
    losses = [(record.participation.round, record.loss) for record in run.rounds if record.loss is not None]
    if losses:
        rounds, values = zip(*losses, strict=True)
        line = figures.Line("loss", rounds, values)
        alt = f"Training loss by round: {values[0]:.3f} in round {rounds[0]}, {values[-1]:.3f} in round {rounds[-1]}."
        caption = "Mean over the local steps of all sites in the round."
        found.append(Figure("Training loss", figures.line_chart("loss", alt, [line]), caption))
    lines = _metric_lines(run)
    if lines[0].values:
        name, first, last = label(run.headline), lines[0].values[0], lines[0].values[-1]
        alt = f"{name} on validation patients by round: {first:.3f} at first, {last:.3f} at last."
        caption = f"Shared model on validation patients, with its {LEVEL}{'; by site' if lines[1:] else ''}."
        found.append(Figure(f"{name} while training", figures.line_chart("metric", alt, lines), caption))
    return found


def attendance(run: Run) -> Figure | None:
    """Who took part in which round; None where there was no round."""
    if not run.results.participation:
        return None
    drawn = figures.attendance_chart("attendance", run.results.participation)
    return Figure("Who took part", drawn, "Filled: the site's update is in the sum. Hatched: it is not.")


def readings(shown: Sequence[Figure]) -> list[tuple[str, str]]:
    """How to read the figures shown, each kind once, in the order of ``READING``."""
    kinds = {figure.reading for figure in shown}
    return [said for kind, said in READING.items() if kind in kinds]


def _legend(kinds: set[Any]) -> tuple[tuple[str, str], ...]:
    return tuple((kind, text) for kind, text in LEGEND if kind in kinds)


def _whose(curves: curve_figures.Curves) -> str:
    if not curves.sites or list(curves.pooled) != [""]:
        return "All test patients of all sites together."
    return "Thick: all test patients of all sites together. Thin: each site's own."


def _decisions(curves: curve_figures.ByFinding) -> Iterator[Figure]:
    for place, (finding, points) in enumerate(curves.items()):
        drawn = curve_figures.decision_chart(f"decision-{place}", finding, points)
        caption = "All test images. True positives for each image, less false ones at the price that the risk sets."
        yield Figure(f"Net benefit{f', {finding}' if finding else ''}", drawn, caption, reading="decision")


def _operating_points(run: Run) -> dict[str, tuple[float, float]]:
    """By finding (1 - specificity, sensitivity) at the plan's operating point."""
    block: Any = run.results.final.get("operating_point") or {}
    found = {}
    for finding in block.get("thresholds") or {}:
        suffix = f"_{finding}" if finding else ""
        hits, cleared = (measure(block["pooled"].get(f"{name}{suffix}")) for name in ("sensitivity", "specificity"))
        if hits.determined and cleared.determined:
            found[finding] = (1 - cleared.value, hits.value)
    return found


def _told(gaps: Sequence[gap_figures.Gap]) -> int:
    return sum(gap.against_rest.determined for gap in gaps)


def _better(run: Run, metric: str) -> Better:
    return "lower" if metric in run.results.lower_is_better else "higher"


def _metric_lines(run: Run) -> list[figures.Line]:
    measured = [(record.participation.round, record.metrics) for record in run.rounds if record.metrics]
    sites = sorted({site for _, block in measured for site in sites_of(block)})
    pooled = _line(run.headline, "all sites", [(at, block["pooled"]) for at, block in measured])
    by_site = ((site, [(at, sites_of(block).get(site, {})) for at, block in measured]) for site in sites)
    return [pooled, *(_line(run.headline, site, points) for site, points in by_site)]


def _line(metric: str, name: str, points: Sequence[tuple[int, Any]]) -> figures.Line:
    known = [(at, found) for at, metrics in points if (found := measure(metrics.get(metric))).determined]
    return figures.Line(
        name,
        tuple(at for at, _ in known),
        tuple(found.value for _, found in known),
        tuple(found.low for _, found in known),
        tuple(found.high for _, found in known),
    )


def _sites_figure(run: Run) -> Figure:
    sites = sites_of(run.results.final)
    rows = [_site_row(run, site) for site in _weakest_last(run, list(sites))]
    drawn = figures.dot_chart("sites", run.headline, rows[-figures.MOST_NAMED_ROWS :], run.pooled)
    caption = "On each site's own test patients. Dashed: the shared model on all patients."
    if len(rows) > figures.MOST_NAMED_ROWS:
        caption += f" The {figures.MOST_NAMED_ROWS} weakest of {len(rows)} sites; all are in the table."
    kinds = {kind for row in rows for kind, _ in row.marks}
    return Figure(f"{label(run.headline)} by site", drawn, caption, _legend(kinds), "dots")


def _site_row(run: Run, site: str) -> figures.Row:
    """One site's own test patients: the shared model, the fine-tuned one, and the one trained there alone."""
    alone = run.results.baselines.get("at_home", {}).get(site, {}).get("local")
    kinds: tuple[tuple[Kind, Any], ...] = (
        ("federation", sites_of(run.results.final)[site]),
        ("personalised", sites_of(run.results.personalised).get(site)),
        ("local", alone),
    )
    marks = ((kind, measure(metrics.get(run.headline))) for kind, metrics in kinds if metrics is not None)
    return figures.Row(site, tuple(marks))


def _weakest_last(run: Run, sites: list[str]) -> list[str]:
    sign = 1 if run.headline in run.results.lower_is_better else -1
    values = {site: measure(sites_of(run.results.final)[site].get(run.headline)) for site in sites}
    return sorted(sites, key=lambda site: (sign * values[site].value if values[site].determined else -math.inf, site))
