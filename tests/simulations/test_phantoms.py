"""Hospitals on disk: the same bytes for the same seed, readable as a hospital's, broken where they should be."""

import csv
import hashlib
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from client.data.case_files import Salt
from client.data.ingest.read_case import read_case
from client.data.ingest.reading import Rules
from client.data.source.discover import discover
from client.data.source.found import Table, Wanted
from shared.errors import CaseError, ScenarioError
from shared.preprocessing.image import Image, MaskArray
from simulations.phantoms import Hospital, PhantomFederation, PhantomReport, hospitals, tiny_hospitals, write_hospitals
from simulations.phantoms.cohort import Scan, members, scans

SEED = 3
COLUMNS = ["patient_id", "series_uid", "mask", "label", "sex", "age"]


def smaller(hospital: Hospital) -> Hospital:
    """The same character with half the pixels and three people."""
    rows, columns = hospital.scanner.shape
    scanner = replace(
        hospital.scanner,
        shape=(rows // 2, columns // 2),
        spacing_mm=2 * hospital.scanner.spacing_mm,
        slices=6,
        slice_mm=20.0,
    )
    return replace(hospital, patients=3, scanner=scanner)


FOUR = PhantomFederation(tuple(smaller(one) for one in hospitals(4, SEED).hospitals))
DEEP = PhantomFederation(tuple(smaller(one) for one in hospitals(4, SEED, dimensions=3).hospitals))


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PhantomReport]:
    out = tmp_path_factory.mktemp("four")
    return out, write_hospitals(out, FOUR, SEED)


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("deep")
    write_hospitals(out, DEEP, SEED)
    return out


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def readable(folder: Path) -> dict[str, list[Dataset]]:
    """Datasets by series, of all files that are DICOM."""
    found: dict[str, list[Dataset]] = {}
    for path in sorted((folder / "dicom").iterdir()):
        try:
            dataset = dcmread(path, stop_before_pixels=True)
        except (InvalidDicomError, EOFError):
            continue
        found.setdefault(dataset.SeriesInstanceUID, []).append(dataset)
    return found


def everything(hospital: Hospital) -> list[Scan]:
    return [scan for member in members(hospital, SEED) for scan in scans(hospital, member, SEED)]


def test_the_same_seed_gives_the_same_bytes_in_every_file(four: tuple[Path, PhantomReport], tmp_path: Path) -> None:
    out, report = four
    again = write_hospitals(tmp_path, FOUR, SEED)
    assert digests(tmp_path) == digests(out)
    assert again == report


def test_another_seed_gives_other_bytes_in_every_file_of_images_and_masks(
    four: tuple[Path, PhantomReport], tmp_path: Path
) -> None:
    write_hospitals(tmp_path, PhantomFederation(FOUR.hospitals[:1]), SEED + 1)
    one, other = digests(four[0] / "north"), digests(tmp_path / "north")
    assert not set(one.values()) & set(other.values())


def test_a_hospital_alone_is_the_hospital_among_others(four: tuple[Path, PhantomReport], tmp_path: Path) -> None:
    write_hospitals(tmp_path, PhantomFederation(FOUR.hospitals[2:3]), SEED)
    assert digests(tmp_path / "south") == digests(four[0] / "south")
    assert digests(tmp_path / "truth")["south.csv"] == digests(four[0] / "truth")["south.csv"]


@pytest.mark.parametrize("place", range(4))
def test_the_report_counts_what_is_there(four: tuple[Path, PhantomReport], place: int) -> None:
    out, report = four
    said, hospital = report.hospitals[place], FOUR.hospitals[place]
    rows = table(out / hospital.name / "labels.csv")
    assert said.name == hospital.name
    assert said.images == len(rows)
    assert said.faults == len(hospital.faults)
    assert said.patients == len({row["patient_id"] for row in rows}) == 3
    assert said.malignant == len({row["patient_id"] for row in rows if row["label"] == "malignant"})
    assert said.files == sum(path.is_file() for path in (out / hospital.name).rglob("*")) - 1
    assert report.seed == SEED


def test_the_folder_holds_what_a_hospital_has_and_the_truth_stands_outside(four: tuple[Path, PhantomReport]) -> None:
    out, _ = four
    assert sorted(path.name for path in out.iterdir()) == ["east", "north", "south", "truth", "west"]
    for hospital in FOUR.hospitals:
        assert sorted(path.name for path in (out / hospital.name).iterdir()) == ["dicom", "labels.csv", "masks"]
    assert sorted(path.name for path in (out / "truth").iterdir()) == ["east.csv", "north.csv", "south.csv", "west.csv"]


def test_names_of_files_say_nothing(four: tuple[Path, PhantomReport]) -> None:
    for path in four[0].rglob("*"):
        if path.parent.name in {"dicom", "masks"}:
            assert re.fullmatch(r"\d{6}\.(dcm|nii\.gz)", path.name)


def test_the_order_of_names_is_not_the_order_of_slices(deep: Path) -> None:
    for series in readable(deep / "north").values():
        levels = [float(dataset.ImagePositionPatient[2]) for dataset in series]
        assert levels != sorted(levels)


@pytest.mark.parametrize("name", ["north", "east", "south", "west"])
def test_labels_name_every_readable_series_once_with_its_patient(four: tuple[Path, PhantomReport], name: str) -> None:
    folder = four[0] / name
    rows = table(folder / "labels.csv")
    assert list(rows[0]) == COLUMNS
    by_series = {row["series_uid"]: row for row in rows}
    assert len(by_series) == len(rows)
    for uid, series in readable(folder).items():
        row = by_series[uid]
        assert {dataset.PatientID for dataset in series} == {row["patient_id"]}
        assert {dataset.PatientSex for dataset in series} == {row["sex"]}
        assert {int(dataset.PatientAge[:-1]) for dataset in series} == {int(row["age"])}
    assert all((folder / row["mask"]).is_file() for row in rows)
    assert len({row["mask"] for row in rows}) == len(rows)


def test_labels_belong_to_patients(four: tuple[Path, PhantomReport]) -> None:
    for hospital in FOUR.hospitals:
        rows = table(four[0] / hospital.name / "labels.csv")
        assert {row["label"] for row in rows} <= {"benign", "malignant"}
        pairs = {(row["patient_id"], row["label"]) for row in rows}
        assert len(pairs) == len({patient for patient, _ in pairs})


@pytest.mark.parametrize("name", ["north", "east", "south", "west"])
def test_the_truth_has_the_rows_of_the_labels(four: tuple[Path, PhantomReport], name: str) -> None:
    labels = table(four[0] / name / "labels.csv")
    truth = table(four[0] / "truth" / f"{name}.csv")
    assert [row["series_uid"] for row in truth] == [row["series_uid"] for row in labels]
    assert [row["label"] for row in truth] == [row["label"] for row in labels]
    faults = Counter(row["fault"] for row in truth if row["fault"])
    assert faults == Counter(next(one.faults for one in FOUR.hospitals if one.name == name))


def test_the_truth_counts_voxels_and_averages_hounsfield_units(four: tuple[Path, PhantomReport]) -> None:
    hospital = FOUR.hospitals[0]
    for row, scan in zip(table(four[0] / "truth" / "north.csv"), everything(hospital), strict=True):
        lesion = scan.truth.mask == 2
        assert int(row["organ_voxels"]) == np.count_nonzero(scan.truth.mask == 1)
        assert int(row["lesion_voxels"]) == np.count_nonzero(lesion)
        assert [int(part) for part in row["shape"].split()] == list(scan.truth.mask.shape)
        assert [float(part) for part in row["origin_mm"].split()] == pytest.approx(scan.grid.origin_mm)
        if lesion.any():
            assert float(row["lesion_hu"]) == pytest.approx(scan.truth.hu[lesion].mean(), abs=1e-3)
        else:
            assert row["lesion_hu"] == ""
        assert len(row["radii_mm"].split()) == int(row["lesions"]) == len([*filter(None, row["centres_mm"].split(";"))])


def test_lesions_are_dark_in_some_hospitals_and_bright_in_others(four: tuple[Path, PhantomReport]) -> None:
    signs = {}
    for hospital in FOUR.hospitals:
        rows = [row for row in table(four[0] / "truth" / f"{hospital.name}.csv") if row["lesion_hu"]]
        differences = {np.sign(float(row["lesion_hu"]) - float(row["organ_hu"])) for row in rows}
        assert len(differences) == 1
        signs[hospital.name] = differences.pop()
    assert signs == {"north": -1, "east": -1, "south": 1, "west": 1}


def damaged(out: Path, name: str, fault: str) -> tuple[str, list[Path]]:
    """Series that the fault has befallen, and the files of the hospital that pydicom cannot decode."""
    (series,) = [row["series_uid"] for row in table(out / "truth" / f"{name}.csv") if row["fault"] == fault]
    broken = []
    for path in sorted((out / name / "dicom").iterdir()):
        try:
            dcmread(path).pixel_array  # noqa: B018 - decoding is the test
        except Exception:  # noqa: BLE001 - whatever breaks
            broken.append(path)
    return series, broken


@pytest.mark.filterwarnings("ignore:End of file reached:UserWarning")
@pytest.mark.parametrize("name", ["north", "west"])
def test_a_truncated_file_has_its_header_and_lacks_pixels(four: tuple[Path, PhantomReport], name: str) -> None:
    series, broken = damaged(four[0], name, "truncated")
    assert len(broken) == 1
    assert dcmread(broken[0], stop_before_pixels=True).SeriesInstanceUID == series


def test_an_empty_file_is_empty(four: tuple[Path, PhantomReport]) -> None:
    series, broken = damaged(four[0], "east", "empty")
    assert [path.stat().st_size for path in broken] == [0]
    assert series not in readable(four[0] / "east")


def test_a_text_file_under_an_images_name_is_text(four: tuple[Path, PhantomReport]) -> None:
    series, broken = damaged(four[0], "south", "text")
    assert [path.read_text(encoding="ascii").endswith(".\n") for path in broken] == [True]
    assert series not in readable(four[0] / "south")


def canonical(hospital: Hospital, out: Path) -> tuple[list[tuple[Image, MaskArray]], Counter[str]]:
    """What a site's own reader makes of the hospital, and how often it refuses under which code."""
    folder, salt = out / hospital.name, Salt(hospital.name, bytes(16))
    wanted = Wanted((folder / "dicom", folder / "masks"), (Table(folder / "labels.csv"),), hospital.dimensions)
    seen = discover(wanted, salt)
    found, refused = [], Counter(one.code for one in seen.unusable)
    for case in seen.cases:
        assert case.mask is not None
        try:
            reading = read_case(case, Rules(), salt)
        except CaseError as error:
            refused[error.code] += 1
            continue
        assert reading.mask is not None
        found.append((reading.image, reading.mask))
    return found, refused


def assert_true(hospital: Hospital, found: list[tuple[Image, MaskArray]]) -> None:
    """Every image that was read is one of the scans, in Hounsfield units, under that scan's mask."""
    healthy = [scan for scan in everything(hospital) if scan.fault is None]
    assert len(found) == len(healthy)
    for image, mask in found:
        nearest = min(healthy, key=lambda scan: float(np.abs(scan.truth.hu.squeeze() - image.voxels[0]).mean()))
        assert np.array_equal(mask, nearest.truth.mask.squeeze())
        liver = nearest.truth.mask.squeeze() == 1
        gain = hospital.scanner.gain
        # Blur changes borders, which the median does not feel; cupping lowers the middle by what was declared.
        allowed = 8 + hospital.scanner.cupping_hu
        assert np.median(image.voxels[0][liver]) == pytest.approx(
            np.median(nearest.truth.hu.squeeze()[liver]) * gain, abs=allowed
        )


@pytest.mark.filterwarnings("ignore:End of file reached:UserWarning")
@pytest.mark.parametrize("place", range(4))
def test_a_site_reads_every_healthy_image_and_refuses_every_faulty_one(
    four: tuple[Path, PhantomReport], place: int
) -> None:
    hospital = FOUR.hospitals[place]
    found, refused = canonical(hospital, four[0])
    assert_true(hospital, found)
    assert refused.total() == len(hospital.faults)


@pytest.mark.filterwarnings("ignore:End of file reached:UserWarning")
@pytest.mark.parametrize("place", range(4))
def test_a_site_reads_every_healthy_volume_and_no_faulty_one(deep: Path, place: int) -> None:
    hospital = DEEP.hospitals[place]
    found, refused = canonical(hospital, deep)
    assert_true(hospital, found)
    assert refused.total() >= len(hospital.faults)


def test_a_mask_of_another_shape_is_drawn_on_every_other_pixel(tmp_path: Path) -> None:
    hospital = replace(FOUR.hospitals[0], patients=1, images=(1, 1), faults=("mask-shape",))
    write_hospitals(tmp_path, PhantomFederation((hospital,)), SEED)
    healthy, faulty = table(tmp_path / "north" / "labels.csv")
    right, coarse = (dcmread(tmp_path / "north" / row["mask"]) for row in (healthy, faulty))
    image = readable(tmp_path / "north")[faulty["series_uid"]][0]
    assert (right.Rows, right.Columns) == (image.Rows, image.Columns) == (64, 64)
    assert (coarse.Rows, coarse.Columns) == (32, 32)
    spacing = coarse.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing
    assert [float(part) for part in spacing] == [2 * float(part) for part in image.PixelSpacing]
    assert coarse.ReferencedSeriesSequence[0].SeriesInstanceUID == faulty["series_uid"]


def test_tiny_hospitals_are_written_and_read(tmp_path: Path) -> None:
    federation = PhantomFederation(tiny_hospitals(100, SEED).hospitals[-2:])
    report = write_hospitals(tmp_path, federation, SEED)
    assert [one.name for one in report.hospitals] == ["clinic-099", "clinic-100"]
    assert [one.images for one in report.hospitals] == [12, 12]
    for hospital in federation.hospitals:
        found, refused = canonical(hospital, tmp_path)
        assert_true(hospital, found)
        assert not refused


def test_nothing_is_overwritten_and_nothing_is_begun(tmp_path: Path) -> None:
    (tmp_path / "west").mkdir()
    with pytest.raises(ScenarioError, match="1 of 4 hospitals exist already") as caught:
        write_hospitals(tmp_path, FOUR, SEED)
    assert caught.value.hint
    assert [path.name for path in tmp_path.iterdir()] == ["west"]
