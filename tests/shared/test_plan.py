"""A plan says what it says, once, and everything wrong with it is one sentence."""

import contextlib
import hashlib
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import PlanError
from shared.fixed_point import peak
from shared.plan import Plan, from_document, load, parse
from shared.secure.ring import bits_for

TEXT = """
[plan]
name = "vessels"
task = "segmentation"
rounds = 3

[data]
modality = "fundus"
classes = ["background", "vessel"]

[preprocessing]
size = [64, 64]
intensity = { kind = "window", low = 0, high = 255 }

[model]
name = "unet"

[training]
steps = 4
patients_per_step = 2
learning_rate = 1e-3

[privacy]
unit = "none"
"""


def document(**changes: Any) -> dict[str, Any]:
    """The plan above as a document with ``section__key=value`` changed; None removes the key."""
    found: dict[str, Any] = tomllib.loads(TEXT)
    for dotted, value in changes.items():
        section, _, key = dotted.partition("__")
        if value is None:
            found[section].pop(key)
        elif key:
            found.setdefault(section, {})[key] = value
        else:
            found[section] = value
    return found


def refusal(**changes: Any) -> PlanError:
    with pytest.raises(PlanError) as caught:
        from_document(document(**changes))
    return caught.value


def test_a_plan_in_toml_is_read() -> None:
    plan = parse(TEXT)
    assert plan.plan.name == "vessels"
    assert plan.dimensions == 2
    assert plan.input_channels == 1


def test_a_plan_cannot_be_changed_after_it_was_read() -> None:
    with pytest.raises(ValueError, match="frozen"):
        parse(TEXT).plan.rounds = 4  # type: ignore[misc]


def test_the_digest_is_the_sha256_of_the_canonical_bytes_by_hand() -> None:
    plan = parse(TEXT)
    dumped = json.dumps(plan.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert plan.digest() == hashlib.sha256(b"consilium-plan-1\n" + dumped.encode()).hexdigest()


def test_order_comments_and_spacing_do_not_change_the_digest() -> None:
    blocks = TEXT.strip().split("\n\n")
    rewritten = "# a comment\n" + "\n\n\n".join(reversed(blocks)).replace("rounds = 3", "rounds   =  3  # three")
    assert parse(rewritten).digest() == parse(TEXT).digest()


def test_a_default_written_out_does_not_change_the_digest() -> None:
    assert from_document(document(training__optimizer="adamw")).digest() == parse(TEXT).digest()


@pytest.mark.parametrize(
    "change",
    [
        {"plan__rounds": 4},
        {"plan__seed": 1},
        {"training__learning_rate": 2e-3},
        {"data__classes": ["vessel", "background"]},
        {"preprocessing__intensity": {"kind": "window", "low": 0, "high": 254}},
        {"aggregation__weights": "patients"},
    ],
    ids=str,
)
def test_everything_that_changes_a_result_changes_the_digest(change: dict[str, Any]) -> None:
    assert from_document(document(**change)).digest() != parse(TEXT).digest()


def test_a_canonical_plan_read_again_is_the_same_plan() -> None:
    plan = parse(TEXT)
    assert from_document(json.loads(plan.canonical_bytes().partition(b"\n")[2])) == plan


def test_an_unknown_key_is_named_with_the_nearest_known_one() -> None:
    error = refusal(training__step=3)
    assert "training.step" in error.sentence
    assert error.hint == "did you mean steps?"


def test_an_unknown_key_far_from_all_others_lists_what_is_known() -> None:
    error = refusal(evaluation__zzz=3)
    known = "cross_site, every, explain, explain_cases, explain_lesion, floor, operating_point, recalibrate, release"
    assert error.hint == f"known here: {known}, subgroups"


def test_a_misspelt_section_is_named_before_the_missing_one() -> None:
    text = TEXT.replace("[privacy]", "[privcy]")
    with pytest.raises(PlanError) as caught:
        parse(text)
    assert caught.value.sentence == "unknown key privcy"
    assert caught.value.hint == "did you mean privacy?"


def test_an_unknown_key_of_a_choice_is_answered_with_that_choice_s_keys() -> None:
    error = refusal(preprocessing__intensity={"kind": "window", "low": 0, "higth": 1})
    assert "preprocessing.intensity.higth" in error.sentence
    assert error.hint == "did you mean high?"


def test_a_plan_without_privacy_is_refused_because_nobody_trains_unprotected_by_leaving_a_line_out() -> None:
    found = document()
    del found["privacy"]
    with pytest.raises(PlanError, match="missing key privacy"):
        from_document(found)


@pytest.mark.parametrize(
    ("change", "key", "value"),
    [
        ({"training__steps": 0}, "training.steps", "0"),
        ({"training__steps": "many"}, "training.steps", "'many'"),
        ({"training__learning_rate": -1.0}, "training.learning_rate", "-1.0"),
        ({"training__learning_rate": float("inf")}, "training.learning_rate", "inf"),
        ({"training__momentum": 1.0}, "training.momentum", "1.0"),
        ({"plan__name": "Has Spaces"}, "plan.name", "'Has Spaces'"),
        ({"data__classes": ["only"]}, "data.classes", "['only']"),
        ({"preprocessing__size": [64]}, "preprocessing.size", "[64]"),
        ({"data__modality": "xrays"}, "data.modality", "'xrays'"),
        ({"aggregation__fixed_point": {"bits": 7}}, "aggregation.fixed_point.bits", "7"),
        ({"aggregation__fixed_point": {"bits": 33}}, "aggregation.fixed_point.bits", "33"),
        ({"aggregation__fixed_point": {"rounding": "up"}}, "aggregation.fixed_point.rounding", "'up'"),
    ],
    ids=str,
)
def test_an_impossible_value_is_named_with_its_key(change: dict[str, Any], key: str, value: str) -> None:
    error = refusal(**change)
    assert error.sentence.startswith(f"{key} = {value}: ")
    assert error.hint


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data__train_fraction": 0.9, "data__validation_fraction": 0.1}, "leave patients for testing"),
        ({"data__classes": ["a", "a"]}, "classes must differ"),
        ({"preprocessing__spacing_mm": [1.0, 1.0, 1.0]}, "spacing_mm has 3 axes but size has 2"),
        ({"preprocessing__intensity": {"kind": "window", "low": 1, "high": 1}}, "low < high"),
        ({"training__patch": [96, 96]}, "training.patch [96, 96] does not fit"),
        ({"training__patch": [32, 32, 32]}, "does not fit"),
        ({"aggregation__method": "fedprox"}, "needs proximal_mu"),
        ({"aggregation__proximal_mu": 0.1}, "method is fedavg"),
        ({"aggregation__weights": "public"}, "belong together"),
        ({"privacy__unit": "patient"}, "needs epsilon, delta, clip_norm and public_patients"),
        ({"privacy__epsilon": 3.0}, "takes no epsilon"),
    ],
    ids=str,
)
def test_values_that_contradict_each_other_are_refused(change: dict[str, Any], said: str) -> None:
    assert said in refusal(**change).sentence


def test_text_that_is_not_toml_is_refused_with_the_line() -> None:
    with pytest.raises(PlanError, match="line 2"):
        parse("[plan]\nname = = 3\nrounds = 1\n")


def test_a_missing_file_is_refused_by_its_name_alone(tmp_path: Path) -> None:
    with pytest.raises(PlanError) as caught:
        load(tmp_path / "absent.toml")
    assert str(tmp_path) not in caught.value.sentence
    assert "absent.toml" in caught.value.sentence


def test_a_file_is_read_like_its_text(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text(TEXT, encoding="utf-8")
    assert load(tmp_path / "plan.toml") == parse(TEXT)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=6,
    )
)
def test_whatever_stands_in_a_section_the_answer_is_a_plan_or_one_plan_error(garbage: Any) -> None:
    for section in Plan.model_fields:
        with contextlib.suppress(PlanError):
            from_document({**document(), section: garbage})


def test_a_wrong_weight_in_a_free_table_is_named_with_its_site() -> None:
    error = refusal(aggregation__weights="public", aggregation__public_weights={"drive": 0})
    assert error.sentence.startswith("aggregation.public_weights.drive = 0: ")


def test_the_types_that_were_tried_are_no_part_of_a_key() -> None:
    assert refusal(preprocessing__spacing_mm="natve").sentence.startswith("preprocessing.spacing_mm = 'natve': ")
    assert refusal(preprocessing__spacing_mm=[1.0, -2.0]).sentence.startswith("preprocessing.spacing_mm")


CROSSING = {
    "evaluation__cross_site": True,
    "evaluation__release": "site",
    "personalisation": {"steps": 5, "learning_rate": 0.01},
}


def test_a_plan_may_share_models_where_nothing_is_promised_that_they_would_break() -> None:
    assert from_document(document(**CROSSING)).evaluation.cross_site
    assert not parse(TEXT).evaluation.cross_site


@pytest.mark.parametrize(
    "change",
    [
        {"personalisation": None},
        {"evaluation__release": "sum"},
        {"secure_aggregation__enabled": True},
    ],
    ids=["nothing to share", "sums only", "secure sums"],
)
def test_models_of_single_sites_leave_under_no_other_plan(change: dict[str, Any]) -> None:
    said = {name: value for name, value in {**CROSSING, **change}.items() if value is not None}
    assert "evaluation.cross_site sends models of single sites" in refusal(**said).sentence


SECURE: dict[str, Any] = {
    "secure_aggregation__enabled": True,
    "aggregation__weights": "equal",
    "evaluation__release": "sum",
}


@given(st.integers(8, 32), st.integers(1, 300), st.lists(st.integers(1, 1000), max_size=5))
def test_sums_under_masks_fit_32_bits_or_the_plan_is_refused_with_the_bits_that_do(
    bits: int, quorum: int, weights: list[int]
) -> None:
    """Oracle: the least width that holds the sum of as many largest integers, by counting."""
    public = {f"site-{number}": weight for number, weight in enumerate(weights)}
    total = sum(weights) if weights else max(2, quorum)

    def fits(width: int) -> bool:
        return 2 * ((1 << (width - 1)) - 1) * total + 1 <= 1 << 32

    said = SECURE | {"aggregation__fixed_point": {"bits": bits}, "participation__quorum": quorum}
    if public:
        said |= {"aggregation__weights": "public", "aggregation__public_weights": public}
    if fits(bits):
        plan = from_document(document(**said))
        assert bits_for(peak(plan.aggregation.fixed_point), total) <= 32
    else:
        most = max((width for width in range(1, 33) if fits(width)), default=0)
        assert f"can be {most} at most" in refusal(**said).sentence


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"aggregation__weights": "patients"}, 'use "equal" or "public"'),
        ({"evaluation__release": "site"}, 'use "sum" or "dp"'),
        ({"aggregation__fixed_point": {"bits": 32}}, "can be 31 at most"),
        ({"secure_aggregation__threshold": 1}, "secure_aggregation.threshold"),
    ],
    ids=["patients", "sites", "bits", "threshold"],
)
def test_what_cannot_be_kept_under_masks_is_refused(change: dict[str, Any], said: str) -> None:
    bits = {"aggregation__fixed_point": {"bits": 24}}
    assert from_document(document(**(SECURE | bits))).secure_aggregation.enabled
    assert said in refusal(**(SECURE | bits | change)).sentence


def test_a_threshold_without_secure_aggregation_is_refused() -> None:
    assert "enabled is false" in refusal(secure_aggregation__threshold=3).sentence


def test_under_privacy_a_plan_that_shares_models_is_refused() -> None:
    promise = {"unit": "patient", "epsilon": 4.0, "delta": 1e-5, "clip_norm": 1.0, "public_patients": 50}
    promise["covers"] = "training"
    with pytest.raises(PlanError, match=r'privacy\.unit = "patient"'):
        from_document(document(privacy=promise, **CROSSING))


# --- noise that sites share ------------------------------------------------------------------------------------------

SHARED: dict[str, Any] = {
    "privacy": {
        "unit": "patient",
        "epsilon": 4.0,
        "delta": 1e-5,
        "clip_norm": 1.0,
        "public_patients": 50,
        "noise": "shared",
        "colluding_sites": 1,
    },
    "secure_aggregation__enabled": True,
    "secure_aggregation__threshold": 3,
    "training__steps": 1,
    "training__optimizer": "sgd",
    "aggregation__fixed_point": {"range": 1.0, "bits": 20},
    "evaluation__release": "dp",
}


def test_sites_may_share_noise_where_the_plan_says_how_many_are_not_trusted() -> None:
    plan = from_document(document(**SHARED))
    assert (plan.privacy.noise, plan.privacy.colluding_sites) == ("shared", 1)
    assert from_document(document(**SHARED | {"privacy": SHARED["privacy"] | {"colluding_sites": 0}}))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"secure_aggregation": {}}, "secure_aggregation.enabled = true"),
        ({"secure_aggregation": {"enabled": True}}, "secure_aggregation.threshold"),
        ({"secure_aggregation__threshold": 2}, "leaves 1 honest sites in a sum of 2"),
        ({"training__steps": 2}, "training.steps = 1"),
        ({"training__optimizer": "adamw"}, 'training.optimizer = "sgd"'),
        ({"aggregation__weights": "public", "aggregation__public_weights": {"a": 2}}, 'aggregation.weights = "equal"'),
        ({"aggregation__fixed_point": {"bits": 20, "rounding": "stochastic"}}, 'rounding = "nearest"'),
    ],
    ids=["no masks", "no threshold", "too few honest", "steps", "optimizer", "weights", "rounding"],
)
def test_noise_is_not_shared_where_the_sum_would_not_hold_it(changes: dict[str, Any], named: str) -> None:
    sentence = str(refusal(**SHARED | changes))
    assert 'privacy.noise = "shared"' in sentence
    assert named in sentence


@pytest.mark.parametrize(
    "changes", [{"noise": "own"}, {"colluding_sites": None}], ids=["own noise", "nobody is counted"]
)
def test_how_many_collude_is_said_exactly_where_noise_is_shared(changes: dict[str, Any]) -> None:
    said = {key: value for key, value in (SHARED["privacy"] | changes).items() if value is not None}
    assert "colluding_sites belong together" in str(refusal(**SHARED | {"privacy": said}))


def test_a_plan_that_protects_nobody_shares_no_noise() -> None:
    unprotected = {"unit": "none", "noise": "shared", "colluding_sites": 1}
    assert 'unit = "none" takes no noise' in str(refusal(**SHARED | {"privacy": unprotected}))
