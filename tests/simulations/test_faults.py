"""Planted faults: exactly the damage that was asked for, at one site, in a copy."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from picture_hospitals import read_rows, write_hospitals, write_rows
from small_hospitals import contents

from shared.errors import ScenarioError
from simulations.faults import KINDS, Fault, Kind, plant

SMALL = {"aachen": 4, "bergen": 6}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_hospitals(tmp_path / "honest", SMALL)


def fault(kind: Kind, **changes: Any) -> Fault:
    return Fault(kind, "bergen", other="aachen", **changes)


def pixels(path: Path) -> np.ndarray[Any, Any]:
    with PIL.Image.open(path) as picture:
        return np.asarray(picture)


def of(rows: list[dict[str, str]], site: str) -> list[dict[str, str]]:
    return [row for row in rows if row["site"] == site]


@pytest.mark.parametrize("kind", KINDS)
def test_the_source_and_the_other_site_stay_as_they_are(folder: Path, tmp_path: Path, kind: Kind) -> None:
    before = contents(folder)
    out = plant(folder, tmp_path / "out", fault(kind))
    assert contents(folder) == before
    assert of(read_rows(out), "aachen") == of(read_rows(folder), "aachen")
    after = contents(out)
    assert {name: after[name] for name in before if name.startswith("aachen")} == {
        name: content for name, content in before.items() if name.startswith("aachen")
    }


@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_changes_something_and_the_same_fault_the_same(folder: Path, tmp_path: Path, kind: Kind) -> None:
    one, again = (contents(plant(folder, tmp_path / name, fault(kind))) for name in ("one", "again"))
    assert one == again != contents(folder)


def test_flipped_labels_are_the_other_class_each(folder: Path, tmp_path: Path) -> None:
    out = plant(folder, tmp_path / "out", fault("labels-flipped"))
    pairs = zip(of(read_rows(folder), "bergen"), of(read_rows(out), "bergen"), strict=True)
    other = {"bright": "dark", "dark": "bright"}
    for before, after in pairs:
        assert after == before | {"label": other[before["label"]]}


def test_of_three_classes_labels_move_on_by_one(folder: Path, tmp_path: Path) -> None:
    rows = read_rows(folder)
    rows[0]["label"] = "middle"
    write_rows(folder, rows)
    out = plant(folder, tmp_path / "out", fault("labels-flipped"))
    following = {"bright": "dark", "dark": "middle", "middle": "bright"}
    assert [row["label"] for row in of(read_rows(out), "bergen")] == [
        following[row["label"]] for row in of(rows, "bergen")
    ]


def test_inverted_images_add_up_with_the_originals_to_white_and_masks_stay(folder: Path, tmp_path: Path) -> None:
    out = plant(folder, tmp_path / "out", fault("images-inverted"))
    for row in of(read_rows(folder), "bergen"):
        before, after = pixels(folder / row["image"]), pixels(out / row["image"])
        assert (before.astype(int) + after == 255).all()
        assert (pixels(folder / row["mask"]) == pixels(out / row["mask"])).all()


def test_pictures_of_16_bits_are_inverted_over_their_own_range(folder: Path, tmp_path: Path) -> None:
    row = of(read_rows(folder), "bergen")[0]
    deep = np.arange(256, dtype=np.uint16).reshape(16, 16) * 200
    PIL.Image.fromarray(deep).save(folder / row["image"])
    out = plant(folder, tmp_path / "out", fault("images-inverted"))
    assert (pixels(out / row["image"]).astype(int) + deep == 65535).all()


@pytest.mark.parametrize("by", [1, 3])
def test_masks_are_moved_down_and_right_and_images_stay(folder: Path, tmp_path: Path, by: int) -> None:
    out = plant(folder, tmp_path / "out", fault("masks-shifted", by=by))
    for row in of(read_rows(folder), "bergen"):
        before, after = pixels(folder / row["mask"]), pixels(out / row["mask"])
        assert (after[by:, by:] == before[:-by, :-by]).all()
        assert not after[:by].any()
        assert not after[:, :by].any()
        assert (pixels(folder / row["image"]) == pixels(out / row["image"])).all()


def test_a_site_of_one_class_has_lost_the_patients_of_the_others(folder: Path, tmp_path: Path) -> None:
    out = plant(folder, tmp_path / "out", fault("one-class"))
    kept = of(read_rows(out), "bergen")
    assert {row["label"] for row in kept} == {"bright"}
    assert kept == [row for row in of(read_rows(folder), "bergen") if row["label"] == "bright"]


def test_a_patient_of_two_classes_leaves_as_a_whole(folder: Path, tmp_path: Path) -> None:
    rows = read_rows(folder)
    mixed = next(row for row in rows if row["site"] == "bergen" and row["label"] == "bright")
    mixed["label"] = "dark"
    write_rows(folder, rows)
    out = plant(folder, tmp_path / "out", fault("one-class"))
    assert mixed["patient"] not in {row["patient"] for row in of(read_rows(out), "bergen")}


def test_duplicated_patients_are_there_twice_under_other_names_with_files_of_their_own(
    folder: Path, tmp_path: Path
) -> None:
    out = plant(folder, tmp_path / "out", fault("patients-at-two-sites", patients=2))
    before, after = read_rows(folder), read_rows(out)
    added = [row for row in after if row not in before]
    assert len(after) == len(before) + len(added)
    assert {row["site"] for row in added} == {"bergen"}
    assert {row["patient"] for row in added} == {"again-p0", "again-p1"}
    originals = [row for row in of(before, "aachen") if row["patient"] in {"p0", "p1"}]
    for copy, original in zip(added, originals, strict=True):
        for column in ("image", "mask"):
            assert copy[column] != original[column]
            assert (out / copy[column]).read_bytes() == (folder / original[column]).read_bytes()


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (Fault("labels-flipped", "nowhere"), "no site nowhere"),
        (Fault("patients-at-two-sites", "bergen"), "another site"),
        (Fault("patients-at-two-sites", "bergen", other="bergen"), "another site"),
        (Fault("patients-at-two-sites", "bergen", other="nowhere"), "no site nowhere"),
    ],
    ids=["unknown-site", "no-other", "itself", "unknown-other"],
)
def test_an_impossible_fault_is_refused_before_anything_is_copied(
    folder: Path, tmp_path: Path, wrong: Fault, sentence: str
) -> None:
    with pytest.raises(ScenarioError, match=sentence) as refused:
        plant(folder, tmp_path / "out", wrong)
    assert refused.value.hint
    assert not (tmp_path / "out").exists()


def test_a_manifest_without_rows_has_nothing_to_damage(folder: Path, tmp_path: Path) -> None:
    write_rows(folder, [])
    with pytest.raises(ScenarioError, match="no row"):
        plant(folder, tmp_path / "out", fault("one-class"))


def test_columns_of_a_manifest_keep_their_order(folder: Path, tmp_path: Path) -> None:
    out = plant(folder, tmp_path / "out", fault("labels-flipped"))
    headers = []
    for place in (folder, out):
        with (place / "manifest.csv").open(newline="") as file:
            headers.append(next(csv.reader(file)))
    assert headers[0] == headers[1]
