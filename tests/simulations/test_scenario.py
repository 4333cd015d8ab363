"""Scenarios: built-in ones build, files and overrides are read, and whatever is wrong is a sentence with a way out."""

import tomllib
from pathlib import Path

import pytest
import torch
from small_hospitals import write_scenario

from client.workbench import Workbench
from shared.errors import ConsiliumError, PlanError, ScenarioError
from shared.plan import load as load_plan
from simulations import scenario
from simulations.scenario import Manifest, Phantoms, load

BUILT_IN = scenario.names()


def refusal(*arguments: str, name: str = "demo") -> ConsiliumError:
    with pytest.raises(ConsiliumError) as refused:
        load(name, arguments)
    return refused.value


def test_the_demo_and_the_scenarios_on_real_images_are_built_in() -> None:
    assert {"demo", "breast", "retina", "hundred-sites"} <= set(BUILT_IN)
    assert sorted(BUILT_IN) == BUILT_IN


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_built_in_scenario_builds_a_network_that_answers_on_its_own_image_size(name: str) -> None:
    plan = load(name).plan
    # Weights to start from are made when they are needed (consilium-sim pretrain), and are in no repository.
    fresh = plan.model_copy(update={"model": plan.model.model_copy(update={"pretrained": None})})
    bench = Workbench.for_plan(fresh)
    with torch.inference_mode():
        answer = bench.model.eval()(
            torch.zeros(1, plan.input_channels, *(plan.training.patch or plan.preprocessing.size))
        )
    assert answer.shape[:2] == (1, bench.task.output_channels)
    assert answer.isfinite().all()


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_built_in_scenario_says_what_it_is_and_can_reach_its_quorum(name: str) -> None:
    found = load(name)
    source = found.setting.source
    assert found.name == name
    assert len(found.setting.title) > 20
    if isinstance(source, Phantoms):
        assert found.plan.participation.quorum <= source.hospitals


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_digest_is_that_of_the_same_plan_without_the_scenario_table(name: str, tmp_path: Path) -> None:
    """What a lead would sign: the file's other tables, read by the reader of production."""
    text = (scenario.BUILT_IN / f"{name}.toml").read_text()
    head, _, rest = text.partition("[scenario]")
    (tmp_path / "plan.toml").write_text(head + rest[rest.index("[plan]") :])
    assert load_plan(tmp_path / "plan.toml").digest() == load(name).plan.digest()


def test_a_path_is_read_where_it_lies_and_names_the_scenario(tmp_path: Path) -> None:
    found = load(str(write_scenario(tmp_path)))
    assert found.name == "squares"
    assert found.setting.source == Manifest(kind="manifest", subgroup_columns=("sex",))
    assert found.setting.partition.kind == "natural"
    assert not found.setting.baselines


def test_a_seed_given_beside_the_file_replaces_the_file_s() -> None:
    assert load("demo").plan.plan.seed == 7
    assert load("demo", seed=0).plan.plan.seed == 0
    assert load("demo", ("plan.seed=3",), seed=5).plan.plan.seed == 5


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("training.steps=3", 3),
        ("training.learning_rate = 0.5", 0.5),
        ("training.optimizer=sgd", "sgd"),
        ('training.optimizer="adam"', "adam"),
        ("preprocessing.size=[32, 32]", (32, 32)),
        ("training.augmentation.flip=false", False),
    ],
)
def test_an_override_is_a_toml_value_and_a_bare_word_is_a_string(override: str, expected: object) -> None:
    dotted = override.partition("=")[0].strip()
    found: object = load("demo", (override,)).plan
    for part in dotted.split("."):
        found = getattr(found, part)
    assert found == expected


def test_an_override_can_add_a_table_that_the_file_lacks() -> None:
    assert "secure_aggregation" not in tomllib.loads((scenario.BUILT_IN / "demo.toml").read_text())
    assert load("demo", ("aggregation.fixed_point.bits=16",)).plan.aggregation.fixed_point.bits == 16


def test_overrides_reach_the_scenario_table_too() -> None:
    found = load("demo", ("scenario.source.hospitals=2", "scenario.partition.kind=iid", "scenario.partition.sites=5"))
    assert isinstance(found.setting.source, Phantoms)
    assert found.setting.source.hospitals == 2
    assert (found.setting.partition.kind, found.setting.partition.sites) == ("iid", 5)


def test_of_two_overrides_of_one_key_the_last_counts() -> None:
    assert load("demo", ("training.steps=3", "training.steps=4")).plan.training.steps == 4


def test_an_override_changes_the_digest_and_the_order_of_overrides_does_not() -> None:
    changes = ("training.steps=3", "plan.rounds=2")
    assert load("demo", changes).plan.digest() == load("demo", changes[::-1]).plan.digest()
    assert load("demo", changes).plan.digest() != load("demo").plan.digest()


def test_a_misspelt_name_is_answered_with_the_nearest_scenario() -> None:
    refused = refusal(name="retna")
    assert refused.sentence == "there is no scenario retna"
    assert refused.hint == "did you mean retina?"


def test_a_name_like_no_other_is_answered_with_all_scenarios() -> None:
    assert refusal(name="xyz").hint == f"known here: {', '.join(BUILT_IN)}"


def test_a_path_that_leads_nowhere_is_not_answered_with_scenario_names(tmp_path: Path) -> None:
    assert refusal(name=str(tmp_path / "none.toml")).hint == "check the path"


@pytest.mark.parametrize(
    ("override", "sentence", "hint"),
    [
        ("training.step=3", "unknown key training.step", "did you mean steps?"),
        ("trainig.steps=3", "unknown key trainig", "did you mean training?"),
        ("training.steps=many", "training.steps = 'many'", "correct training.steps"),
        ("training.steps=0", "training.steps = 0", "correct training.steps"),
        ("training.steps", "not of the form table.key=value", "for example training.steps=10"),
        ("steps=3", "not of the form table.key=value", "for example training.steps=10"),
        ("training..steps=3", "not of the form table.key=value", "for example training.steps=10"),
        ("plan.name.first=x", "name is not a table", "such as training.steps"),
        ("preprocessing.intensity.kind=windw", "preprocessing.intensity", "preprocessing.intensity"),
    ],
)
def test_a_wrong_override_is_one_sentence_with_the_key_and_a_way_out(override: str, sentence: str, hint: str) -> None:
    refused = refusal(override)
    assert isinstance(refused, PlanError)
    assert sentence in refused.sentence
    assert hint in refused.hint


@pytest.mark.parametrize(
    ("override", "sentence", "hint"),
    [
        ("scenario.titel=x", "[scenario] unknown key titel", "did you mean title?"),
        ("scenario.source.hospital=3", "[scenario] unknown key source.hospital", "did you mean hospitals?"),
        ("scenario.source.hospitals=0", "hospitals = 0", "correct"),
        ("scenario.partition.kind=idd", "partition.kind = 'idd'", "correct partition.kind"),
        ("scenario.partition.alpha=-1", "partition.alpha = -1", "correct partition.alpha"),
        ("scenario.source.kind=dicom", "source", "source"),
    ],
)
def test_a_wrong_scenario_table_is_one_sentence_too(override: str, sentence: str, hint: str) -> None:
    refused = refusal(override)
    assert isinstance(refused, ScenarioError)
    assert sentence in refused.sentence
    assert hint in refused.hint


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[plan]\nname = 'x'\n", "the file has no [scenario] table"),
        ("scenario = 3\n", "[scenario]"),
        ("[scenario\n", "is not valid TOML"),
        ("", "the file has no [scenario] table"),
    ],
)
def test_a_file_that_is_no_scenario_is_refused_with_the_reason(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    refused = refusal(name=str(path))
    assert sentence in refused.sentence
    assert refused.hint


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_bytes(b"\xff\xfe")
    assert "cannot be read" in refusal(name=str(tmp_path / "bad.toml")).sentence


def test_a_folder_in_the_place_of_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.toml").mkdir()
    assert "cannot be read" in refusal(name=str(tmp_path / "folder.toml")).sentence
