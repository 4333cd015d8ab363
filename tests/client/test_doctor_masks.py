"""Masks: each fault is found, and a clean data set is silent."""

import numpy as np
import pytest
from doctored import EDGE, Row, clean, found, names

from client.data.doctor.checks import masks
from shared.preprocessing.image import MaskArray

CHECKS = (masks.presence, masks.classes, masks.islands)


def planted(mask: MaskArray | None) -> tuple[list[Row], Row]:
    rows = clean()
    rows[3] = rows[3].but(mask=mask)
    return rows, rows[3]


def drawn(**values: int) -> MaskArray:
    """The mask of the third case with single voxels set, named by row and column: r1c2=1."""
    mask = clean()[3].mask
    assert mask is not None
    mask = mask.copy()
    for place, value in values.items():
        row, column = map(int, place[1:].split("c"))
        mask[row, column] = value
    return mask


def findings(rows: list[Row]) -> dict[str, tuple[str, ...]]:
    return {code: one.cases for check in CHECKS for code, one in found(check, rows).items()}


def test_a_clean_data_set_is_silent_and_so_is_one_without_masks() -> None:
    assert findings(clean()) == {}
    assert findings([row.but(mask=None) for row in clean()]) == {}


@pytest.mark.parametrize(
    ("code", "mask"),
    [
        ("mask-missing", None),
        ("mask-empty", np.zeros((EDGE, EDGE), np.uint8)),
        ("mask-full", np.ones((EDGE, EDGE), np.uint8)),
        ("mask-classes", drawn(r2c2=2, r2c3=2, r3c2=2, r3c3=2, r2c4=2)),
        ("mask-tiny-islands", drawn(r2c2=1)),
        ("mask-at-border", drawn(r0c0=1, r1c0=1, r2c0=1, r3c0=1, r4c0=1)),
    ],
)
def test_a_fault_is_found_and_named(code: str, mask: MaskArray | None) -> None:
    rows, odd = planted(mask)
    assert findings(rows) == {code: names([odd])}


def test_masks_are_not_missing_where_most_have_none() -> None:
    rows = [row.but(mask=None) for row in clean()]
    rows[:5] = clean()[:5]
    assert findings(rows) == {}


def test_a_class_in_a_fifth_of_the_masks_is_not_rare() -> None:
    rows = clean()
    for place in range(0, 24, 5):
        mask = rows[place].mask
        assert mask is not None
        rows[place] = rows[place].but(mask=np.where(mask == 1, 2, 0).astype(np.uint8))
    assert findings(rows) == {}


@pytest.mark.parametrize(("count", "rare"), [(2, True), (3, False)])
def test_a_class_is_rare_below_one_mask_in_ten(count: int, rare: bool) -> None:
    rows = clean()
    rows[:count] = [row.but(mask=drawn(r2c2=2)) for row in rows[:count]]
    assert findings(rows) == ({"mask-classes": names(rows[:count])} if rare else {})


def test_what_most_masks_do_is_not_said() -> None:
    rows = [row.but(mask=drawn(r2c2=1, r40c0=1)) for row in clean()]
    assert findings(rows) == {}


def test_the_number_of_specks_is_said() -> None:
    rows, _ = planted(drawn(r2c2=1, r4c4=1, r4c5=1, r40c40=1))
    assert "1 of 24 (3 islands)" in found(masks.islands, rows)["mask-tiny-islands"].sentence
