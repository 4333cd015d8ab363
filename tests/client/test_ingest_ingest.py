"""An archive follows the hospital's folders: new things are read, old ones left alone, nothing is lost on the way."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from picture_hospitals import read_rows, save_png, write_hospitals, write_rows

from client.data.archive.archive import Archive
from client.data.archive.record import Record
from client.data.case_files import Quarantined, Salt
from client.data.ingest.batches import Order
from client.data.ingest.crew import Lost
from client.data.ingest.ingest import Intake, _batches, _outcomes, ingest
from client.data.ingest.reading import Rules
from client.data.source.discover import discover
from client.data.source.found import Found, Table, Wanted
from shared.errors import SiteDataError
from simulations.phantoms import tiny_hospitals
from simulations.phantoms import write_hospitals as write_dicom

ROOT = Path(__file__).parents[2]
SALT = Salt("aachen", b"a secret of thirty-two bytes ...")
RULES = Rules()


@pytest.fixture
def hospital(tmp_path: Path) -> Path:
    """Twelve people with two PNG images each, their masks and a table."""
    return write_hospitals(tmp_path / "hospital", {"aachen": 12})


def found(folder: Path) -> Found:
    columns = {"file": ("image",), "patient_id": ("patient",)}
    tables = (Table(folder / "manifest.csv", columns),)
    return discover(Wanted((folder,), tables, subgroup_columns=("sex",)), SALT)


def take_in(folder: Path, archive: Path, *, workers: int = 1, rules: Rules = RULES) -> Intake:
    with Archive.open_or_create(archive) as opened:
        return ingest(opened, found(folder), rules, SALT, workers=workers)


def rows(archive: Path) -> list[Record]:
    """What is stored, but for where it lies."""
    with Archive.open(archive) as opened:
        for record in opened.records():
            opened.verify(record)
        return [replace(record, location=replace(record.location, segment=0, offset=0)) for record in opened.records()]


def snapshot(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.stat().st_mode, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


def edit(folder: Path, change: Callable[[list[dict[str, str]]], None]) -> None:
    table = read_rows(folder)
    change(table)
    write_rows(folder, table)


def test_everything_is_stored_once_and_the_source_stays_as_it_was(hospital: Path, tmp_path: Path) -> None:
    before = snapshot(hospital)
    intake = take_in(hospital, tmp_path / "archive")
    assert (intake.stored, intake.unchanged, dict(intake.quarantined)) == (24, 0, {})
    assert dict(intake.files) == {"image": 24, "mask": 24, "table": 1}
    assert snapshot(hospital) == before
    stored = rows(tmp_path / "archive")
    assert len(stored) == 24
    assert len({record.patient for record in stored}) == 12
    assert all(record.masked and record.kept == "uint8" and record.shape == (1, 16, 16) for record in stored)


def test_the_archive_holds_the_pixels_of_the_files(hospital: Path, tmp_path: Path) -> None:
    take_in(hospital, tmp_path / "archive")
    pictures = {path.read_bytes(): path for path in hospital.rglob("*.png")}
    import PIL.Image

    images = sorted(np.asarray(PIL.Image.open(path)).tobytes() for path in pictures.values() if "mask" not in path.name)
    with Archive.open(tmp_path / "archive") as archive:
        kept = sorted(archive.image(one).voxels.astype(np.uint8).tobytes() for one in archive.records())
    assert kept == images


def test_a_second_run_reads_nothing_and_changes_nothing(hospital: Path, tmp_path: Path) -> None:
    take_in(hospital, tmp_path / "archive")
    before = snapshot(tmp_path / "archive" / "segments")
    again = take_in(hospital, tmp_path / "archive")
    assert (again.stored, again.replaced, again.annotated, again.unchanged) == (0, 0, 0, 24)
    assert snapshot(tmp_path / "archive" / "segments") == before


def test_two_workers_store_what_one_stores(hospital: Path, tmp_path: Path) -> None:
    assert take_in(hospital, tmp_path / "one") == take_in(hospital, tmp_path / "two", workers=2)
    assert rows(tmp_path / "one") == rows(tmp_path / "two")


def test_a_corrected_label_is_taken_over_without_reading_the_image_again(hospital: Path, tmp_path: Path) -> None:
    take_in(hospital, tmp_path / "archive")

    def relabel(table: list[dict[str, str]]) -> None:
        table[0]["label"], table[1]["sex"] = "bright", "f"
        table[2]["patient"] = table[3]["patient"] = "somebody else"

    edit(hospital, relabel)
    again = take_in(hospital, tmp_path / "archive")
    assert (again.annotated, again.unchanged, again.replaced) == (4, 20, 0)
    fresh = take_in(hospital, tmp_path / "fresh")
    assert fresh.stored == 24
    assert rows(tmp_path / "archive") == rows(tmp_path / "fresh")


def test_a_changed_file_is_read_again_and_a_new_one_added(hospital: Path, tmp_path: Path) -> None:
    take_in(hospital, tmp_path / "archive")
    table = read_rows(hospital)
    save_png(hospital / table[0]["image"], np.full((16, 16), 9, np.uint8))
    save_png(hospital / "aachen" / "new.png", np.full((16, 16), 7, np.uint8))
    edit(hospital, lambda rows: rows.append({**rows[0], "image": "aachen/new.png", "mask": rows[0]["mask"]}))
    again = take_in(hospital, tmp_path / "archive")
    assert (again.stored, again.replaced, again.unchanged) == (1, 1, 23)
    with Archive.open(tmp_path / "archive") as archive:
        flat = sorted(image.max() for one in archive.records() if (image := archive.image(one).voxels).std() == 0)
    assert flat == [7, 9]


def test_stricter_rules_look_at_every_case_again(hospital: Path, tmp_path: Path) -> None:
    take_in(hospital, tmp_path / "archive", rules=Rules(refuse=frozenset()))
    again = take_in(hospital, tmp_path / "archive")
    assert (again.replaced, again.unchanged) == (24, 0)


def test_a_bad_file_costs_its_case_and_is_tried_again(hospital: Path, tmp_path: Path) -> None:
    table = read_rows(hospital)
    whole = (hospital / table[5]["image"]).read_bytes()
    (hospital / table[5]["image"]).write_bytes(whole[: len(whole) // 2])
    intake = take_in(hospital, tmp_path / "archive")
    assert intake.stored == 23
    assert sum(intake.quarantined.values()) == 1
    assert dict(intake.files) == {"image": 23, "mask": 24, "table": 1, "quarantined": 1}
    (hospital / table[5]["image"]).write_bytes(whole)
    again = take_in(hospital, tmp_path / "archive")
    assert (again.stored, dict(again.quarantined)) == (1, {})
    with Archive.open(tmp_path / "archive") as archive:
        assert archive.quarantined() == []
        assert {file.use for file in archive.files()} == {"image", "mask", "table"}


def test_a_stored_case_outlives_its_file(hospital: Path, tmp_path: Path) -> None:
    take_in(hospital, tmp_path / "archive")
    before = rows(tmp_path / "archive")
    table = read_rows(hospital)
    (hospital / table[5]["image"]).unlink()
    (hospital / table[6]["image"]).write_bytes(b"\x89PNG\r\n\x1a\n cut")
    again = take_in(hospital, tmp_path / "archive")
    assert (again.kept, again.unchanged, dict(again.quarantined)) == (2, 22, {})
    assert rows(tmp_path / "archive") == before


def test_a_stored_case_that_tables_contradict_is_withdrawn(hospital: Path, tmp_path: Path) -> None:
    take_in(hospital, tmp_path / "archive")
    edit(
        hospital, lambda table: table.append({**table[0], "label": "bright" if table[0]["label"] == "dark" else "dark"})
    )
    again = take_in(hospital, tmp_path / "archive")
    assert (again.withdrawn, again.unchanged, dict(again.quarantined)) == (1, 23, {"labels-conflict": 1})
    assert len(rows(tmp_path / "archive")) == 23
    edit(hospital, lambda table: table.pop() and None)
    back = take_in(hospital, tmp_path / "archive")
    assert (back.stored, back.unchanged, dict(back.quarantined)) == (1, 23, {})


def test_a_second_folder_with_pictures_of_the_same_names_replaces_nothing(hospital: Path, tmp_path: Path) -> None:
    take_in(hospital, tmp_path / "archive")
    before = rows(tmp_path / "archive")
    other = write_hospitals(tmp_path / "other", {"aachen": 12})
    save_png(other / read_rows(other)[0]["image"], np.full((16, 16), 200, np.uint8))
    intake = take_in(other, tmp_path / "archive")
    assert (intake.stored, intake.replaced) == (0, 23), "the same pictures may have moved"
    assert (dict(intake.quarantined), intake.files["quarantined"]) == ({"name-taken": 1}, 1)
    assert [one.sha256 for one in rows(tmp_path / "archive")] == [one.sha256 for one in before]


def test_a_bad_file_that_was_taken_away_is_forgotten_and_one_in_another_folder_is_not(
    hospital: Path, tmp_path: Path
) -> None:
    (hospital / "bad.dcm").write_bytes(b"no image")
    (hospital / "bad.zip").write_bytes(b"no archive")
    take_in(hospital, tmp_path / "archive")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "worse.dcm").write_bytes(b"no image either")
    with Archive.open_or_create(tmp_path / "archive") as archive:
        ingest(archive, discover(Wanted((elsewhere,)), SALT), RULES, SALT)
        assert sorted(one.code for one in archive.quarantined()) == ["archive-broken", *["unreadable-dicom"] * 2]
    (hospital / "bad.dcm").unlink()
    (hospital / "bad.zip").unlink()
    take_in(hospital, tmp_path / "archive")
    with Archive.open(tmp_path / "archive") as archive:
        assert [one.code for one in archive.quarantined()] == ["unreadable-dicom"]
        assert sum(1 for file in archive.files() if file.use == "quarantined") == 1


def test_a_source_that_is_removed_meanwhile_costs_what_was_not_read_yet(hospital: Path, tmp_path: Path) -> None:
    listed = found(hospital)
    moved = hospital.rename(tmp_path / "moved")
    with Archive.open_or_create(tmp_path / "archive") as archive:
        intake = ingest(archive, listed, RULES, SALT)
    assert (intake.stored, dict(intake.quarantined)) == (0, {"image-missing": 24})
    moved.rename(hospital)
    assert take_in(hospital, tmp_path / "archive").stored == 24
    take_in(hospital, tmp_path / "fresh")
    assert rows(tmp_path / "archive") == rows(tmp_path / "fresh")


def test_dicom_series_become_cases_and_every_file_is_accounted_for(tmp_path: Path) -> None:
    (hospital, *_) = tiny_hospitals(1, 3).hospitals
    write_dicom(tmp_path, tiny_hospitals(1, 3), 3)
    folder = tmp_path / hospital.name
    wanted = Wanted((folder,), (Table(folder / "labels.csv"),), dimensions=2, subgroup_columns=("sex", "age"))
    listed = discover(wanted, SALT)
    with Archive.open_or_create(tmp_path / "archive") as archive:
        intake = ingest(archive, listed, RULES, SALT)
        files = list(archive.files())
        stored = list(archive.records())
    on_disk = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) == len(on_disk) == sum(intake.files.values())
    assert intake.stored == len(stored) > 0
    assert intake.stored + sum(intake.quarantined.values()) >= intake.files["image"]
    assert {value for record in stored for name, value in record.subgroups if name == "sex"} <= {"f", "m", "F", "M"}


def test_no_name_of_a_file_or_person_is_in_the_archive(hospital: Path, tmp_path: Path) -> None:
    def rename(table: list[dict[str, str]]) -> None:
        for row in table:
            row["patient"] = f"SURNAME-{row['patient']}"

    edit(hospital, rename)
    take_in(hospital, tmp_path / "archive")
    held = b"".join(path.read_bytes() for path in (tmp_path / "archive").rglob("*") if path.is_file())
    assert b"SURNAME" not in held
    assert not any(
        row["image"].encode() in held or Path(row["image"]).name.encode() in held for row in read_rows(hospital)
    )
    assert b"uint8" in held, "the search looks at what is stored"


CHILD = """
import resource, sys
from pathlib import Path
sys.path[:0] = {path!r}
from test_ingest_ingest import take_in
from shared.errors import ConsiliumError
if __name__ == "__main__":
    if {limit}:
        resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
    try:
        take_in(Path({hospital!r}), Path({archive!r}), workers={workers})
    except ConsiliumError as error:
        sys.exit(error.code)
"""


def child(hospital: Path, archive: Path, folder: Path, *, workers: int, limit: int = 0) -> "subprocess.Popen[bytes]":
    path = [str(ROOT), str(ROOT / "tests" / "support"), str(Path(__file__).parent)]
    script = folder / "child.py"
    script.write_text(
        CHILD.format(path=path, limit=limit, hospital=str(hospital), archive=str(archive), workers=workers)
    )
    return subprocess.Popen([sys.executable, str(script)], stderr=subprocess.PIPE, start_new_session=True)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hospitals(tmp_path_factory.mktemp("many") / "hospital", {"aachen": 300})


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("part", [0.1, 0.6])
def test_killed_in_the_middle_it_has_lost_nothing_and_goes_on(
    many: Path, tmp_path: Path, workers: int, part: float
) -> None:
    archive = tmp_path / "archive"
    process = child(many, archive, tmp_path, workers=workers)
    deadline = time.monotonic() + 120
    while stored(archive) < part * 600 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    left = rows(archive)
    assert len(left) >= part * 600
    again = take_in(many, archive, workers=2)
    assert again.unchanged >= len(left)
    assert again.stored == 600 - again.unchanged
    fresh = tmp_path / "fresh"
    take_in(many, fresh)
    assert rows(archive) == rows(fresh)


def stored(archive: Path) -> int:
    """How many cases there are; 0 while there is no archive yet."""
    if not (archive / "catalogue.sqlite").exists():
        return 0
    try:
        with Archive.open(archive) as opened:
            return len(opened)
    except SiteDataError:
        return 0


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_is_one_sentence_and_the_next_run_completes(many: Path, tmp_path: Path, workers: int) -> None:
    """A limit on the length of a file stands for the disk: 24 images with masks and padding take 512 bytes each."""
    archive = tmp_path / "archive"
    process = child(many, archive, tmp_path, workers=workers, limit=100_000)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1
    assert b"disk-full" in said or b"archive-unwritable" in said
    assert b"Traceback" not in said
    rows(archive)
    assert take_in(many, archive).stored > 0
    take_in(many, tmp_path / "fresh")
    assert rows(archive) == rows(tmp_path / "fresh")


def test_a_case_that_ended_its_reader_is_quarantined_under_a_reason(hospital: Path) -> None:
    (case, *_) = found(hospital).cases
    (outcome,) = _outcomes((Order(case, "origin"),), Lost("ended its process (status -11)"))
    assert outcome == Quarantined(case.case_id, "reader-crashed", "reading this case ended its process (status -11)")


def test_batches_hold_every_case_once_and_a_few_files(hospital: Path) -> None:
    cases = found(hospital).cases
    orders = [Order(case, "origin") for case in cases] * 10
    batches = _batches(orders)
    assert [order for batch in batches for order in batch] == orders
    assert max(len(batch) for batch in batches) == 64
    volume = Order(replace(cases[0], images=cases[0].images * 300), "origin")
    assert _batches([orders[0], volume, orders[1]]) == [(orders[0],), (volume,), (orders[1],)]
    assert _batches([]) == []


def test_progress_ends_at_all_cases(hospital: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    with Archive.open_or_create(tmp_path / "archive") as archive:
        ingest(archive, found(hospital), RULES, SALT, progress=lambda done, total: told.append((done, total)))
    assert told[0] == (0, 24)
    assert told[-1] == (24, 24)
    assert told == sorted(told)


def test_an_archive_sealed_with_a_key_holds_the_same_images(hospital: Path, tmp_path: Path) -> None:
    key = bytes(range(32))
    with Archive.open_or_create(tmp_path / "sealed", key) as sealed:
        ingest(sealed, found(hospital), RULES, SALT, workers=2)
        records = list(sealed.records())
        voxels = [sealed.image(record).voxels for record in records]
    take_in(hospital, tmp_path / "plain")
    with Archive.open(tmp_path / "plain") as plain:
        assert [asdict(r) | {"location": 0} for r in records] == [asdict(r) | {"location": 0} for r in plain.records()]
        for record, image in zip(plain.records(), voxels, strict=True):
            np.testing.assert_array_equal(plain.image(record).voxels, image)
