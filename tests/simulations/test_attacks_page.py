"""The page and the document: every number stands in both, no picture of a real patient, nothing from elsewhere."""

import base64
import dataclasses
import io
import json
import math
import re
from html import unescape
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_federation import tiny_plan

from simulations.attacks import plots, words
from simulations.attacks.arms import Arm, arms_of
from simulations.attacks.bounds import most_advantage, proven_epsilon
from simulations.attacks.curves import Curve, curve, success
from simulations.attacks.findings import ArmFound, Comparison, Network, Reconstruction, document
from simulations.attacks.likeness import Likeness
from simulations.attacks.page import figures, membership_table, promise_table, render

MODELS, PATIENTS = 8, 60
GAPS = {"control": 3.0, "plain": 1.5, "private": 0.0}
ARMS = arms_of(tiny_plan(), 20)


def arm_found(arm: Arm, gap: float, seed: int = 0) -> ArmFound:
    rng = np.random.default_rng(seed)
    members = rng.random((MODELS, PATIENTS)) < 0.5
    scores = rng.normal(size=members.shape) + gap * members
    done = success(scores, members, rng)
    return ArmFound(
        arm,
        0.75,
        {"likelihood ratio": done, "loss threshold": done},
        {"likelihood ratio": curve(scores, members), "loss threshold": curve(scores, members)},
        proven_epsilon(scores, members, 0.0),
    )


def reconstruction(network: Network, patient: int, arm: Arm, ssim: float) -> Reconstruction:
    picture = np.linspace(-1, 1, 64, dtype=np.float32).reshape(1, 8, 8)
    found = Likeness(40.0 * ssim, ssim)
    return Reconstruction(network, patient, arm.name, 0.1, found, Likeness(12.0, 0.1), picture, -picture)


def comparison(**changes: Any) -> Comparison:
    pictured = tuple(
        reconstruction(network, patient, arm, 0.95 if arm.kind == "plain" and network == "small" else 0.02)
        for network in ("small", "plan")
        for patient in (1, 2)
        for arm in ARMS[1:]
    )
    whole = Comparison(
        title="A <made-up> scenario",
        synthetic=True,
        headline="auroc",
        patients=PATIENTS,
        images=2 * PATIENTS,
        models=MODELS,
        grey=(-1.0, 1.0),
        arms=tuple(arm_found(arm, GAPS[arm.kind]) for arm in ARMS),
        reconstructions=pictured,
        provenance={"plan_digest": "ab" * 32, "seed": 3, "command": "consilium-sim attack made-up"},
    )
    return dataclasses.replace(whole, **changes)


@pytest.fixture(scope="module")
def found() -> Comparison:
    return comparison()


@pytest.fixture(scope="module")
def page(found: Comparison) -> str:
    return render(found)


def said(page: str) -> str:
    return unescape(re.sub(r"<[^>]+>", " ", re.sub(r"<(style|svg).*?</\1>", "", page, flags=re.S)))


# --- the page --------------------------------------------------------------------------------------------------------


def test_the_page_is_one_file_that_asks_nobody_for_anything(page: str) -> None:
    assert "<script" not in page
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)
    assert not re.findall(r"url\((?!#)", page)
    assert "@import" not in page


def test_the_same_comparison_gives_the_same_bytes(found: Comparison, page: str) -> None:
    assert render(found) == page


def test_words_that_are_not_ours_are_escaped(page: str) -> None:
    assert "<made-up>" not in page
    assert "A &lt;made-up&gt; scenario" in page


def test_every_picture_and_drawing_is_told_to_those_who_do_not_see_it(page: str) -> None:
    assert len(re.findall(r"<img ", page)) == 2 * 2 * 4
    assert all('alt="Patient' in tag for tag in re.findall(r"<img [^>]+>", page))
    drawings = re.findall(r"<svg [^>]+>", page)
    assert len(drawings) == 3
    assert all('role="img"' in tag and 'aria-label="' in tag for tag in drawings)


def test_identifiers_of_the_page_are_unique(page: str) -> None:
    names = re.findall(r'\bid="([^"]+)"', page)
    assert len(names) == len(set(names))


def test_tables_scroll_by_themselves_and_are_named(page: str) -> None:
    assert page.count('<div class="scroll" role="region" aria-label=') == page.count("<table>") == 4
    assert page.count("<caption>") == 4
    assert 'name="viewport"' in page


def test_real_patients_have_numbers_and_no_picture(found: Comparison) -> None:
    """Also where somebody forgot to drop a picture: none is asked for."""
    bare = tuple(dataclasses.replace(one, picture=None, truth=None) for one in found.reconstructions)
    for some in (bare, found.reconstructions):
        real = render(comparison(synthetic=False, reconstructions=some))
        assert "<img" not in real
        assert "These patients are real" in real
        assert "Images from gradients" in real


# --- words -----------------------------------------------------------------------------------------------------------


def test_the_lead_is_three_sentences_with_the_numbers_of_the_document(found: Comparison, page: str) -> None:
    without, private, pictures = words.lead(found)
    plain = max(attack["tpr_at_10"] for attack in document(found)["membership"][1]["attacks"].values())
    assert f"recognises {100 * plain:.0f} of 100" in without
    assert "guessing would recognise 10" in without
    assert "with ε\xa0=\xa08" in private
    assert "no attack whatever can exceed 27 with ε\xa0=\xa01" in private
    assert private.endswith("and the promise of ε\xa0=\xa08 by itself rules no attack out.")
    assert "the image comes back (SSIM 0.95" in pictures
    assert "no picture comes back (0.02" in pictures
    assert all(sentence in said(page) for sentence in (without, private, pictures))


def test_a_control_that_works_and_one_that_fails_are_told_apart(found: Comparison) -> None:
    assert words.control(found).startswith("The attacks work")
    blind = comparison(arms=tuple(arm_found(arm, 0.0, seed=5) for arm in ARMS))
    assert words.control(blind).startswith("The attacks failed their control")
    assert "says nothing" in words.control(blind)


@pytest.mark.parametrize(
    ("psnr", "ssim", "verdict"),
    [
        (30.0, 0.9, "the image comes back"),
        (20.0, 0.3, "a picture nearer than a guess comes back"),
        (12.5, 0.9, "no picture comes back"),
        (5.0, 0.0, "no picture comes back"),
    ],
)
def test_a_picture_is_called_what_it_is_beside_a_guess(psnr: float, ssim: float, verdict: str) -> None:
    one = dataclasses.replace(reconstruction("small", 1, ARMS[1], ssim), found=Likeness(psnr, ssim))
    other = reconstruction("small", 1, ARMS[2], 0.0)
    assert f"{verdict} (SSIM {ssim:.2f}" in words.lead(comparison(reconstructions=(one, other)))[2]


def test_a_network_that_keeps_the_image_is_not_praised_for_it(found: Comparison) -> None:
    assert "nobody promises it" in words.own_network(found)
    loud = tuple(reconstruction(one.network, one.patient, ARMS[1], 0.95) for one in found.reconstructions)
    assert "gives the image away too" in words.own_network(comparison(reconstructions=loud))


def test_without_reconstructions_the_page_says_so() -> None:
    page = render(comparison(reconstructions=()))
    assert "No image was looked for in a gradient." in page


def test_what_is_proven_is_said_with_its_counts(found: Comparison) -> None:
    sentences = words.proven(found)
    assert len(sentences) == 3
    assert sentences[1:] == [
        f"{arm.arm.title}: {arm.arm.promise.epsilon:g} claimed, nothing proven."
        for arm in found.arms[2:]
        if arm.arm.promise
    ]
    for sentence, arm in zip(sentences[:1], found.arms[1:2], strict=True):
        assert f"at least {arm.proof.epsilon:.2f} proven ({arm.proof.hits} of {arm.proof.members} found" in sentence


# --- tables ----------------------------------------------------------------------------------------------------------


def test_the_table_of_an_attack_holds_its_numbers_arm_by_arm(found: Comparison) -> None:
    table = membership_table(found, "likelihood ratio")
    assert [name for name, _ in table.rows] == [arm.arm.title for arm in found.arms]
    for (_, cells), arm in zip(table.rows, found.arms, strict=True):
        done = arm.attacks["likelihood ratio"]
        assert [cell.value for cell in cells] == [
            done.auc.value,
            done.tpr_at_1,
            done.tpr_at_10,
            done.advantage.value,
        ]


def test_the_table_of_promises_has_a_promise_exactly_where_one_was_made(found: Comparison) -> None:
    rows = {name: [cell.text for cell in cells] for name, cells in promise_table(found).rows}
    assert rows["no privacy"][0] == "none"
    assert rows["private, ε\xa0=\xa08"][0] == "8"
    assert rows["private, ε\xa0=\xa01"][4] == f"{most_advantage(ARMS[3].promise):.2f}" == "0.46"  # type: ignore[arg-type]


def test_an_undetermined_quality_is_shown_as_such() -> None:
    arms = tuple(dataclasses.replace(arm_found(arm, 0.0), quality=math.nan) for arm in ARMS)
    rows = promise_table(comparison(arms=arms)).rows
    assert {cells[-1].text for _, cells in rows} == {"–"}  # noqa: RUF001 - the report's own sign
    assert document(comparison(arms=arms))["membership"][0]["quality"] is None


# --- drawings --------------------------------------------------------------------------------------------------------


def test_the_curve_s_text_says_what_the_curve_shows(found: Comparison) -> None:
    drawn = figures(found)[0].drawing
    done = found.arms[1].attacks["likelihood ratio"]
    assert f"no privacy: {100 * done.tpr_at_1:.0f} and {100 * done.tpr_at_10:.0f}" in drawn
    for arm in found.arms:
        assert arm.arm.title in drawn


def test_an_attack_that_finds_nobody_at_few_false_alarms_can_still_be_drawn(found: Comparison) -> None:
    empty = Curve(np.array([0.0, 1.0]), np.array([0.0, 1.0]))
    arms = [dataclasses.replace(arm, curves=dict.fromkeys(arm.curves, empty)) for arm in found.arms]
    assert "<svg" in plots.roc("flat", "loss threshold", arms)


def test_a_negative_advantage_is_drawn_and_said(found: Comparison) -> None:
    worse = []
    for arm in found.arms:
        done = {
            name: dataclasses.replace(one, advantage=type(one.advantage)(-0.2, -0.3, -0.1))
            for name, one in arm.attacks.items()
        }
        worse.append(dataclasses.replace(arm, attacks=done))
    assert "likelihood ratio -0.20" in plots.advantages("worse", worse)


def shown(address: str) -> np.ndarray[Any, Any]:
    assert address.startswith("data:image/png;base64,")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))))


def test_a_picture_is_drawn_in_the_range_of_the_page_not_in_its_own() -> None:
    """Stretched to its own range, a faint trace would look like a finding."""
    faint = np.array([[[-0.01, 0.0], [0.0, 0.01]]], np.float32)
    levels = shown(plots.picture(faint, (-1.0, 1.0)))
    assert levels.shape == (2, 2)
    assert set(np.unique(levels)) <= {126, 127, 128, 129}
    assert shown(plots.picture(np.array([[[-1.0, 1.0]]], np.float32), (-1.0, 1.0))).tolist() == [[0, 255]]


def test_a_volume_is_shown_by_its_middle_slice_and_colours_stay() -> None:
    volume = np.zeros((1, 5, 4, 6), np.float32) - 1
    volume[0, 2] = 1
    assert np.all(shown(plots.picture(volume, (-1.0, 1.0))) == 255)
    colours = np.stack([np.full((3, 4), value, np.float32) for value in (-1, 0, 1)])
    assert shown(plots.picture(colours, (-1.0, 1.0))).shape == (3, 4, 3)


# --- the document ----------------------------------------------------------------------------------------------------


def test_the_document_is_plain_json_without_pictures(found: Comparison) -> None:
    text = json.dumps(document(found), allow_nan=False)
    assert "picture" not in text
    assert len(json.loads(text)["inversion"]) == len(found.reconstructions)


def test_the_document_keeps_the_ends_of_a_long_curve_and_thins_the_rest() -> None:
    corners = np.linspace(0, 1, 5001)
    arms = tuple(
        dataclasses.replace(one, curves=dict.fromkeys(one.curves, Curve(corners, corners**0.5)))
        for one in comparison().arms
    )
    kept = document(comparison(arms=arms))["membership"][0]["curves"]["loss threshold"]
    assert kept[0] == [0.0, 0.0]
    assert kept[-1] == [1.0, 1.0]
    assert len(kept) < 210
    assert sum(fpr < 0.01 for fpr, _ in kept) > 30, "few false alarms are what an attack is judged by"


def test_the_document_says_what_no_attack_can_reach(found: Comparison) -> None:
    private = document(found)["membership"][3]["privacy"]
    assert private["epsilon"] == 1.0
    assert private["most_that_any_attack_can_reach"]["tpr_at_10"] == pytest.approx(math.e * 0.1 + 1e-4)
    assert document(found)["membership"][1]["privacy"] is None
