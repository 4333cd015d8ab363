"""What the report says in sentences: true to the numbers, and plain about what is not protected."""

from dataclasses import replace
from typing import Any

import pytest
from report_runs import PLAN_TEXT, PRIVATE, SUMS_ONLY, private_results, results, sums_only_results

from server.report import words
from server.report.run import Run
from server.results import Participation, Results
from shared.plan import parse

NBSP = "\N{NO-BREAK SPACE}"
DASH = "\N{EN DASH}"


def run_of(found: Results, plan_text: str = PLAN_TEXT) -> Run:
    return Run(parse(plan_text), plan_text, found, ())


def said(found: Results, plan_text: str = PLAN_TEXT) -> str:
    run = run_of(found, plan_text)
    return " ".join([*words.lead(run), *words.summary(run)])


def with_final(**parts: Any) -> Results:
    return replace(results(), final=dict(results().final) | parts)


def test_the_title_is_the_plans_name() -> None:
    assert words.title(parse(PLAN_TEXT)) == "Retina vessels"


def test_the_lead_says_who_what_and_the_headline_with_its_interval() -> None:
    assert words.lead(run_of(results())) == [
        "Four sites (chase, drive, hrf and stare) trained one network together, in 40 rounds, to outline “vessel” on "
        "fundus photographs. The images stayed at their site.",
        f"On the 52 test patients of all sites the shared model's Dice is 0.791 (95{NBSP}% interval 0.772{DASH}0.810).",
    ]


def test_the_summary_compares_on_the_same_patients_and_names_the_weakest_site() -> None:
    assert words.summary(run_of(results())) == [
        "A network trained at one site alone reaches, on the same patients, between 0.541 (stare) and 0.702 (hrf).",
        "Training on all data in one room, which would move the images, reaches 0.802, inside the shared model's "
        "interval.",
        "After a few more steps at home, each site's own model reaches 0.812 on that site's patients.",
        "The shared model is weakest at stare, with 0.738.",
        "In 4 of 40 rounds at least one site was missing.",
    ]


def test_a_central_model_beyond_the_interval_is_called_outside() -> None:
    assert "0.850, outside the shared model's interval" in said(
        replace(results(), baselines={"central": {"dice": 0.85}})
    )


def test_without_an_interval_nothing_is_called_inside_or_outside() -> None:
    bare = replace(with_final(pooled={"dice": 0.79}), baselines={"central": {"dice": 0.85}})
    assert "reaches 0.850." in said(bare)
    assert "interval" not in said(bare)


def test_one_baseline_site_is_told_without_a_range() -> None:
    one = replace(results(), baselines={"local": {"drive": {"dice": 0.7}}})
    assert "On the same patients, a network trained at drive alone reaches 0.700." in said(one)


def test_baselines_that_are_undetermined_are_not_compared() -> None:
    none = replace(results(), baselines={"local": {"drive": {"dice": None}}, "central": {"dice": None}})
    assert "alone" not in said(none)
    assert "one room" not in said(none)


def test_where_less_is_better_the_range_still_runs_from_worst_to_best() -> None:
    local = {"good": {"hd95": 2.0}, "bad": {"hd95": 9.0}}
    swapped = replace(results(), headline="hd95", baselines={"local": local})
    assert "between 9.00 (bad) and 2.00 (good)" in said(swapped)


def test_an_undetermined_headline_is_said_and_not_invented() -> None:
    assert "Dice could not be determined" in said(with_final(pooled={"dice": {"value": None, "n_patients": 52}}))


def test_sums_only_says_that_sites_were_not_released() -> None:
    text = said(sums_only_results(), SUMS_ONLY)
    assert "Numbers of single sites were not released" in text
    assert "weakest" not in text
    assert "alone" not in text


def test_many_sites_are_counted_and_not_listed() -> None:
    many = tuple(f"site-{place}" for place in range(100))
    found = replace(sums_only_results(), participation=(Participation(1, many, {}),))
    text = said(found, SUMS_ONLY)
    assert text.startswith("100 sites trained one network together, in one round, ")
    assert "site-7" not in text
    assert "Every site took part in every round." in text


def test_a_run_whose_rounds_are_not_told_says_nothing_about_participation() -> None:
    text = said(replace(sums_only_results(), participation=()), SUMS_ONLY)
    assert text.startswith("The sites trained one network together, in 40 rounds")
    assert "took part" not in text


@pytest.mark.parametrize(
    ("changes", "goal"),
    [
        ({}, "to outline “vessel” on fundus photographs"),
        ({'"fundus"': '"other"'}, "to outline “vessel” on images"),
        (
            {
                '"segmentation"': '"classification"',
                '["background", "vessel"]': '["benign", "malignant"]',
                "fundus": "us",
            },
            "to tell “benign” and “malignant” apart on ultrasound images",
        ),
        (
            {
                '"segmentation"': '"classification"',
                '["background", "vessel"]': '["mass", "nodule"]\nlabels = "multilabel"',
                "fundus": "xray",
            },
            "to recognise “mass” and “nodule” on radiographs",
        ),
        ({'"segmentation"': '"detection"', "fundus": "ct"}, "for detection on CT images"),
    ],
)
def test_the_goal_is_told_in_the_words_of_the_plan(changes: dict[str, str], goal: str) -> None:
    text = PLAN_TEXT
    for old, new in changes.items():
        text = text.replace(old, new)
    assert words.goal(parse(text)) == goal


def test_a_run_without_differential_privacy_says_so_first() -> None:
    first, second, third = words.privacy(run_of(results()))
    assert first.startswith("There is no differential privacy in this run.")
    assert second == "Updates were not masked: the coordinator could see those of a single site."
    assert third == "Each site released its own metrics, without noise."


def test_a_private_run_states_unit_epsilon_and_delta() -> None:
    first = words.privacy(run_of(private_results(), PRIVATE))[0]
    assert "one patient with all their images" in first
    assert "ε = 8 at δ = 0.0001" in first
    assert "no differential privacy" not in first
    assert first.endswith("The table shows what was spent.")


def test_a_private_run_without_ledger_entries_promises_no_table() -> None:
    bare = replace(private_results(), privacy={})
    assert "table" not in words.privacy(run_of(bare, PRIVATE))[0]


def test_noise_from_a_seeded_generator_is_called_no_guarantee() -> None:
    spent = {site: dict(entry) | {"noise": "unsafe-seeded"} for site, entry in private_results().privacy.items()}
    assert "not a guarantee" in words.privacy(run_of(replace(private_results(), privacy=spent), PRIVATE))[0]
    assert "not a guarantee" not in words.privacy(run_of(private_results(), PRIVATE))[0]


@pytest.mark.parametrize(
    ("release", "sentence"),
    [
        ("sum", "Only sums over all sites were released for the metrics, without noise."),
        ("dp", "Metrics were released with noise, which the ledger has paid for."),
    ],
)
def test_what_was_released_is_what_the_plan_says(release: str, sentence: str) -> None:
    text = (PRIVATE if release == "dp" else PLAN_TEXT).replace('release = "site"', f'release = "{release}"')
    assert words.privacy(run_of(results(text), text))[2] == sentence


def test_masked_updates_are_told() -> None:
    text = PLAN_TEXT.replace('release = "site"', 'release = "sum"')
    text += "\n[aggregation.fixed_point]\nbits = 24\n[secure_aggregation]\nenabled = true\nthreshold = 3\n"
    assert words.privacy(run_of(results(text), text))[1] == (
        "Updates and statistics were masked: of each question the coordinator read sums over 3 sites or more, and no "
        "other sum."
    )
