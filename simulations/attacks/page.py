"""``attack.html``: one page that shows an ethics board what an attacker gets out of training, and what privacy buys.

Promises
- The page is one file in the style of the report: no script, nothing from anywhere else; it opens without a network.
- A page about real patients shows numbers and no picture.

Sentences come from ``words``, drawings from ``plots``; ``template.html.j2`` puts them in place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

import server.report
from server.report.metrics import UNDETERMINED, label
from server.report.page import unbroken
from server.report.tables import Cell, Table
from simulations.attacks import plots, words
from simulations.attacks.bounds import most_advantage, most_tpr
from simulations.attacks.curves import Estimate
from simulations.attacks.findings import ArmFound, Attack, Comparison, Network, Reconstruction

ATTACKS: tuple[Attack, ...] = ("likelihood ratio", "loss threshold")
NETWORKS: dict[Network, str] = {"small": "A small network", "plan": "The plan's own network"}


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawing with its heading and caption."""

    title: str
    drawing: Markup
    caption: str


@dataclass(frozen=True, slots=True)
class Strip:
    """Pictures of one patient side by side, each with what it is."""

    title: str
    pictures: tuple[tuple[str, str], ...]
    """(data URI, caption)"""


def render(found: Comparison) -> str:
    """The page as text."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([Path(__file__).parent, Path(server.report.__file__).parent]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["unbroken"] = unbroken
    return environment.get_template("attack.html.j2").render(context(found))


def context(found: Comparison) -> dict[str, Any]:
    """Everything the template shows, by name."""
    return {
        "title": found.title,
        "lead": words.lead(found),
        "facts": facts(found),
        "control": words.control(found),
        "figures": figures(found),
        "membership_tables": [membership_table(found, attack) for attack in ATTACKS],
        "promise_table": promise_table(found),
        "proven": words.proven(found),
        "strips": [(heading, strips(found, network)) for network, heading in NETWORKS.items()],
        "synthetic": found.synthetic,
        "inversion_table": inversion_table(found),
        "own_network": words.own_network(found),
        "limits": words.limits(found),
        "provenance": list(found.provenance.items()),
        "command": found.provenance["command"],
    }


def facts(found: Comparison) -> list[tuple[str, str, str]]:
    """Numbers at the top: (what, value, detail); members found of 100 when 10 of 100 strangers are accused."""
    shown = [arm for arm in found.arms if arm.arm.kind != "control"]
    recognised = [(f"Found, {arm.arm.title}", f"{words.best_at_10(arm):.0f}", "of 100 members") for arm in shown]
    size = ("Patients", str(found.patients), f"{found.images} images")
    return [
        *recognised,
        size,
        ("Models", str(found.models * len(found.arms)), f"{found.models} in each way of training"),
    ]


def figures(found: Comparison) -> list[Figure]:
    """The curve of each attack, and the advantages."""
    dotted = "Dotted, in each colour: what no attack can exceed under that promise."
    drawn = [
        Figure(f"Recognising patients: {attack}", _markup(plots.roc(f"roc-{place}", attack, found.arms)), dotted)
        for place, attack in enumerate(ATTACKS)
    ]
    caption = (
        "Share of members found less share of strangers accused, with 95\N{NO-BREAK SPACE}% intervals. "
        "Filled: likelihood ratio; hatched: loss threshold. Thick mark: what no attack can exceed."
    )
    return [*drawn, Figure("Advantage over guessing", _markup(plots.advantages("advantages", found.arms)), caption)]


def membership_table(found: Comparison, attack: Attack) -> Table:
    """One attack's success on every way of training."""
    rows = []
    for arm in found.arms:
        success = arm.attacks[attack]
        shares = (_share(success.tpr_at_1), _share(success.tpr_at_10))
        rows.append((arm.arm.title, (_estimate(success.auc), *shares, _estimate(success.advantage))))
    columns = ("Training", "AUC", "Found at 1 % accused", "Found at 10 % accused", "Advantage")
    note = "Guessing: AUC 0.5, 1 % and 10 % found, advantage 0. Intervals (95 %) resample patients."
    return Table(f"{attack.capitalize()}", columns, tuple(rows), note)


def promise_table(found: Comparison) -> Table:
    """What is promised, what that allows, what the attack proves, and what it costs in quality."""
    rows = tuple((arm.arm.title, _promised(arm)) for arm in found.arms)
    columns = (
        "Training",
        "ε claimed",
        "ε proven",
        "Noise",
        "Most found at 10 %",
        "Most advantage",
        label(found.headline),
    )
    note = (
        "Proven: a lower limit with 95 % confidence. Noise: its multiplier of the clip norm. "
        f"{label(found.headline)}: on patients that a model was not trained on, mean over models."
    )
    return Table("Promise, proof and price", columns, rows, note)


def inversion_table(found: Comparison) -> Table:
    """How like the truth reconstructions are, mean over patients."""
    rows = []
    for network, heading in NETWORKS.items():
        for arm in found.arms:
            pair = found.likeness(network, arm.arm.name)
            if pair is not None:
                cells = tuple(cell for one in pair for cell in (_decibels(one.psnr_db), _number(one.ssim)))
                rows.append((f"{heading}, {arm.arm.title}", cells))
    columns = ("Gradient of", "PSNR", "SSIM", "PSNR of a guess", "SSIM of a guess")
    note = "Mean over the images looked for. A guess is the mean image of other patients. Larger is more alike."
    return Table("Images from gradients", columns, tuple(rows), note)


def strips(found: Comparison, network: Network) -> list[Strip]:
    """Reconstructions of one network by patient; none without pictures."""
    some = [one for one in found.reconstructions if one.network == network and one.picture is not None]
    patients = sorted({one.patient for one in some})
    return [_strip(found, patient, [one for one in some if one.patient == patient]) for patient in patients]


def _strip(found: Comparison, patient: int, some: Sequence[Reconstruction]) -> Strip:
    titles = {arm.arm.name: arm.arm.title for arm in found.arms}
    truth = some[0].truth
    assert truth is not None  # noqa: S101 - a picture comes with its truth
    pictures = [(plots.picture(truth, found.grey), "the patient's image")]
    for one in some:
        assert one.picture is not None  # noqa: S101 - chosen for having one
        caption = f"from the gradient, {titles[one.arm]}: SSIM {words.two_decimals(one.found.ssim)}"
        pictures.append((plots.picture(one.picture, found.grey), caption))
    return Strip(f"Patient {patient}", tuple(pictures))


def _promised(arm: ArmFound) -> tuple[Cell, ...]:
    quality, proof = _number(arm.quality), Cell(f"{arm.proof.epsilon:.2f}", value=arm.proof.epsilon)
    if arm.arm.promise is None or arm.arm.terms is None:
        return Cell("none"), proof, Cell("none"), Cell("all"), Cell("1.00", value=1.0), quality
    promise, sigma = arm.arm.promise, arm.arm.terms.noise_multiplier
    most = float(most_tpr(np.array([0.1]), promise)[0])
    claimed = Cell(f"{promise.epsilon:g}", f"δ {promise.delta:g}", promise.epsilon)
    return claimed, proof, Cell(f"{sigma:.2f}", value=sigma), _share(most), _number(most_advantage(promise)), quality


def _estimate(found: Estimate) -> Cell:
    return Cell(words.two_decimals(found.value), f"{found.low:.2f} to {found.high:.2f}", found.value)


def _share(value: float) -> Cell:
    return Cell(f"{100 * value:.1f} %", value=value)


def _decibels(value: float) -> Cell:
    return Cell(f"{value:.1f} dB", value=value)


def _number(value: float) -> Cell:
    return Cell(words.two_decimals(value), value=value) if np.isfinite(value) else Cell(UNDETERMINED)


def _markup(drawing: str) -> Markup:
    return Markup(drawing)  # noqa: S704 - drawn here, names escaped by matplotlib
