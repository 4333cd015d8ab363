"""A data set's folder: it keeps what it was begun with, and knows whether the doctor has seen it as it is."""

import stat
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from client.data.archive.archive import Archive
from client.data.archive.catalogue import Change
from client.data.archive.keeping import write_case
from client.data.archive.record import Record
from client.data.case_files import Quarantined
from client.data.dataset import Choices, Dataset, Examined, state_of
from client.data.doctor.findings import Diagnosis, Finding, Histogram
from shared.errors import SiteDataError
from shared.preprocessing.image import Image, Modality

DIAGNOSIS = Diagnosis(
    dataset="lesions",
    patients=3,
    cases=4,
    quarantined={"image-size": 1},
    files={"image": 4, "quarantined": 1},
    tables={"label": {"benign": 2, "malignant": 1}},
    findings=(Finding("mask-empty", "error", ("ab" * 12,), "1 mask is empty", "look at it"),),
    histograms={"spacing": Histogram("mm", (0.0, 0.5, 1.0), (3, 1))},
)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return Dataset(tmp_path / "lesions")


def refusal(dataset: Dataset, given: dict[str, Any]) -> SiteDataError:
    with pytest.raises(SiteDataError) as caught:
        dataset.settled(given)
    assert caught.value.code == "dataset-choices"
    return caught.value


# --- choices ---------------------------------------------------------------------------------------------------------


def test_at_first_choices_are_what_was_said_and_the_defaults(dataset: Dataset) -> None:
    assert dataset.settled({}) == Choices()
    assert dataset.settled({"dimensions": 2}) == Choices(dimensions=2)
    assert not dataset.folder.exists(), "asking changes nothing"


CHOICES = Choices(
    dimensions=3, modality="ct", columns={"patient_id": ("group", "case")}, structures={"GTV 1": 1, "Lunge, links": 2}
)


def test_choices_come_back_from_the_file_as_they_were_made(dataset: Dataset) -> None:
    dataset.begin(CHOICES)
    assert dataset.settled({}) == CHOICES
    assert dataset.settled(CHOICES.model_dump()) == CHOICES


def test_the_file_is_toml_that_says_what_it_is(dataset: Dataset) -> None:
    dataset.begin(CHOICES)
    text = (dataset.folder / "dataset.toml").read_text()
    assert text.startswith("# What this data set was begun with.")
    assert tomllib.loads(text)["columns"] == {"patient_id": ["group", "case"]}
    assert stat.S_IMODE((dataset.folder / "dataset.toml").stat().st_mode) == 0o600
    assert stat.S_IMODE(dataset.folder.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"dimensions": 2}, "dimensions 3, now 2"),
        ({"dimensions": "auto"}, "dimensions 3, now auto"),
        ({"modality": "mr"}, "modality ct, now mr"),
        ({"columns": {"patient_id": ("case", "group")}}, "columns patient_id=group+case, now patient_id=case+group"),
        ({"structures": {"GTV 1": 2}}, "structures GTV 1=1 Lunge, links=2, now GTV 1=2"),
        ({"dimensions": 2, "modality": "mr"}, "dimensions 3, now 2; modality ct, now mr"),
    ],
)
def test_other_choices_are_refused_and_told(dataset: Dataset, given: dict[str, Any], told: str) -> None:
    dataset.begin(CHOICES)
    error = refusal(dataset, given)
    assert error.sentence == f"the data set 'lesions' was begun with other choices: {told}"
    assert "another --dataset" in error.hint
    assert dataset.settled({}) == CHOICES


def test_the_first_choices_stay_whatever_is_begun_again(dataset: Dataset) -> None:
    dataset.begin(CHOICES)
    dataset.begin(Choices())
    assert dataset.settled({}) == CHOICES


@pytest.mark.parametrize(
    ("given", "hint"),
    [({"structures": {"GTV": 256}}, "correct --structure"), ({"modality": "pet"}, "correct --modality")],
)
def test_an_impossible_choice_is_refused(dataset: Dataset, given: dict[str, Any], hint: str) -> None:
    assert refusal(dataset, given).hint == hint


def test_a_damaged_file_of_choices_is_not_taken_for_the_first_ingest(dataset: Dataset) -> None:
    dataset.begin(CHOICES)
    (dataset.folder / "dataset.toml").write_text("dimensions = 4")
    assert "cannot be read" in refusal(dataset, {}).sentence


def test_every_modality_is_a_choice(dataset: Dataset) -> None:
    assert [dataset.settled({"modality": name}).modality for name in get_args(Modality)] == list(get_args(Modality))


def test_a_data_set_that_is_not_there_is_told_with_those_that_are(dataset: Dataset) -> None:
    with pytest.raises(SiteDataError, match="no data set 'lesions'") as caught:
        dataset.require_begun()
    assert "consilium-site ingest" in caught.value.hint
    Dataset(dataset.folder.parent / "vessels").begin(Choices())
    with pytest.raises(SiteDataError) as caught:
        dataset.require_begun()
    assert caught.value.hint == "there are: vessels"
    dataset.begin(Choices())
    dataset.require_begun()


# --- the diagnosis ---------------------------------------------------------------------------------------------------


def test_a_diagnosis_comes_back_equal(dataset: Dataset) -> None:
    dataset.begin(Choices())
    assert dataset.examined() is None
    dataset.keep(Examined("ab" * 32, DIAGNOSIS))
    assert dataset.examined() == Examined("ab" * 32, DIAGNOSIS)
    assert stat.S_IMODE((dataset.folder / "diagnosis.json").stat().st_mode) == 0o600


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff"])
def test_a_damaged_diagnosis_is_refused(dataset: Dataset, content: bytes) -> None:
    dataset.begin(Choices())
    (dataset.folder / "diagnosis.json").write_bytes(content)
    with pytest.raises(SiteDataError, match=r"diagnosis\.json cannot be read") as caught:
        dataset.examined()
    assert caught.value.hint == "run the doctor again"


def test_a_file_is_replaced_whole_and_nothing_stays_beside_it(dataset: Dataset) -> None:
    dataset.begin(Choices())
    for content in (b"first", b"second"):
        dataset.write(dataset.summary, content)
    assert dataset.summary.read_bytes() == b"second"
    assert sorted(path.name for path in dataset.folder.iterdir()) == ["dataset.toml", "summary.json"]


def test_parts_of_a_data_set_have_places_of_their_own(dataset: Dataset) -> None:
    places = [dataset.archive, dataset.prepared, dataset.cohorts, dataset.page, dataset.summary]
    assert {place.parent for place in places} == {dataset.folder}
    assert len({place.name for place in places}) == 5


# --- the state -------------------------------------------------------------------------------------------------------


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    with Archive.open_or_create(tmp_path / "archive") as found:
        yield found


def store(archive: Archive, name: str, value: int = 0, **changes: Any) -> Record:
    image = Image(np.full((1, 4, 4), value, np.float32), (1.0, 1.0))
    with archive.new_segment() as writer:
        written = write_case(writer, image, None)
        writer.flush()
    said = Record(
        case_id=name, patient="p", aliases=(), study="", series="", modality="other", shape=(1, 4, 4),
        kept=written.kept, spacing_mm=(1.0, 1.0), spacing_known=True, affine_lps=(), masked=False, label=None,
        subgroups=(), acquisition=(), dropped=(), suspicions=(), source_sha256="s", sha256=written.sha256, origin="o",
        location=written.location,
    )  # fmt: skip
    found = replace(said, **changes)
    archive.commit(Change(records=[found]))
    return found


def test_a_state_depends_on_cases_and_not_on_where_they_lie_or_in_which_order_they_came(tmp_path: Path) -> None:
    with Archive.open_or_create(tmp_path / "one") as one, Archive.open_or_create(tmp_path / "two") as two:
        assert state_of(one) == state_of(two)
        for name in ("a", "b"):
            store(one, name)
        for name in ("b", "a"):
            store(two, name)
        assert state_of(one) == state_of(two)


@pytest.mark.parametrize(
    "change",
    [
        {"value": 1},
        {"label": "benign"},
        {"patient": "q"},
        {"aliases": ("x",)},
        {"suspicions": ("text",)},
        {"dropped": ("name",)},
        {"subgroups": (("sex", "f"),)},
        {"spacing_mm": (2.0, 1.0)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_a_diagnosis_looks_at_changes_the_state(archive: Archive, change: dict[str, Any]) -> None:
    store(archive, "a")
    before = state_of(archive)
    store(archive, "a", **change)
    assert state_of(archive) != before


def test_a_case_more_a_quarantined_one_and_its_reason_change_the_state(archive: Archive) -> None:
    states = [state_of(archive)]
    store(archive, "a")
    states.append(state_of(archive))
    for code in ("unreadable-dicom", "image-size"):
        archive.commit(Change(quarantined=[Quarantined("b", code, "x")]))
        states.append(state_of(archive))
    archive.commit(Change(gone_quarantine=["b"]))
    assert len(set(states)) == 4
    assert state_of(archive) == states[1]
