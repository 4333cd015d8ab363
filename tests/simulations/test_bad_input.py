"""What goes wrong in hospitals, tried on the real command: a sentence with the numbers and a hint, and nothing lost.

Every sentence that is expected here stands in ``docs/bad-input.md`` too.
"""

import csv
import errno
import json
import os
import resource
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray
from picture_hospitals import SITES, read_rows, save_png, write_hospitals, write_rows
from small_hospitals import SEGMENTATION, Interrupted, Said, contents, document, sim, start_sim, write_scenario

from client.data.cohort.split import split_of
from server.results import read_rounds
from shared.plan import from_document
from simulations import run as running
from simulations.cohorts import rule_of
from simulations.federation import salt_of
from simulations.progress import Silent
from simulations.run import Order
from simulations.scenario import load

Capsys = pytest.CaptureFixture[str]
Spoil = Callable[[Path], object]
Row = dict[str, str]

DOCUMENTED = (Path(__file__).parents[2] / "docs" / "bad-input.md").read_text()
OTHERS = set(SITES) - {"bergen"}
MANY_ROUNDS: dict[str, Any] = {"plan__rounds": 25, "aggregation__method": "fedavgm", "evaluation__every": 5}


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three hospitals with nothing wrong; copy them before changing them."""
    return write_hospitals(tmp_path_factory.mktemp("intact"))


@pytest.fixture
def images(intact: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(intact, tmp_path / "images"))


def run(capsys: Capsys, images: Path, *more: object, **changes: Any) -> Said:
    """Run the small scenario on ``images`` into the folder ``run`` beside them; the images stay as they are."""
    before = contents(images)
    small = write_scenario(images.parent, **changes)
    said = sim(capsys, "run", small, "--data", images, "--out", images.parent / "run", "--workers", 1, *more)
    assert contents(images) == before
    assert "Traceback" not in said.err
    return said


def refused(said: Said, error: str, hint: str) -> None:
    """The command ended with status 1 and these as its last two lines, as documented."""
    assert said.status == 1
    assert said.err.splitlines()[-2:] == [f"error: {error}", f"hint:  {hint}"]
    documented(f"`error: {error}`")
    documented(f"`hint:  {hint}`")


def told(said: Said, sentence: str) -> None:
    assert sentence in said.err.splitlines()
    documented(f"`{sentence}`")


def documented(sentence: str) -> None:
    assert sentence in DOCUMENTED, f"docs/bad-input.md lacks: {sentence}"


def outcome(images: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((images.parent / "run" / "results.json").read_text())
    return found


def went_on_without(images: Path, site: str, code: str) -> None:
    """Every round has the other sites, and says why this one is missing."""
    found = outcome(images)
    for entry in found["participation"]:
        assert set(entry["participants"]) == set(SITES) - {site}
        assert entry["missing"] == {site: code}
    assert set(found["final"]["sites"]) == set(SITES) - {site}


def went_on_with_all(images: Path) -> dict[str, Any]:
    found = outcome(images)
    assert all(set(entry["participants"]) == set(SITES) and not entry["missing"] for entry in found["participation"])
    return found


def usable(found: dict[str, Any], site: str) -> dict[str, Any]:
    """What results.json says that a site could use."""
    return {key: found["data"][site][key] for key in ("cases", "patients", "quarantined")}


def edit(change: Callable[[list[Row]], object]) -> Spoil:
    """Spoil by changing the rows of bergen; a row whose image is called "dropped" goes."""

    def spoil(images: Path) -> None:
        rows = read_rows(images)
        change([row for row in rows if row["site"] == "bergen"])
        write_rows(images, [row for row in rows if row["image"] != "dropped"])

    return spoil


def set_in_rows(count: int, **values: str) -> Spoil:
    def change(rows: list[Row]) -> None:
        for row in rows[:count]:
            row.update(values)

    return edit(change)


def keep(wanted: Callable[[Row], bool]) -> Spoil:
    def change(rows: list[Row]) -> None:
        for row in rows:
            if not wanted(row):
                row["image"] = "dropped"

    return edit(change)


def pictures(images: Path, count: int) -> list[Path]:
    return sorted(path for path in (images / "bergen").iterdir() if "mask" not in path.name)[:count]


def unlink(count: int) -> Spoil:
    def spoil(images: Path) -> None:
        for path in pictures(images, count):
            path.unlink()

    return spoil


def cut_short(count: int) -> Spoil:
    def spoil(images: Path) -> None:
        for path in pictures(images, count):
            path.write_bytes(path.read_bytes()[:90])

    return spoil


def redraw_masks(count: int, mask: NDArray[np.uint8]) -> Spoil:
    def spoil(images: Path) -> None:
        for path in sorted((images / "bergen").glob("*-mask.png"))[:count]:
            save_png(path, mask)

    return spoil


def as_nifti(value: float, count: int) -> Spoil:
    """Some images become NIfTI files of real numbers, one of which is ``value``."""

    def change(rows: list[Row]) -> None:
        for row in rows[:count]:
            row["image"] = row["image"].replace(".png", ".nii")

    def spoil(images: Path) -> None:
        for path in pictures(images, count):
            voxels = np.ones((16, 16, 1), np.float32)
            voxels[3, 4] = value
            nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), path.with_suffix(".nii"))  # type: ignore[no-untyped-call]
        edit(change)(images)

    return spoil


# A plan that cannot be


@pytest.mark.parametrize(
    ("changes", "error", "hint"),
    [
        ({"training__stepz": 3}, "unknown key training.stepz", "did you mean steps?"),
        ({"trainig__steps": 3}, "unknown key trainig", "did you mean training?"),
        (
            {"training__steps": 0},
            "training.steps = 0: Input should be greater than or equal to 1",
            "correct training.steps",
        ),
        (
            {"preprocessing__size": [15, 16], **SEGMENTATION},
            "unet needs each edge divisible by 2, got preprocessing.size = [15, 16]",
            "such as [16, 16]",
        ),
        (
            {"preprocessing__size": [16, 16], "training__patch": [6, 7], **SEGMENTATION},
            "unet needs each edge divisible by 2, got training.patch = [6, 7]",
            "such as [6, 8]",
        ),
        (
            {"preprocessing__size": [1, 1]},
            "cnn needs each edge to be at least 2, got preprocessing.size = [1, 1]",
            "such as [2, 2]",
        ),
        (
            {"model__name": "unet"},
            "the task classification needs one prediction per image, unet gives one prediction per voxel",
            "choose one of cnn, densenet121, resnet18, resnet50, whitened_cnn",
        ),
    ],
)
def test_a_plan_that_cannot_be_is_refused_before_anything_is_written(
    capsys: Capsys, images: Path, changes: dict[str, Any], error: str, hint: str
) -> None:
    refused(run(capsys, images, **changes), error, hint)
    assert not (images.parent / "run").exists()


def test_a_plan_whose_learning_rate_is_far_too_high_says_where_the_loss_broke(capsys: Capsys, images: Path) -> None:
    said = run(capsys, images, training__learning_rate=1e30, training__optimizer="sgd")
    told(said, "bergen sits out: the loss is nan at local step 2 of 3")
    refused(
        said,
        "0 sites delivered an update in round 1, the plan's quorum is 2; "
        "without aachen (loss-not-finite), bergen (loss-not-finite), coimbra (loss-not-finite)",
        "journal.sqlite says why sites are missing; resume the run, or lower participation.quorum",
    )


# A manifest that cannot be


def rewrite(content: bytes) -> Spoil:
    return lambda images: (images / "manifest.csv").write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "error", "hint"),
    [
        pytest.param(
            set_in_rows(1, image="../elsewhere.png"),
            "row 26 names a file outside its folder",
            "paths are relative to the folder of the table; '..' and links that leave it are refused",
            id="outside",
        ),
        pytest.param(
            edit(lambda rows: rows[0].update(image=rows[1]["image"])),
            "rows 26 and 27 of the manifest name the same image",
            "keep one of them",
            id="twice",
        ),
        pytest.param(
            set_in_rows(1, image=""),
            "row 26 of the manifest names no image",
            "fill or drop it",
            id="no-image",
        ),
        pytest.param(
            rewrite(b"site,patient,sex\naachen,p1,f\n"),
            "manifest.csv lacks the column 'image'; it has 3 columns",
            "needed: site, image, patient, sex",
            id="no-column",
        ),
        pytest.param(
            rewrite(b"site,patient,image,sex\n\xe9vora,p1,a.png,f\n"),
            "manifest.csv cannot be read: not CSV in UTF-8 (UnicodeDecodeError)",
            "save it as CSV, UTF-8",
            id="not-utf-8",
        ),
        pytest.param(
            rewrite(b"site,patient,image,sex\n"),
            "the manifest has no row below its header",
            "write one for each image",
            id="header-only",
        ),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused_with_the_row(
    capsys: Capsys, images: Path, spoil: Spoil, error: str, hint: str
) -> None:
    spoil(images)
    refused(run(capsys, images), error, hint)


def test_a_site_whose_name_no_secure_sum_can_bear_is_refused_with_the_row(capsys: Capsys, images: Path) -> None:
    set_in_rows(1, site="St. Mary's")(images)
    secure: dict[str, Any] = {
        "aggregation__fixed_point": {"range": 4.0, "bits": 24},
        "evaluation__release": "sum",
        "secure_aggregation__enabled": True,
    }
    refused(
        run(capsys, images, **secure),
        "the site's name in row 26 of the manifest, of 10 characters, is none that can stand in a secure sum",
        "letters, digits, _, dots, hyphens and spaces, 63 at most, the first of them a letter, a digit or _",
    )


# Cases that cannot be used


CLASSIFY: dict[str, Any] = {}
SMALL = np.ones((8, 8), np.uint8)
GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)


@pytest.mark.parametrize(
    ("spoil", "changes", "code"),
    [
        pytest.param(unlink(3), CLASSIFY, "image-missing", id="missing-file"),
        pytest.param(cut_short(3), CLASSIFY, "unreadable-image", id="cut-short"),
        pytest.param(set_in_rows(3, label=""), CLASSIFY, "label-missing", id="no-label"),
        pytest.param(set_in_rows(3, label="brihgt"), CLASSIFY, "label-unknown", id="misspelt-label"),
        pytest.param(as_nifti(np.nan, 3), CLASSIFY, "image-not-finite", id="nan"),
        pytest.param(as_nifti(-np.inf, 3), CLASSIFY, "image-not-finite", id="infinite"),
        pytest.param(
            redraw_masks(3, np.ones((8, 8), np.uint8)), SEGMENTATION, "mask-shape", id="mask-of-another-shape"
        ),
        pytest.param(
            redraw_masks(3, np.arange(256, dtype=np.uint8).reshape(16, 16)),
            SEGMENTATION,
            "mask-values",
            id="mask-of-greys",
        ),
        pytest.param(set_in_rows(3, mask=""), SEGMENTATION, "mask-missing", id="no-mask"),
    ],
)
def test_a_few_unusable_cases_are_set_aside_by_reason_and_the_site_takes_part(
    capsys: Capsys, images: Path, spoil: Spoil, changes: dict[str, Any], code: str
) -> None:
    spoil(images)
    said = run(capsys, images, **changes)
    assert said.status == 0
    told(said, f"bergen: 3 of 24 cases set aside (3 {code})")
    found = went_on_with_all(images)
    assert found["data"]["bergen"]["quarantined"] == {code: 3}
    assert found["data"]["bergen"]["cases"] == 21
    assert found["data"]["aachen"]["quarantined"] == {}


def test_more_unusable_cases_than_the_plan_allows_make_the_site_sit_out(capsys: Capsys, images: Path) -> None:
    unlink(4)(images)
    cut_short(2)(images)
    said = run(capsys, images)
    assert said.status == 0
    reasons = "4 image-missing, 2 unreadable-image"
    told(said, f"bergen sits out: 6 of 24 cases are unusable ({reasons}); the plan allows 20%")
    went_on_without(images, "bergen", "quarantine-quota")


def test_an_empty_site_sits_out_and_the_run_goes_on(capsys: Capsys, images: Path) -> None:
    shutil.rmtree(images / "bergen")
    said = run(capsys, images)
    assert said.status == 0
    told(said, "bergen sits out: this site is empty: 0 usable cases, 24 unusable (24 image-missing)")
    went_on_without(images, "bergen", "empty-site")


def test_a_site_whose_every_case_the_scenario_drops_sits_out(capsys: Capsys, images: Path) -> None:
    set_in_rows(24, label="normal")(images)
    source = {"kind": "manifest", "drop_labels": ["normal"], "subgroup_columns": ["sex"]}
    said = run(capsys, images, scenario__source=source)
    assert said.status == 0
    told(said, "bergen sits out: this site is empty: 0 usable cases, 0 unusable")
    went_on_without(images, "bergen", "empty-site")


def test_a_site_of_one_class_takes_part_and_is_remarked_upon(capsys: Capsys, images: Path) -> None:
    keep(lambda row: row["label"] == "dark")(images)
    said = run(capsys, images)
    assert said.status == 0
    told(said, "bergen: all training cases have one and the same label out of 2 classes")
    found = went_on_with_all(images)
    site = found["final"]["sites"]["bergen"]
    assert site["auroc"]["value"] is None, "undetermined, not zero"
    assert site["specificity"]["value"] is not None
    assert found["final"]["worst"]["auroc"]["site"] in OTHERS
    assert found["final"]["undetermined"]["auroc"] == ["bergen"]


def a_patient_in(split: str, images: Path) -> str:
    """A patient of bergen whom the plan deals into ``split``."""
    plan = from_document({name: table for name, table in document().items() if name != "scenario"})
    salt = salt_of(plan, "bergen")
    known = (row["patient"] for row in read_rows(images) if row["site"] == "bergen")
    return next(one for one in known if split_of(rule_of(plan), "bergen", salt.person(one)) == split)


def test_a_site_with_one_patient_takes_part_with_a_warning_if_that_patient_is_trained_on(
    capsys: Capsys, images: Path
) -> None:
    patient = a_patient_in("train", images)
    keep(lambda row: row["patient"] == patient)(images)
    said = run(capsys, images)
    assert said.status == 0
    told(said, "bergen: one patient makes up the whole training split: the update follows that patient")
    told(said, "bergen: no patient falls into the test split: this site adds nothing to test figures")
    found = went_on_with_all(images)
    assert usable(found, "bergen") == {"cases": "<3", "patients": "<3", "quarantined": {}}


def test_a_site_whose_one_patient_is_not_trained_on_sits_out(capsys: Capsys, images: Path) -> None:
    patient = a_patient_in("test", images)
    keep(lambda row: row["patient"] == patient)(images)
    said = run(capsys, images)
    assert said.status == 0
    told(said, "bergen sits out: none of the 1 patients of this site falls into the training split")
    went_on_without(images, "bergen", "no-training-patient")


def test_when_too_few_sites_are_left_the_run_ends_and_goes_on_once_one_is_repaired(
    capsys: Capsys, images: Path, intact: Path
) -> None:
    shutil.rmtree(images / "bergen")
    said = run(capsys, images, participation__quorum=3)
    told(said, "bergen sits out: this site is empty: 0 usable cases, 24 unusable (24 image-missing)")
    refused(
        said,
        "2 sites were admitted, the plan's quorum is 3; without bergen (empty-site)",
        "journal.sqlite says why sites are missing; resume the run, or lower participation.quorum",
    )
    shutil.copytree(intact / "bergen", images / "bergen")
    assert run(capsys, images, "--resume", participation__quorum=3).status == 0
    went_on_with_all(images)


# DICOM


TINY = ("scenario.source.hospitals=3", "scenario.source.size=tiny", "participation.quorum=2", "plan.rounds=1")
SETTINGS = (
    *TINY,
    "training.steps=1",
    "model.channels=[4, 8]",
    "data.train_fraction=0.7",
    "data.validation_fraction=0.1",
)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was interrupted when its three DICOM hospitals were written, and before anything was stored."""
    out = tmp_path_factory.mktemp("dicom") / "run"
    with pytest.raises(KeyboardInterrupt):
        running.run(load("hundred-sites", SETTINGS), Order(out, workers=1), Interrupted("writing and reading DICOM", 2))
    return out


def resume_dicom(capsys: Capsys, out: Path) -> Said:
    changes = [word for setting in SETTINGS for word in ("--set", setting)]
    return sim(capsys, "run", "hundred-sites", *changes, "--out", out, "--workers", 1, "--resume")


def renamed(whole: bytes) -> bytes:
    """The file with another first letter in its PatientID, (0010,0020) with its type and length before the value."""
    start = whole.index(b"\x10\x00\x20\x00LO") + 8
    return whole[:start] + b"?" + whole[start + 1 :]


DICOM: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut short in its pixels": (lambda whole: whole[:-2000], "undecodable-pixels"),
    "cut short in its header": (lambda whole: whole[:400], "unreadable-dicom"),
    "empty": (lambda _whole: b"", "unreadable-dicom"),
    "a text file": (lambda _whole: b"export interrupted", "unreadable-dicom"),
    "zeros": (lambda whole: bytes(len(whole)), "unreadable-dicom"),
    "another patient's": (renamed, "patient-conflict"),
}


@pytest.mark.parametrize("damage", sorted(DICOM))
def test_a_corrupt_dicom_file_costs_its_own_case_and_no_other(
    capsys: Capsys, written: Path, tmp_path: Path, damage: str
) -> None:
    spoil, code = DICOM[damage]
    out = Path(shutil.copytree(written, tmp_path / "run"))
    for path in sorted((out / "hospitals" / "clinic-001" / "dicom").iterdir())[:3]:
        path.write_bytes(spoil(path.read_bytes()))
    said = resume_dicom(capsys, out)
    assert said.status == 0
    told(said, f"clinic-001: 3 of 12 cases set aside (3 {code})")
    found = json.loads((out / "results.json").read_text())
    assert found["data"]["clinic-001"]["cases"] == 9
    assert usable(found, "clinic-002") == {"cases": 12, "patients": 4, "quarantined": {}}


def test_a_dicom_hospital_without_its_folder_sits_out(capsys: Capsys, written: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(written, tmp_path / "run"))
    shutil.rmtree(out / "hospitals" / "clinic-001" / "dicom")
    said = resume_dicom(capsys, out)
    assert said.status == 0
    told(said, "clinic-001 sits out: this site is empty: 0 usable cases, 1 unusable (1 source-missing)")


def test_no_sentence_anywhere_names_a_patient(capsys: Capsys, written: Path, tmp_path: Path) -> None:
    """Oracle: every identifier that the hospital's own table holds."""
    out = Path(shutil.copytree(written, tmp_path / "run"))
    with (out / "hospitals" / "clinic-001" / "labels.csv").open() as file:
        known = {row[key] for row in csv.DictReader(file) for key in ("patient_id", "series_uid")}
    for path in sorted((out / "hospitals" / "clinic-001" / "dicom").iterdir())[:4]:
        path.write_bytes(path.read_bytes()[:-2000])
    said = resume_dicom(capsys, out)
    with sqlite3.connect(out / "journal.sqlite") as journal:
        sentences = [sentence for (sentence,) in journal.execute("select sentence from events")]
    everything = "".join((said.out, said.err, *sentences, (out / "results.json").read_text()))
    assert known
    assert not [name for name in known if name and name in everything]


# A full disk


@contextmanager
def no_file_over(size: int) -> Iterator[None]:
    """The operating system refuses to let any file of this process grow further (EFBIG), as a quota would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    ("size", "changes", "error", "hint"),
    [
        pytest.param(
            60_000,
            {},
            "the archive's catalogue cannot be used: disk I/O error",
            "check the disk's space, quota, health and permissions, then run the same command again",
            id="archive",
        ),
        pytest.param(
            150_000,
            # Measured statistics would be the first file to reach the limit.
            {**MANY_ROUNDS, "evaluation__every": 10_000},
            "the journal cannot be written: disk I/O error",
            "check the disk's space, quota, health and permissions, then resume the run",
            id="journal",
        ),
        pytest.param(
            200_000,
            {"preprocessing__size": [64, 64]},
            "no room after 0.2 MiB of a segment; the disk has ",
            "free some space, then run the same command again: what is stored stays",
            id="prepared-cases",
        ),
        pytest.param(
            200_000,
            {"model__channels": [64, 128]},
            "the disk is full: a checkpoint needs 300528 bytes, ",
            "free space on the disk of the run's folder, then resume the run",
            id="checkpoint",
        ),
    ],
)
def test_a_file_that_may_not_grow_ends_the_run_with_the_numbers_and_it_goes_on_with_more_room(
    capsys: Capsys, images: Path, size: int, changes: dict[str, Any], error: str, hint: str
) -> None:
    with no_file_over(size):
        said = run(capsys, images, **changes)
    assert said.status == 1
    assert said.err.splitlines()[-2].startswith(f"error: {error}")
    assert said.err.splitlines()[-1] == f"hint:  {hint}"
    documented(f"error: {error}")
    assert not [path for path in (images.parent / "run").rglob("*") if "partial" in path.name]
    assert run(capsys, images, "--resume", **changes).status == 0
    went_on_with_all(images)


@pytest.fixture(scope="module")
def whole(intact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that the tests below disturb, undisturbed."""
    folder = tmp_path_factory.mktemp("whole")
    setting = load(str(write_scenario(folder, **MANY_ROUNDS)))
    return running.run(setting, Order(folder / "run", intact, workers=1), Silent())


def ends_with_the_bytes_of(whole: Path, out: Path) -> None:
    for kept in ("checkpoints", "server-state"):
        assert contents(out / kept) == contents(whole / kept)
    for name in ("final", "participation", "checkpoint"):
        found, expected = (json.loads((folder / "results.json").read_text())[name] for folder in (out, whole))
        assert found == expected
    assert len(read_rounds(out / "rounds.jsonl")) == 25


@pytest.fixture
def filling(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], list[int]]:
    """Let every flush to the disk from the given one on fail as on a full disk; returns the count of flushes."""
    flush = os.fsync

    def fill(room: int | None) -> list[int]:
        done = [0]

        def flushed(handle: int) -> None:
            if room is not None and done[0] >= room:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "patient-42")
            done[0] += 1
            flush(handle)

        monkeypatch.setattr(os, "fsync", flushed)
        return done

    return fill


def disturb_at(capsys: Capsys, images: Path, filling: Callable[[int | None], list[int]], rooms: range) -> None:
    """Fill the disk at each of these flushes, make room, and go on; every run ends like the one that never stopped."""
    whole = images.parent / "whole"
    (images.parent / "run").rename(whole)
    for room in rooms:
        filling(room)
        said = run(capsys, images)
        assert said.status == 1, room
        assert said.err.splitlines()[-2].startswith("error: ")
        assert said.err.splitlines()[-1].startswith("hint:  free s")
        assert "patient" not in said.err
        filling(None)
        assert run(capsys, images, "--resume").status == 0
        out = images.parent / "run"
        for kept in ("checkpoints", "server-state"):
            assert contents(out / kept) == contents(whole / kept), room
        assert not [path for path in out.rglob("*") if "partial" in path.name or "pending" in path.name]
        shutil.rmtree(out)


def test_a_disk_that_fills_up_at_any_moment_costs_the_round_in_flight_and_nothing_else(
    capsys: Capsys, images: Path, filling: Callable[[int | None], list[int]]
) -> None:
    flushes = filling(None)
    assert run(capsys, images).status == 0
    assert flushes[0] > 25
    disturb_at(capsys, images, filling, range(2, flushes[0], 8))


@pytest.mark.slow
def test_a_disk_that_fills_up_at_each_single_moment_costs_the_round_in_flight_and_nothing_else(
    capsys: Capsys, images: Path, filling: Callable[[int | None], list[int]]
) -> None:
    flushes = filling(None)
    assert run(capsys, images).status == 0
    disturb_at(capsys, images, filling, range(flushes[0]))


# Interruptions


def rounds_done(out: Path) -> int:
    path = out / "rounds.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def stopped_by(sent: signal.Signals, images: Path, rounds: int) -> tuple[int, str]:
    """Start the command as a process and send it a signal once that many rounds are done: its status and stderr."""
    small, out = write_scenario(images.parent, **MANY_ROUNDS), images.parent / "run"
    for _ in range(5):
        process = start_sim("run", small, "--data", images, "--out", out, "--workers", 1, "--overwrite")
        end = time.monotonic() + 300
        while rounds_done(out) < rounds:
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < end
            time.sleep(0.005)
        # Twenty rounds take half a second, and a busy machine may let us sleep for as long: held still, it can be seen
        # whether it is in the middle of training, and the signal finds it there.
        process.send_signal(signal.SIGSTOP)
        in_the_middle = rounds_done(out) < 20
        process.send_signal(sent)
        process.send_signal(signal.SIGCONT)
        _, err = process.communicate(timeout=300)
        if in_the_middle:
            assert 0 < rounds_done(out) < 25, "it went on after the signal"
            return process.returncode, err
    pytest.fail("five times it was not found in the middle of training")


def test_ctrl_c_in_the_middle_of_training_loses_nothing(capsys: Capsys, images: Path, whole: Path) -> None:
    status, err = stopped_by(signal.SIGINT, images, rounds=2)
    assert status == 1
    assert err.splitlines()[-2:] == ["error: interrupted", "hint:  go on with: the same command and --resume"]
    assert "Traceback" not in err
    documented("`error: interrupted`<br>`hint:  go on with: the same command and --resume`")
    assert not (images.parent / "run" / "results.json").exists()
    assert run(capsys, images, "--resume", **MANY_ROUNDS).status == 0
    ends_with_the_bytes_of(whole, images.parent / "run")


@pytest.mark.parametrize(
    "rounds", [1, pytest.param(4, marks=pytest.mark.slow), pytest.param(9, marks=pytest.mark.slow)]
)
def test_kill_9_in_the_middle_of_training_loses_at_most_the_round_in_flight(
    capsys: Capsys, images: Path, whole: Path, rounds: int
) -> None:
    status, err = stopped_by(signal.SIGKILL, images, rounds)
    assert (status, "error" in err) == (-9, False)
    before = rounds_done(images.parent / "run")
    said = run(capsys, images, "--resume", **MANY_ROUNDS)
    assert said.status == 0
    left = {f"federated training: {3 * (25 - done)} of {3 * (25 - done)}" for done in (before, before - 1)}
    assert any(line.startswith(tuple(left)) for line in said.err.splitlines())
    ends_with_the_bytes_of(whole, images.parent / "run")


def test_what_a_killed_process_left_half_written_is_swept_away(capsys: Capsys, images: Path) -> None:
    assert run(capsys, images).status == 0
    out = images.parent / "run"
    (out / "checkpoints" / ".partial-x").write_bytes(b"half a model")
    (out / "results.json.pending").write_bytes(b"{")
    with (out / "rounds.jsonl").open("ab") as file:
        file.write(b'{"round": 3, "lo')
    assert run(capsys, images, "--resume").status == 0
    assert not [path for path in out.rglob("*") if "partial" in path.name or "pending" in path.name]
    assert rounds_done(out) == 2


@pytest.mark.parametrize("spoilt", ["checkpoint", "journal", "store"])
def test_a_run_folder_that_was_damaged_is_never_gone_on_with_unseen(capsys: Capsys, images: Path, spoilt: str) -> None:
    assert run(capsys, images).status == 0
    out = images.parent / "run"
    last = read_rounds(out / "rounds.jsonl")[-1].checkpoint
    path = {
        "checkpoint": out / "checkpoints" / f"{last}.safetensors",
        "journal": out / "journal.sqlite",
        "store": next((out / "sites-data" / "bergen" / "prepared").rglob("*.segment")),
    }[spoilt]
    content = bytearray(path.read_bytes())
    content[:10] = b"0123456789"
    path.write_bytes(bytes(content))
    said = run(capsys, images, "--resume")
    if spoilt == "store":
        assert said.status == 0, "prepared cases are made again from the images"
        return
    assert said.status == 1
    expected = {
        "checkpoint": f"error: the checkpoint {last}.safetensors holds other bytes than its name says",
        "journal": "error: the journal is damaged",
    }[spoilt]
    assert said.err.splitlines()[-2].startswith(expected)
    documented(f"`{expected.replace(f'{last}.safetensors', '…')}`")
