"""Which cells of a table are withheld, so that no small one can be told: neither read nor worked out.

A row holds the patients of each level of a column, such as sex; their total is public. A *small* cell has at least one
patient and fewer than ``floor``. Levels without a patient are told: 0 is 0.

Promises
- Every small cell is withheld, and with it the next larger ones, until what can be worked out, the sum of the withheld
  cells, describes at least ``floor`` patients in at least two cells. With one cell withheld, total minus told cells
  would be that cell (complementary suppression).
- Whoever knows the total, the told cells and this rule finds at least two possible values for each withheld cell. For
  tables of up to five levels and few patients a test goes through all tables.
- What is told depends on the row alone: the same row gives the same cells, at every site and in every process.

Rules, beyond the textbook's two cells that sum to the floor

=============================================================  ========================================================
rule                                                           without it, someone who knows the procedure finds
=============================================================  ========================================================
cells of equal size are withheld together                      which of two cells is small, by what broke the tie
on average two patients in a withheld cell                     each cell is 1, from a sum of as many as there are cells
small cells alone sum to less than cells * (floor - 1)         each cell is ``floor`` - 1, from the largest possible sum
where no choice of cells is enough, all are withheld,          the small cell is the total
empty ones too
=============================================================  ========================================================

Where one patient can be in several levels (images of two scanners), the patients that the withheld cells describe are
counted from below: at least those of the largest one, and at least those in no cell that is told.

Leaves to others: a row is protected by itself. Columns that follow from one another, such as age in years and in bands,
must not be declared together, and neither must one cohort be reported twice with different levels.

Sources: Hundepool et al., Statistical Disclosure Control (Wiley 2012), chapter 4; Cox, JASA 1980;75:377. That the
procedure itself tells something: Wong et al., Minimality attack in privacy preserving data publishing (VLDB 2007).
"""

from __future__ import annotations

from collections.abc import Sequence


def withheld(patients: Sequence[int], everybody: int, floor: int) -> frozenset[int]:
    """Positions of the cells that must not be told.

    Args:
        patients: of each level, at least 0.
        everybody: how many patients these are together; at most the sum of ``patients``, which counts a patient of two
            levels twice.
        floor: fewest patients of a cell that may be told; at least 3.
    """
    small = frozenset(cell for cell, count in enumerate(patients) if 0 < count < floor)
    if not small:
        return small
    for largest in (0, *sorted({count for count in patients if count >= floor})):
        larger = {cell for cell, count in enumerate(patients) if floor <= count <= largest}
        cells = small | larger
        behind = _behind(patients, cells, everybody)
        all_largest = not larger and behind >= len(small) * (floor - 1)
        if len(cells) > 1 and behind >= max(floor, 2 * len(cells)) and not all_largest:
            return cells
    return frozenset(range(len(patients)))


def _behind(patients: Sequence[int], cells: frozenset[int], everybody: int) -> int:
    """How many patients ``cells`` describe together, at least."""
    told = sum(count for cell, count in enumerate(patients) if cell not in cells)
    return max(everybody - told, *(patients[cell] for cell in cells))
