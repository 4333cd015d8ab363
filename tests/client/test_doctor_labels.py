"""Labels and patients: each fault is found, and a clean data set is silent."""

from doctored import Row, clean, found, name_of, names

from client.data.doctor.checks import labels, patients

CHECKS = (labels.labels, labels.spelling, labels.class_sizes, patients.patients)


def findings(rows: list[Row]) -> dict[str, tuple[str, ...]]:
    return {code: one.cases for check in CHECKS for code, one in found(check, rows).items()}


def relabelled(*said: str | None) -> list[Row]:
    """Patient by patient these labels in turn."""
    return [row.but(label=said[row.number // 2 % len(said)]) for row in clean()]


def test_a_clean_data_set_is_silent() -> None:
    assert findings(clean()) == {}


def test_cases_without_a_label_are_named() -> None:
    rows = clean()
    rows[3] = rows[3].but(label=None)
    assert findings(rows) == {"label-missing": names([rows[3]])}


def test_segmentation_needs_no_labels_but_something_must_be_there_to_learn() -> None:
    assert findings(relabelled(None)) == {}
    assert findings([row.but(mask=None) for row in relabelled(None)]) == {"nothing-to-learn": ()}


def test_one_class_is_said() -> None:
    assert findings(relabelled("benign")) == {"label-one-class": ()}


def test_the_rarer_spelling_of_a_label_is_named() -> None:
    rows = clean()
    rows[2] = rows[2].but(label="Malignant ")
    assert findings(rows) == {"label-spelling": names([rows[2]]), "label-few-patients": ()}


def test_a_class_of_few_patients_is_counted_and_its_name_is_not_repeated() -> None:
    rows = clean()
    rows[2] = rows[2].but(label="phyllodes")
    (finding,) = found(labels.class_sizes, rows).values()
    assert (finding.code, finding.cases) == ("label-few-patients", ())
    assert "1 of 3; the smallest has 1" in finding.sentence
    assert "phyllodes" not in finding.sentence + finding.hint


def test_classes_are_counted_one_by_one_where_a_label_joins_several() -> None:
    """Each combination is rare, each class is not."""
    assert findings(relabelled("a;b", "b;c", "a;c", "a;b;c")) == {}


def test_few_patients_are_said() -> None:
    assert findings(clean(9)) == {"patients-few": (), "label-few-patients": ()}
    assert "patients-few" not in findings(clean(10))


def test_a_patient_with_a_quarter_of_the_images_is_named() -> None:
    rows = [row.but(patient=name_of("everybody")) if row.number >= 16 else row for row in clean(12)]
    rows = [*rows, *(row.but(number=100 + row.number) for row in clean(3))]
    sizes = {row.said.get("patient") for row in rows}
    assert len(sizes) == 2
    assert findings(rows).get("patient-dominates") == names(row for row in rows if "patient" in row.said)


def test_patients_with_equally_many_images_do_not_dominate() -> None:
    assert "patient-dominates" not in findings(clean(3))


def test_many_images_of_as_many_patients_are_noted() -> None:
    rows = [row.but(patient=name_of(f"own {row.number}")) for row in clean()]
    assert findings(rows) == {"patients-not-told": ()}
    assert "patients-not-told" not in findings(rows[:19])
