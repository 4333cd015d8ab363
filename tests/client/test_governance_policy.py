"""policy.toml: what is written at first says the defaults and explains every key; what is wrong is one sentence."""

import itertools
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from client.governance import policy
from client.governance.policy import Policy
from shared.crypto.signing import SigningKey
from shared.errors import ConsiliumError, PolicyError

PAGE = Path(__file__).parents[2] / "docs" / "policy.md"


def keys_of(model: type[BaseModel]) -> Iterator[tuple[str, str]]:
    for section, field in model.model_fields.items():
        assert isinstance(field.annotation, type)
        yield from ((section, key) for key in field.annotation.model_fields)


def refusal(text: str) -> PolicyError:
    with pytest.raises(PolicyError) as caught:
        policy.parse(text)
    assert caught.value.code == "policy-file"
    return caught.value


# --- the first file --------------------------------------------------------------------------------------------------


def test_the_first_policy_toml_says_the_defaults_and_so_does_an_empty_one() -> None:
    assert policy.parse(policy.template()) == policy.parse("") == Policy()


def test_the_first_policy_toml_has_every_key_and_no_other() -> None:
    written = tomllib.loads(policy.template())
    assert {(section, key) for section, table in written.items() for key in table} == set(keys_of(Policy))
    assert len(set(keys_of(Policy))) == 19


def test_every_value_of_the_first_policy_toml_is_the_default_of_its_key() -> None:
    written, said = tomllib.loads(policy.template()), Policy().model_dump(mode="json")
    assert written == said


def test_every_key_of_the_first_policy_toml_is_explained_right_above_it() -> None:
    lines = policy.template().splitlines()
    keys = {key for _, key in keys_of(Policy)}
    bare = [
        line
        for before, line in itertools.pairwise(lines)
        if line.partition(" = ")[0] in keys and not before.startswith("#")
    ]
    assert bare == []


def test_the_first_policy_toml_fits_a_screen_and_holds_no_placeholder() -> None:
    assert max(map(len, policy.template().splitlines())) <= 90
    assert not re.search(r"\{\w+\}", policy.template())


def test_the_example_of_hours_in_the_first_policy_toml_can_be_used_as_it_stands() -> None:
    (example,) = re.findall(r"# (\[\{.*?\}\])\n", policy.template(), re.DOTALL)
    text = f"[hours]\nwindows = {example.replace('#', '')}"
    assert [str(window) for window in policy.parse(text).hours.windows] == [
        "mon-fri 19:00-06:30",
        "sat sun 00:00-24:00",
    ]


def test_defaults_are_the_careful_choice() -> None:
    said = Policy()
    assert not said.privacy.unsafe_allow_unprotected
    assert said.statistics.release == ("dp",)
    assert said.statistics.require_secure_aggregation
    assert said.privacy.max_epsilon_per_plan <= said.privacy.max_epsilon_per_cohort <= said.privacy.max_epsilon_lifetime
    assert said.privacy.delta * 10_000 <= said.privacy.max_delta_times_patients
    assert said.who.leads == ()
    assert said.privacy.max_epsilon_alone == said.approval.auto_max_epsilon == 0


def test_a_key_that_weakens_privacy_beyond_a_number_is_called_unsafe() -> None:
    switches = {key for section, key in keys_of(Policy) if type(getattr(getattr(Policy(), section), key)) is bool}
    assert switches == {"unsafe_allow_unprotected", "require_secure_aggregation", "unsafe_share_models"}


# --- what is wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "sentence", "hint"),
    [
        ("[privcy]\ndelta = 1e-5", "unknown key privcy", "did you mean privacy?"),
        ("[privacy]\nmax_epsilon_per_plans = 1", "unknown key privacy.max_epsilon_per_plans", "did you mean max_ep"),
        ("[privacy]\nallow_unprotected = true", "unknown key privacy.allow_unprotected", "did you mean unsafe_allow"),
        ("[hours]\nzones = 'UTC'", "unknown key hours.zones", "did you mean zone?"),
        ("[[hours.windows]]\nfrom = '1:00'", "unknown key hours.windows.0.from", "known here: days, end, start"),
        ("[[hours.windows]]\nstart = '01:00'", "missing key hours.windows.0.end", "add hours.windows.0.end"),
        ("[[hours.windows]]\nstart = '1'\nend = '02:00'", "hours.windows.0.start = '1'", "correct hours.windows.0.st"),
        ("[hours]\nzone = 'Mars'", "hours.zone: 'Mars' is no time zone", "change one of the values"),
        ("[privacy]\nmax_epsilon_per_plan = 0", "privacy.max_epsilon_per_plan = 0", "correct privacy.max_epsilon_per_"),
        ("[privacy]\nmax_epsilon_lifetime = inf", "privacy.max_epsilon_lifetime = inf", "correct"),
        ("[privacy]\nmax_epsilon_lifetime = nan", "privacy.max_epsilon_lifetime = nan", "correct"),
        ("[privacy]\nmax_epsilon_per_cohort = '8'", "privacy.max_epsilon_per_cohort = '8'", "correct"),
        ("[privacy]\nmax_epsilon_per_cohort = true", "privacy.max_epsilon_per_cohort = True", "correct"),
        ("[privacy]\ndelta = 0.0", "privacy.delta = 0.0", "correct privacy.delta"),
        ("[privacy]\ndelta = 1", "privacy.delta = 1", "correct privacy.delta"),
        ("[privacy]\nmin_patients = 2.5", "privacy.min_patients = 2.5", "correct privacy.min_patients"),
        ("[privacy]\nmin_patients = true", "privacy.min_patients = True", "correct privacy.min_patients"),
        ("[privacy]\nmin_noise_multiplier = -1", "privacy.min_noise_multiplier = -1", "correct"),
        ("[privacy]\nmax_epsilon_alone = -1", "privacy.max_epsilon_alone = -1", "correct privacy.max_epsilon_alone"),
        ("[privacy]\nmax_epsilon_alone = inf", "privacy.max_epsilon_alone = inf", "correct"),
        ("[privacy]\nmax_epsilon_alone = true", "privacy.max_epsilon_alone = True", "correct"),
        ("[privacy]\nunsafe_allow_unprotected = 'no'", "privacy.unsafe_allow_unprotected = 'no'", "correct"),
        ("[privacy]\nunsafe_allow_unprotected = 1", "privacy.unsafe_allow_unprotected = 1", "correct"),
        ("[statistics]\nrelease = ['all']", "statistics.release.0 = 'all'", "correct statistics.release.0"),
        ("[statistics]\nrelease = 'dp'", "statistics.release = 'dp'", "correct statistics.release"),
        ("[statistics]\nmax_releases_per_run = 0", "statistics.max_releases_per_run = 0", "correct"),
        ("[plans]\ntasks = 'segmentation'", "plans.tasks = 'segmentation'", "correct plans.tasks"),
        ("[plans]\nmodels = ['']", "plans.models", "correct plans.models"),
        ("[who]\nleads = ['me']", "who.leads.0 = 'me'", "correct who.leads.0"),
        ("plans = 1", "plans = 1", "correct plans"),
    ],
    ids=lambda text: text.replace("\n", " ") if isinstance(text, str) else None,
)
def test_what_is_wrong_is_named_with_its_value_and_a_suggestion(text: str, sentence: str, hint: str) -> None:
    error = refusal(text)
    assert error.sentence.startswith(f"policy.toml: {sentence}")
    assert error.hint.startswith(hint)
    assert "plan.md" not in error.hint


def test_broken_toml_is_a_sentence_with_the_line() -> None:
    assert "line 2" in refusal("[privacy]\ndelta = small\n").sentence


def test_a_file_that_cannot_be_read_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_bytes(b"\xff\xfe")
    for path, reason in ((tmp_path / "none.toml", "No such file"), (tmp_path / "policy.toml", "not UTF-8")):
        with pytest.raises(PolicyError, match=f"{path.name} cannot be read: {reason}") as caught:
            policy.load(path)
        assert caught.value.code == "policy-file"


def test_a_file_is_read_as_its_text(tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text("[privacy]\nmin_patients = 7\n")
    assert policy.load(tmp_path / "policy.toml") == policy.parse("[privacy]\nmin_patients = 7") != Policy()


def test_a_policy_cannot_be_changed() -> None:
    said = Policy()
    with pytest.raises(ValidationError):
        said.privacy.delta = 0.1  # type: ignore[misc]


def test_policy_errors_are_consilium_s_with_a_code_of_their_own() -> None:
    assert issubclass(PolicyError, ConsiliumError)
    assert PolicyError("no").code == "policy"


# --- values ----------------------------------------------------------------------------------------------------------


def test_nothing_may_be_permitted_at_all() -> None:
    said = policy.parse("[plans]\ntasks = []\nmodels = []\n[statistics]\nrelease = []")
    assert (said.plans.tasks, said.plans.models, said.statistics.release) == ((), (), ())


def test_a_fingerprint_is_written_as_people_are_shown_it() -> None:
    shown = SigningKey.generate().verify_key.fingerprint()
    assert policy.parse(f"[who]\nleads = ['{shown}']").who.leads == (shown,)
    for wrong in (shown.upper().replace("0", "A"), shown.replace(" ", ""), shown[:-5], f"{shown} 0000"):
        assert refusal(f"[who]\nleads = ['{wrong}']").hint.startswith("correct who.leads.0")


@pytest.mark.parametrize(
    ("cohort", "lifetime", "per", "epsilon"),
    [
        (5, 9, "cohort", 5),
        (5, 9, "lifetime", 9),
        (5, 9, "both", 5),
        (9, 5, "cohort", 9),
        (9, 5, "lifetime", 5),
        (9, 5, "both", 5),
    ],
)
def test_the_cap_is_at_the_policy_s_delta_and_without_a_choice_the_smaller_one(
    cohort: int, lifetime: int, per: Any, epsilon: float
) -> None:
    said = policy.parse(
        f"[privacy]\ndelta = 1e-6\nmax_epsilon_per_cohort = {cohort}\nmax_epsilon_lifetime = {lifetime}"
    )
    found = policy.cap(said, per)
    assert (found.epsilon, found.delta) == (epsilon, 1e-6)
    assert policy.cap(said) == policy.cap(said, "both")


def test_reading_and_judging_need_no_torch() -> None:
    script = (
        "import sys, client.governance.judgement; from client.governance.policy import cap, parse; "
        "cap(parse('')); print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert "client.governance.judgement" in loaded
    assert not {"torch", "monai", "opacus", "flwr"} & set(loaded)


# --- the page for those who answer for it -----------------------------------------------------------------------------


def test_the_page_explains_every_key_under_its_section_with_its_default() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for section, key in keys_of(Policy):
        (part,) = re.findall(rf"### \[{section}\]\n(.*?)(?=\n### |\n## |\Z)", page, re.DOTALL)
        ((default,),) = [re.findall(rf"^\| `{key}` \| `(.*?)` \|", part, re.MULTILINE)]
        assert tomllib.loads(f"x = {default}")["x"] == Policy().model_dump(mode="json")[section][key], key


def test_the_page_explains_no_key_that_is_not_there() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `.*?` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(rows) == sorted(key for _, key in keys_of(Policy))


def test_the_three_policies_of_the_page_are_policies_that_differ() -> None:
    examples = re.findall(r"```toml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    strict, consortium, pilot = map(policy.parse, examples)
    assert strict.privacy.max_epsilon_lifetime < Policy().privacy.max_epsilon_lifetime
    assert not consortium.privacy.unsafe_allow_unprotected
    assert pilot.privacy.unsafe_allow_unprotected
    assert len({said.model_dump_json() for said in (strict, consortium, pilot, Policy())}) == 4
