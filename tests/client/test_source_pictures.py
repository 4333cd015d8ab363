"""Pictures and NIfTI files, with and without a table that names them."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from made_hospital import PNG, SALT, seen, verdict_of, verdicts, write_csv

from client.data.case_files import CaseFiles, Salt
from client.data.source.discover import discover
from client.data.source.files import SourceFile
from client.data.source.found import Found, Table, Wanted
from shared.errors import SiteDataError

RETINA = [
    {"site": "hrf", "image": "hrf/06_g.jpg", "mask": "hrf/06_g.png", "subject": "06", "group": "g"},
    {"site": "hrf", "image": "hrf/06_h.jpg", "mask": "hrf/06_h.png", "subject": "06", "group": "h"},
    {"site": "hrf", "image": "hrf/06_h2.jpg", "mask": "", "subject": "06", "group": "h"},
    {"site": "chase", "image": "chase/06.jpg", "mask": "chase/06.png", "subject": "06", "group": ""},
]
BREAST = [
    {"site": "usys", "image": "usys/1-l.png", "label": "benign", "patient": "p1", "age": "63", "device": "U"},
    {"site": "usys", "image": "usys/1-r.png", "label": "malignant", "patient": "p1", "age": "63", "device": "U"},
    {"site": "busi", "image": "busi/1.png", "label": "normal", "patient": "", "age": "", "device": ""},
    {"site": "busi", "image": "busi/2.png", "label": "benign", "patient": "", "age": "91", "device": ""},
    {"site": "busi", "image": "busi/3.png", "label": "", "patient": "", "age": "17", "device": ""},
]


def picture(path: Path, content: bytes = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(PNG + content)
    return path


def folder_of(folder: Path, rows: list[dict[str, str]]) -> Path:
    """A folder with manifest.csv and every image and mask that it names."""
    write_csv(folder / "manifest.csv", rows)
    for row in rows:
        for column in ("image", "mask"):
            if row.get(column):
                picture(folder / row[column])
    return folder


def found(
    folder: Path,
    site: str,
    *,
    patients: tuple[str, ...] = ("patient",),
    drop: tuple[str, ...] = (),
    subgroups: tuple[str, ...] = (),
    **wanted: Any,
) -> Found:
    columns = {"file": ("image",), "patient_id": patients}
    table = Table(folder / "manifest.csv", columns, {"site": site}, drop)
    return discover(Wanted((folder,), (table,), subgroup_columns=subgroups, **wanted), SALT)


def by_path(found: Found, folder: Path) -> dict[str, CaseFiles]:
    cases = {}
    for one in found.cases:
        (file,) = one.images
        assert isinstance(file, SourceFile)
        cases[Path(file.path).relative_to(folder.resolve()).as_posix()] = one
    return cases


def test_a_site_has_the_images_of_its_own_rows_with_their_masks(tmp_path: Path) -> None:
    both = found(folder_of(tmp_path, RETINA), "hrf", patients=("group", "subject"), modality="fundus")
    cases = by_path(both, tmp_path)
    assert set(cases) == {row["image"] for row in RETINA[:3]}
    masks = {path: one.mask.name if one.mask else None for path, one in cases.items()}
    assert masks == {"hrf/06_g.jpg": "06_g.png", "hrf/06_h.jpg": "06_h.png", "hrf/06_h2.jpg": None}
    assert {one.modality for one in both.cases} == {"fundus"}
    assert verdicts(both) == [("image", "")] * 3 + [("mask", "")] * 2 + [("not-listed", "")] * 2 + [("table", "")]


def test_an_image_is_named_by_its_path_in_the_table(tmp_path: Path) -> None:
    names = {path: one.case_id for path, one in by_path(found(folder_of(tmp_path, BREAST), "usys"), tmp_path).items()}
    assert names == {"usys/1-l.png": SALT.case("usys/1-l.png"), "usys/1-r.png": SALT.case("usys/1-r.png")}


def test_a_patient_is_all_patient_columns_together(tmp_path: Path) -> None:
    cases = by_path(found(folder_of(tmp_path, RETINA), "hrf", patients=("group", "subject")), tmp_path)
    assert cases["hrf/06_g.jpg"].patient == SALT.person("g", "06")
    assert cases["hrf/06_h.jpg"].patient == cases["hrf/06_h2.jpg"].patient == SALT.person("h", "06")


def test_an_image_of_nobody_known_is_its_own_patient(tmp_path: Path) -> None:
    cases = by_path(found(folder_of(tmp_path, BREAST), "busi"), tmp_path)
    assert {path: one.patient for path, one in cases.items()} == {
        path: SALT.unnamed_person(path) for path in ("busi/1.png", "busi/2.png", "busi/3.png")
    }


def test_one_patient_with_two_images_is_one_patient(tmp_path: Path) -> None:
    cases = found(folder_of(tmp_path, BREAST), "usys").cases
    assert [one.patient for one in cases] == [SALT.person("p1")] * 2
    assert {alias for one in cases for alias in one.aliases} == {SALT.alias("id", "P1")}


def test_rows_of_dropped_labels_are_no_cases(tmp_path: Path) -> None:
    both = found(folder_of(tmp_path, BREAST), "busi", drop=("normal",))
    assert {path: one.label for path, one in by_path(both, tmp_path).items()} == {
        "busi/2.png": "benign", "busi/3.png": None,
    }  # fmt: skip
    assert verdict_of(both, "busi/1.png") == ("not-listed", "")


def test_subgroups_are_the_columns_asked_for_with_ages_in_bands(tmp_path: Path) -> None:
    cases = by_path(found(folder_of(tmp_path, BREAST), "busi", subgroups=("age", "device", "sex")), tmp_path)
    assert {path: dict(one.subgroups)["age"] for path, one in cases.items()} == {
        "busi/1.png": "unknown", "busi/2.png": "80+", "busi/3.png": "0-17",
    }  # fmt: skip
    assert {one.subgroups[1:] for one in cases.values()} == {(("device", "unknown"), ("sex", "unknown"))}


def test_names_do_not_depend_on_which_other_rows_there_are(tmp_path: Path) -> None:
    whole = by_path(found(folder_of(tmp_path / "1", BREAST), "usys"), tmp_path / "1")["usys/1-r.png"]
    alone = by_path(found(folder_of(tmp_path / "2", [BREAST[1]]), "usys"), tmp_path / "2")["usys/1-r.png"]
    assert (alone.case_id, alone.patient, alone.label) == (whole.case_id, whole.patient, whole.label)


def test_an_image_that_a_table_names_and_that_is_not_there_costs_that_case_only(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, BREAST)
    (folder / "usys/1-l.png").unlink()
    both = found(folder, "usys")
    assert len(both.cases) == 1
    (gone,) = both.unusable
    assert (gone.case_id, gone.code) == (SALT.case("usys/1-l.png"), "image-missing")


def test_rows_about_files_that_lie_in_no_source_are_no_trouble(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, BREAST)
    table = Table(folder / "manifest.csv", {"file": ("image",)})
    part = discover(Wanted((folder / "usys",), (table,)), SALT)
    assert (len(part.cases), part.unusable) == (2, ())


def test_a_mask_outside_of_the_sources_is_found_from_its_table(tmp_path: Path) -> None:
    picture(tmp_path / "images/1.png")
    mask = picture(tmp_path / "masks/1.png")
    table = Table(write_csv(tmp_path / "t.csv", [{"file": "images/1.png", "mask": "masks/1.png"}]))
    (one,) = discover(Wanted((tmp_path / "images",), (table,)), SALT).cases
    assert isinstance(one.mask, SourceFile)
    assert (one.mask.path, one.mask.seen) == (str(mask.resolve()), SALT.case("file", "masks/1.png"))


def test_a_mask_that_a_link_takes_out_of_the_folder_refuses_the_table(tmp_path: Path) -> None:
    picture(tmp_path / "in/images/1.png")
    (tmp_path / "in/m.png").symlink_to(picture(tmp_path / "out.png"))
    table = Table(write_csv(tmp_path / "in/t.csv", [{"file": "images/1.png", "mask": "m.png"}]))
    with pytest.raises(SiteDataError) as caught:
        discover(Wanted((tmp_path / "in/images",), (table,)), SALT)
    assert caught.value.code == "path-outside"


def test_a_mask_that_is_no_image_is_the_trouble_of_its_case_alone(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, RETINA)
    (folder / "hrf/06_g.png").write_bytes(b"")
    both = found(folder, "hrf", patients=("group", "subject"))
    assert (len(both.cases), both.unusable) == (3, ())
    assert verdict_of(both, "hrf/06_g.png") == ("mask", "")


def test_an_image_that_is_none_is_quarantined(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, BREAST)
    (folder / "usys/1-l.png").write_bytes(b"text")
    both = found(folder, "usys")
    assert [one.code for one in both.unusable] == ["unreadable-image"]
    assert len(both.cases) == 1


@pytest.mark.parametrize("again", ["usys/1-l.png", "./usys/1-l.png", "usys//1-l.png"])
def test_an_image_in_two_rows_belongs_to_one_patient_or_to_none(tmp_path: Path, again: str) -> None:
    folder = folder_of(tmp_path, BREAST)
    write_csv(folder / "manifest.csv", [*BREAST, {**BREAST[0], "image": again, "patient": "p2"}])
    both = found(folder, "usys")
    assert [one.code for one in both.unusable] == ["patient-conflict"]
    assert verdict_of(both, "usys/1-l.png") == ("quarantined", "patient-conflict")
    write_csv(folder / "manifest.csv", [*BREAST, {**BREAST[0], "image": again}])
    assert len(found(folder, "usys").cases) == 2


def test_an_unknown_site_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SiteDataError) as caught:
        found(folder_of(tmp_path, BREAST), "bus")
    assert caught.value.code == "table-no-rows"


@pytest.mark.parametrize("column", ["site", "image", "patient"])
def test_a_missing_column_is_refused_by_name(tmp_path: Path, column: str) -> None:
    rows = [{name: value for name, value in row.items() if name != column} for row in BREAST]
    write_csv(tmp_path / "manifest.csv", rows)
    with pytest.raises(SiteDataError, match=repr(column)) as caught:
        found(tmp_path, "usys")
    assert caught.value.code == "table-column"


def test_a_table_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SiteDataError) as caught:
        found(tmp_path, "usys")
    assert caught.value.code == "table-missing"


def test_without_a_table_every_picture_and_volume_is_a_case_of_its_own_patient(tmp_path: Path) -> None:
    picture(tmp_path / "a/1.png")
    nibabel.save(nibabel.Nifti1Image(np.zeros((2, 3, 4), np.int16), np.eye(4)), tmp_path / "2.nii.gz")
    (tmp_path / "notes.txt").write_text("notes")
    both = discover(Wanted((tmp_path,), modality="mr"), SALT)
    assert {one.case_id for one in both.cases} == {SALT.case("file", "a/1.png"), SALT.case("file", "2.nii.gz")}
    assert len({one.patient for one in both.cases}) == 2
    assert {one.modality for one in both.cases} == {"mr"}
    assert both.files == tuple(
        sorted(
            [seen("a/1.png", "image"), seen("2.nii.gz", "image"), seen("notes.txt", "not-an-image")],
            key=lambda one: one.name,
        )
    )


def test_a_table_that_names_no_files_leaves_pictures_in_but_for_its_masks(tmp_path: Path) -> None:
    for name in ("1.png", "mask.png"):
        picture(tmp_path / name)
    rows: list[Mapping[str, str]] = [{"series_uid": "1.5", "mask": "mask.png"}]
    both = discover(Wanted((tmp_path,), (Table(write_csv(tmp_path / "t.csv", rows)),)), SALT)
    assert [one.case_id for one in both.cases] == [SALT.case("file", "1.png")]
    assert verdict_of(both, "mask.png") == ("not-listed", "")


def test_a_file_in_an_archive_is_named_as_if_the_archive_were_a_folder(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a/1.png", PNG)
        archive.writestr("a/m.png", PNG)
    table = write_csv(tmp_path / "t.csv", [{"file": "x.zip/a/1.png", "mask": "x.zip/a/m.png", "label": "b"}])
    (one,) = discover(Wanted((tmp_path,), (Table(table),)), SALT).cases
    assert (one.case_id, one.label) == (SALT.case("x.zip/a/1.png"), "b")
    assert one.mask is not None
    assert one.mask.read_bytes() == PNG


def test_two_tables_that_name_two_files_alike_lose_both_and_no_other(tmp_path: Path) -> None:
    tables = []
    for folder in ("one", "two"):
        picture(tmp_path / folder / "1.png")
        picture(tmp_path / folder / f"{folder}.png")
        rows = [{"file": "1.png"}, {"file": f"{folder}.png"}]
        tables.append(Table(write_csv(tmp_path / folder / "t.csv", rows)))
    both = discover(Wanted((tmp_path,), tuple(tables)), SALT)
    assert {one.case_id for one in both.cases} == {SALT.case("one.png"), SALT.case("two.png")}
    assert [(one.case_id, one.code) for one in both.unusable] == [(SALT.case("1.png"), "case-name")]
    assert verdict_of(both, "two/1.png") == ("quarantined", "case-name")


def test_another_secret_gives_other_names_throughout(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, BREAST)
    wanted = Wanted((folder,), (Table(folder / "manifest.csv", {"file": ("image",), "patient_id": ("patient",)}),))
    one, two = (discover(wanted, Salt("north", bytes([number]) * 16)) for number in (1, 2))
    for names in (
        lambda found: {case.case_id for case in found.cases},
        lambda found: {case.patient for case in found.cases},
    ):
        assert not names(one) & names(two)
