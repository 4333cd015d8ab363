"""What a patient adds to a sum that will get noise: one unit of weight, spread over cells, laid out by a matrix.

Promises
- A patient is one unit, however many images: in each block their images' weights are averaged over the images that
  determine the block. A patient no image of whom determines it adds nothing to that block.
- A block's weights are not negative and sum to at most 1; its matrix has columns of norm at most 1. What a patient adds
  to a block is a convex combination of such columns (and 0), so of norm at most 1; over b blocks it is at most sqrt(b).
  That is ``sensitivity``: a public constant, whatever a network answers. ``shared.privacy.statistics.bounded`` enforces
  it once more on the integers, so that the promise does not rest on this argument or on any task.

Why a matrix, and not the cells themselves. With noise of one size on every value sent, sums over many cells drown, and
metrics of ranks are made of such sums. ``ladder`` sends half-way sums instead: row i holds cells j <= i, weighted by
the coefficients of (1 - x)**(-1/2). It is the square root of summing up; used twice it sums up. The noise of a sum over
cells then grows with the logarithm of their number and not with the number (Fichtenberger, Henzinger & Upadhyay,
"Constant matters", ICML 2023). Of 32 cells a sum over the first few has on average less
than 0.6 of the noise that it would have if cells were sent.

``moments`` sends count, mean and mean square only, for what needs no more.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from shared.evaluation.additive import UNIT, IntArray
from shared.evaluation.undetermined import FloatArray, ratio
from shared.privacy.statistics import bounded


@dataclass(frozen=True, eq=False)
class Block:
    """Cells over which a patient's weight is spread, and the matrix that makes them values to be sent.

    Attributes:
        name: of what is spread.
        matrix: shape (values, cells), of full row rank, columns of norm at most 1.
    """

    name: str
    matrix: FloatArray

    def __post_init__(self) -> None:
        longest = float(np.linalg.norm(self.matrix, axis=0).max())
        # A mistake in a definition, not in data: found when the module is first used.
        if longest > 1 + 1e-12:
            raise ValueError(f"a column of {self.name} has norm {longest:.6g}, above 1")


@dataclass(frozen=True, eq=False)
class PrivateSchema:
    """Blocks in the order in which their values are laid flat, and the definition they follow."""

    definition: str
    blocks: tuple[Block, ...]

    @property
    def length(self) -> int:
        """Number of values that leave a site."""
        return sum(len(block.matrix) for block in self.blocks)

    @property
    def cells(self) -> int:
        """Number of cells of all blocks."""
        return sum(block.matrix.shape[1] for block in self.blocks)

    @property
    def sensitivity(self) -> float:
        """Largest L2 norm of what one patient adds."""
        return math.sqrt(len(self.blocks))

    def digest(self) -> str:
        """SHA-256 over definition, names, shapes and constants."""
        said = [self.definition, "private", UNIT, [[block.name, list(block.matrix.shape)] for block in self.blocks]]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()

    def by_cell(self, cells: FloatArray) -> list[FloatArray]:
        """Parts of ``cells``, shape (..., cells), by block."""
        return np.split(cells, np.cumsum([block.matrix.shape[1] for block in self.blocks])[:-1], axis=-1)

    def by_value(self, values: FloatArray) -> list[FloatArray]:
        """Parts of ``values``, shape (..., length), by block."""
        return np.split(values, np.cumsum([len(block.matrix) for block in self.blocks])[:-1], axis=-1)

    def contribution(self, images: FloatArray) -> IntArray:
        """What one patient adds, from the weights of their images: shape (images, cells) becomes (length,).

        NaN stands for a block that an image does not determine.
        """
        known = ~np.isnan(images)
        # What overflows here becomes a patient who adds nothing.
        with np.errstate(over="ignore", invalid="ignore"):
            weights = ratio(np.where(known, images, 0.0).sum(axis=0), known.sum(axis=0))
            weights[~known.any(axis=0)] = 0.0
            parts = zip(self.blocks, self.by_cell(weights), strict=True)
            vector = np.concatenate([block.matrix @ part for block, part in parts])
        return bounded(vector, self.sensitivity)

    def collect(self, observed: Iterable[tuple[str, FloatArray]]) -> IntArray:
        """Sum over patients of what they add, from (patient, weights of one image) pairs; shape (length,)."""
        images: dict[str, list[FloatArray]] = {}
        for patient, weights in observed:
            images.setdefault(patient, []).append(weights)
        total = np.zeros(self.length, np.int64)
        for of_patient in images.values():
            total += self.contribution(np.stack(of_patient))
        return total


def ladder(cells: int) -> FloatArray:
    """Half-way sums over ``cells`` ordered cells, shape (cells, cells), its longest column of norm 1."""
    steps = np.arange(1, cells)
    coefficients = np.concatenate([[1.0], np.cumprod((2 * steps - 1) / (2 * steps))])
    lag = np.subtract.outer(np.arange(cells), np.arange(cells))
    matrix: FloatArray = np.where(lag >= 0, coefficients[np.abs(lag)], 0.0)
    return matrix / np.linalg.norm(coefficients)


def moments(nodes: FloatArray) -> FloatArray:
    """Count, first and second moment of values in [0, 1] known by their weights on ``nodes``: shape (3, nodes).

    The first moment is taken about 1/2 and weighs most: it carries what is asked for. The second tells the spread.
    """
    centred = 2 * nodes - 1
    matrix: FloatArray = np.stack([np.full(nodes.shape, 0.5), 0.8 * centred, 0.3 * centred**2 - 0.1])
    longest = float(np.linalg.norm(matrix, axis=0).max())
    return matrix / longest
