"""A whole diagnosis, from archives as ingest writes them."""

import io
import re
import tracemalloc
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from doctored import PATIENTS, Row, clean, lesion, name_of, names, stored

from client.data.archive.archive import Archive
from client.data.archive.catalogue import Change
from client.data.case_files import Quarantined, Salt
from client.data.doctor import measure
from client.data.doctor.cases import Cases
from client.data.doctor.diagnose import diagnose
from client.data.doctor.findings import Diagnosis, Finding
from client.data.doctor.measuring import Unmeasured, measure_missing, measured
from client.data.ingest.ingest import ingest
from client.data.ingest.reading import Rules
from client.data.source.discover import discover
from client.data.source.found import FileSeen, Table, Wanted
from shared.messages import Split
from shared.preprocessing.image import FloatArray
from simulations.phantoms import write_hospitals
from simulations.phantoms.hospitals import hospitals, tiny_hospitals


def silent(_done: int, _total: int) -> None:
    """Progress that nobody watches."""


def half(patient: str) -> Split:
    """A split by the first digit of a name."""
    return "train" if patient < "8" else "test"


def looked_at(archive: Archive, workers: int = 1, quota: float = 0.2) -> Diagnosis:
    with archive:
        return diagnose(archive, "livers", half, workers=workers, progress=silent, quota=quota)


def by_code(diagnosis: Diagnosis) -> dict[str, Finding]:
    assert len({one.code for one in diagnosis.findings}) == len(diagnosis.findings)
    return {one.code: one for one in diagnosis.findings}


def as_jpeg(voxels: FloatArray) -> FloatArray:
    """A JPEG of soft tissue, put back on the scale of Hounsfield units: lossy, and no digest survives it."""
    file = io.BytesIO()
    grey = (voxels[0].clip(-1050, 950) + 1050) / 2000 * 255
    PIL.Image.fromarray(np.rint(grey).astype(np.uint8)).save(file, "JPEG", quality=70)
    return np.asarray(PIL.Image.open(file), np.float32)[None] / 255 * 2000 - 1050


def faulty() -> tuple[list[Row], dict[str, Sequence[Row]]]:
    """Rows with many faults, and whom each fault befell; numbers of the same patient are 2 n and 2 n + 1."""
    rows = clean(20)
    rows[1] = rows[1].but(voxels=rows[0].voxels)
    rows[4] = rows[4].but(voxels=rows[8].voxels)
    rows[6] = rows[6].but(voxels=as_jpeg(rows[14].voxels), label="benign")
    rows[16] = rows[16].but(spacing_mm=(8.0, 8.0))
    rows[18] = rows[18].but(voxels=-rows[18].voxels)
    rows[20] = rows[20].but(mask=np.zeros_like(lesion(20)))
    rows[22] = rows[22].but(mask=None)
    rows[24] = rows[24].but(label=None)
    rows[26] = rows[26].but(voxels=np.zeros_like(rows[26].voxels))
    rows[28] = rows[28].but(suspicions=("text",))
    rows[30] = rows[30].but(aliases=(name_of("alias 19"),))
    first = max(rows[:2], key=lambda row: row.case_id)
    return rows, {
        "duplicate-within-patient": [first],
        "duplicate-across-patients": [rows[4], rows[8]],
        "near-duplicate-across-patients": [rows[6], rows[14]],
        "duplicate-labels-differ": [rows[6], rows[14]],
        "spacing-outlier": [rows[16]],
        "image-inverted": [rows[18]],
        "mask-empty": [rows[20]],
        "mask-missing": [rows[22]],
        "label-missing": [rows[24]],
        "image-constant": [rows[26]],
        "burned-in-suspected": [rows[28]],
        "patient-two-names": [rows[30], rows[31], rows[38], rows[39]],
    }


def test_a_clean_data_set_has_no_finding(tmp_path: Path) -> None:
    found = looked_at(stored(tmp_path, clean()))
    assert found.findings == ()
    assert (found.dataset, found.patients, found.cases) == ("livers", PATIENTS, 2 * PATIENTS)
    assert found.tables["label"] == {"benign": 6, "malignant": 6}


def test_every_planted_fault_is_found_and_nothing_else_is_an_error(tmp_path: Path) -> None:
    rows, planted = faulty()
    found = by_code(looked_at(stored(tmp_path, rows)))
    assert {code: found[code].cases for code in planted} == {code: names(rows) for code, rows in planted.items()}
    beyond = {code for code in found if code not in planted}
    assert beyond <= {"duplicate-across-splits", "near-duplicate-across-splits", "label-few-patients"}


def test_copies_across_splits_are_errors_exactly_where_the_splits_differ(tmp_path: Path) -> None:
    rows, planted = faulty()
    found = by_code(looked_at(stored(tmp_path, rows)))
    for kind in ("duplicate", "near-duplicate"):
        one, other = planted[f"{kind}-across-patients"]
        divided = half(name_of(f"patient {one.number // 2}")) != half(name_of(f"patient {other.number // 2}"))
        assert (f"{kind}-across-splits" in found) == divided
    with Archive.open(tmp_path) as archive:
        undivided = by_code(diagnose(archive, "livers", None, workers=1, progress=silent))
    assert not any(code.endswith("splits") for code in undivided)


def test_errors_come_first_then_warnings_then_notes(tmp_path: Path) -> None:
    findings = looked_at(stored(tmp_path, faulty()[0])).findings
    order = [("error", "warning", "note").index(one.severity) for one in findings]
    assert order == sorted(order)
    assert len(set(order)) > 1


def test_a_second_look_measures_nothing_and_says_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, _ = faulty()
    first = looked_at(stored(tmp_path, rows))
    told: list[tuple[int, int]] = []
    monkeypatch.setattr("client.data.doctor.measuring.measure", None)
    with Archive.open(tmp_path) as archive:
        second = diagnose(archive, "livers", half, workers=1, progress=lambda *done: told.append(done))
    assert second == first
    assert told == [(40, 40)]


@pytest.mark.parametrize("key", [None, bytes(range(32))], ids=["plain", "sealed"])
def test_workers_change_nothing(tmp_path: Path, key: bytes | None) -> None:
    rows, _ = faulty()
    alone = looked_at(stored(tmp_path / "one", rows, key=key))
    assert looked_at(stored(tmp_path / "two", rows, key=key), workers=2) == alone


def test_what_is_new_or_has_changed_is_measured_and_nothing_else(tmp_path: Path) -> None:
    rows = clean()
    with stored(tmp_path, rows) as archive:
        measure_missing(archive, 1, silent)
    changed = [rows[3].but(voxels=rows[3].voxels + 5), *(row.but(number=row.number + 50) for row in rows[:2])]
    told: list[tuple[int, int]] = []
    with stored(tmp_path, changed) as archive:
        measure_missing(archive, 1, lambda *done: told.append(done))
        lows = {record.case_id: found.low for record, found in measured(archive)}
    assert told == [(23, 26), (26, 26)]
    assert len(lows) == 26
    assert lows[rows[3].case_id] == rows[3].voxels.min() + 5


def test_what_another_version_measured_is_measured_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with stored(tmp_path, clean()) as archive:
        measure_missing(archive, 1, silent)
        monkeypatch.setattr(measure, "VERSION", measure.VERSION + 1)
        assert list(measured(archive)) == []
        measure_missing(archive, 1, silent)
        assert len(list(measured(archive))) == 2 * PATIENTS


def test_what_was_measured_before_an_interruption_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.data.doctor.measuring._AT_ONCE", 5)

    def interrupted(done: int, _total: int) -> None:
        if done == 10:
            raise KeyboardInterrupt

    with stored(tmp_path, clean()) as archive:
        with pytest.raises(KeyboardInterrupt):
            measure_missing(archive, 1, interrupted)
        assert len(list(measured(archive))) == 10


def test_a_damaged_case_is_an_error_and_the_others_are_looked_at(tmp_path: Path) -> None:
    rows = clean()
    stored(tmp_path, rows).close()
    segment = max((tmp_path / "segments").iterdir(), key=lambda path: path.stat().st_size)
    with Archive.open(tmp_path) as archive:
        record = archive.record(rows[3].case_id)
        assert record is not None
    with segment.open("r+b") as file:
        file.seek(record.location.offset)
        byte = file.read(1)[0]
        file.seek(record.location.offset)
        file.write(bytes([byte ^ 1]))
    found = looked_at(Archive.open(tmp_path))
    assert by_code(found)["archive-damaged"].cases == (record.case_id,)
    assert found.cases == 24
    assert sum(found.tables["label"].values()) == PATIENTS


def test_nothing_is_said_to_be_unmeasured_where_all_is_well(tmp_path: Path) -> None:
    with stored(tmp_path, clean(2)) as archive:
        assert measure_missing(archive, 1, silent) == Unmeasured((), ())


def test_an_empty_archive_is_not_fit_for_use_and_no_trouble(tmp_path: Path) -> None:
    found = looked_at(stored(tmp_path, []))
    assert set(by_code(found)) == {"quarantine-quota"}
    assert (found.cases, found.patients, found.histograms) == (0, 0, {})


def test_quarantined_cases_and_files_are_counted_by_reason(tmp_path: Path) -> None:
    aside = [Quarantined(f"{place:024x}", code, "why") for place, code in enumerate(("slice-gap", "slice-gap", "x"))]
    stored(tmp_path, clean(), aside).close()
    with Archive.open_or_create(tmp_path) as archive:
        archive.commit(Change(files=[FileSeen("a", "image"), FileSeen("b", "image"), FileSeen("c", "not-an-image")]))
    found = looked_at(Archive.open(tmp_path), quota=0.1)
    assert found.quarantined == {"slice-gap": 2, "x": 1}
    assert found.files == {"image": 2, "not-an-image": 1}
    assert set(by_code(found)) == {"quarantine-quota", "quarantined-series", "quarantined-unreadable"}


def test_histograms_count_every_case_once(tmp_path: Path) -> None:
    found = looked_at(stored(tmp_path, clean()))
    assert {title: sum(one.counts) for title, one in found.histograms.items()} == {
        "Longer side of a plane": 24,
        "Pixel spacing": 24,
        "Images of a patient": PATIENTS,
        "Share of an image that its mask covers": 24,
        "Islands of a mask": 24,
    }


def test_no_finding_repeats_a_value_from_a_header_or_a_table(tmp_path: Path) -> None:
    """Every word of every record is unlike any other; none may come out again. The control: some do in the tables."""
    rows, _ = faulty()
    secret = re.compile(r"zq\w+")
    rows = [
        row.but(
            label=row.said.get("label", ("zqbenign", "zqmalignant")[row.number % 2]),
            subgroups=(("ward", f"zqward{row.number % 3}"), ("bed", f"zqbed{row.number}"), ("day", "zq^12.03.1957")),
            acquisition=(("vendor", "zqvendor"),),
            dropped=("zqkind",),
            study="zqstudy",
        )
        for row in rows
    ]
    found = looked_at(stored(tmp_path, rows))
    codes = set(by_code(found))
    assert {"subgroup-identifies", "subgroup-looks-like-identifier", "identifying-content-dropped"} <= codes
    assert not any(secret.search(one.sentence + one.hint + one.code) for one in found.findings)
    assert set(found.tables) == {"label", "modality", "vendor", "ward"}
    assert secret.search(str(asdict(found)["tables"]))


def test_a_case_costs_less_than_two_kilobytes_of_memory() -> None:
    (record, measurement), count = clean()[0].measured(), 4000
    pairs = (
        (
            replace(record, case_id=f"{place:024x}", patient=f"{place // 3:024x}", source_sha256=f"{place:064x}"),
            replace(measurement, digest=f"{place:064x}"),
        )
        for place in range(count)
    )
    tracemalloc.start()
    cases = Cases.of(pairs)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(cases) == count
    assert peak / count < 2000


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["slices", "small", "volumes"])
def test_synthetic_hospitals_raise_no_false_alarm(tmp_path: Path, kind: str) -> None:
    """People of one anatomy, from four scanners. What is wrong with them on purpose ends in quarantine; some lesions
    are cut so that a speck of a few voxels shows, as lesions are."""
    federation = {
        "slices": hospitals(4, 3, patients=24),
        "small": tiny_hospitals(4, 3, patients=20),
        "volumes": hospitals(2, 3, patients=6, dimensions=3),
    }[kind]
    write_hospitals(tmp_path / "source", federation, 3)
    expected = {
        "identifying-content-dropped", "mask-tiny-islands", "quarantined-mask", "quarantined-unreadable",
        "near-duplicates-unsure",
    }  # fmt: skip
    if kind == "volumes":
        expected |= {"patients-few", "label-few-patients", "quarantine-quota", "quarantined-series"}
    for hospital in federation.hospitals:
        source, salt = tmp_path / "source" / hospital.name, Salt(hospital.name, b"doctor-tests-0123456789")
        found = discover(Wanted((source,), (Table(source / "labels.csv"),), subgroup_columns=("sex", "age")), salt)
        with Archive.open_or_create(tmp_path / "archives" / hospital.name) as archive:
            ingest(archive, found, Rules(), salt)
            diagnosis = diagnose(archive, hospital.name, half, workers=1, progress=silent)
        assert {one.code for one in diagnosis.findings} <= expected
        assert set(diagnosis.tables) == {"age", "label", "modality", "sex", "vendor"}
