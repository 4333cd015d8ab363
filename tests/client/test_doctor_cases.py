"""The table of all cases: what a row says, against the records and measurements that it was made from."""

import math
from collections import Counter, defaultdict
from typing import Any

import numpy as np
import pytest
from doctored import IMAGES, PATIENTS, Row, affine, clean, name_of, names, table, volume
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from client.data.doctor.cases import Cases


def test_a_row_says_what_record_and_measurement_say() -> None:
    rows = [*clean(3), volume(50)]
    cases = table(rows)
    pairs = sorted((row.measured() for row in rows), key=lambda pair: pair[0].case_id)
    assert cases.names == tuple(record.case_id for record, _ in pairs)
    for place, (record, measured) in enumerate(pairs):
        row: Any = cases.rows[place]
        assert cases.patients[row["patient"]] == record.patient
        assert cases.labels[row["label"]] == record.label
        assert cases.modalities[row["modality"]] == record.modality
        assert cases.subgroups[row["subgroups"]] == record.subgroups
        assert cases.aliases[row["aliases"]] == record.aliases
        assert cases.vendors[row["vendor"]] == "aldermed"
        assert (row["low"], row["high"], row["mean"]) == (measured.low, measured.high, measured.mean)
        assert (row["values"], row["spacing_known"]) == (measured.values, True)
        assert bytes(row["thumbnail"]).hex() == measured.thumbnail
        assert measured.mask is not None
        assert row["foreground"] == sum(voxels for _, voxels in measured.mask.classes)
        assert cases.classes[row["classes"]] == tuple(index for index, _ in measured.mask.classes)


def test_planes_have_one_slice_of_1_mm_in_front() -> None:
    cases = table([clean(1)[0], volume(50)])
    axes = cases.column("axes").tolist()
    assert sorted(axes) == [2, 3]
    plane, stack = axes.index(2), axes.index(3)
    assert cases.column("shape")[plane].tolist() == [1, 48, 48]
    assert cases.column("spacing_mm")[plane].tolist() == [1.0, 0.8, 0.8]
    assert cases.column("shape")[stack].tolist() == [8, 48, 48]
    assert cases.column("spacing_mm")[stack].tolist() == [2.0, 0.8, 0.8]


def test_a_case_without_a_mask_has_an_empty_one_and_is_not_masked() -> None:
    cases = table([clean(1)[0].but(mask=None)])
    assert not cases.column("masked")[0]
    assert cases.column("foreground")[0] == cases.column("islands")[0] == 0
    assert cases.classes == ((),)


def test_text_is_kept_once() -> None:
    cases = table(clean())
    assert len(cases) == PATIENTS * IMAGES
    assert len(cases.patients) == PATIENTS
    assert sorted(cases.labels, key=str) == ["benign", "malignant"]
    assert (cases.modalities, cases.vendors, cases.dropped) == (("ct",), ("aldermed",), ((),))


def test_equal_images_and_equal_sources_have_equal_numbers() -> None:
    rows = clean(3)
    rows[5] = rows[5].but(voxels=rows[0].voxels)
    rows[4] = rows[4].but(source_sha256=name_of("source 1"))
    cases = table(rows)
    place = {name: index for index, name in enumerate(cases.names)}
    at = [place[row.case_id] for row in rows]
    digests, sources = cases.column("digest"), cases.column("source")
    assert digests[at[5]] == digests[at[0]]
    assert sources[at[4]] == sources[at[1]]
    assert len(set(digests.tolist())) == len(set(sources.tolist())) == 5


def test_an_empty_table_is_a_table() -> None:
    cases = Cases.of([])
    assert len(cases) == 0
    assert list(cases.kinds()) == []
    assert cases.together("label", "patient") == ()
    assert cases.named(np.zeros(0, bool)) == ()


def test_names_are_sorted_whether_flagged_or_given_by_place() -> None:
    rows = clean(4)
    cases = table(rows)
    wanted = names([rows[6], rows[1]])
    flags = np.array([name in wanted for name in cases.names])
    assert cases.named(flags) == cases.named(np.flatnonzero(flags)[[1, 0, 1]]) == wanted


def test_kinds_divide_all_cases_by_modality_and_axes() -> None:
    rows = [*clean(3), volume(50), *(row.but(number=100 + row.number, modality="mr") for row in clean(2))]
    kinds = list(table(rows).kinds())
    assert sorted(int(members.sum()) for members in kinds) == [1, 4, 6]
    assert np.sum(kinds, axis=0).tolist() == [1] * 11


@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["a", "b", None])), min_size=1, max_size=12))
def test_pairs_of_values_are_those_of_a_set(said: list[tuple[int, str | None]]) -> None:
    base = clean(1)[0]
    rows = [base.but(number=number, patient=f"{patient}", label=label) for number, (patient, label) in enumerate(said)]
    cases = table(rows)
    found = {(cases.labels[label], cases.patients[patient]) for label, patient in cases.together("label", "patient")}
    assert found == {(label, str(patient)) for patient, label in said}
    by_label: dict[str | None, set[int]] = defaultdict(set)
    for patient, label in said:
        by_label[label].add(patient)
    for label, patients in by_label.items():
        assert cases.patients_of(cases.flags("label", (one == label for one in cases.labels))) == len(patients)
    flagged = Counter(label for _, label in said)
    assert int(cases.flags("label", (one is None for one in cases.labels)).sum()) == flagged[None]


def turned(turn: Any) -> tuple[float, float]:
    cases = table([volume(50).but(affine_lps=affine(turn, (2.0, 0.8, 0.8)))])
    return float(cases.column("oblique_deg")[0]), float(cases.column("shear_deg")[0])


@given(st.floats(-44, 44), st.sampled_from("xyz"))
def test_obliqueness_is_the_angle_of_a_turn_about_one_axis_and_no_shear(degrees: float, axis: str) -> None:
    oblique, shear = turned(Rotation.from_euler(axis, degrees, degrees=True).as_matrix())
    assert oblique == pytest.approx(abs(degrees), abs=1e-5)
    assert shear == pytest.approx(0, abs=1e-5)


@given(st.floats(-30, 30))
def test_shear_is_the_angle_by_which_a_gantry_was_tilted(degrees: float) -> None:
    tilt = np.eye(3)
    tilt[1, 2] = math.tan(math.radians(degrees))
    oblique, shear = turned(tilt)
    assert (oblique, shear) == pytest.approx((abs(degrees), abs(degrees)), abs=1e-5)


def test_angles_are_unknown_without_a_position() -> None:
    cases = table(clean(1))
    assert np.isnan(cases.column("oblique_deg")).all()
    assert np.isnan(cases.column("shear_deg")).all()


@pytest.mark.parametrize("spacing", [(0.5, 0.5, 0.5), (10.0, 0.1, 3.0)])
def test_angles_do_not_depend_on_spacing(spacing: tuple[float, ...]) -> None:
    turn = Rotation.from_euler("xyz", (5, 10, 3), degrees=True).as_matrix()
    row = volume(50)
    one = table([row.but(affine_lps=affine(turn, (1.0, 1.0, 1.0)))])
    other = table([row.but(affine_lps=affine(turn, spacing), spacing_mm=spacing)])
    assert other.column("oblique_deg") == pytest.approx(one.column("oblique_deg"))
    assert isinstance(row, Row)
