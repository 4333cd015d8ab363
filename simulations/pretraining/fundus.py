"""Made-up photographs of the back of the eye, in green light, with the vessels' mask.

Promises
- ``fundus(seed, index)`` is a function of the two numbers: a square grey image with a round field of view, and a mask
  of the vessels as an annotator would draw it, who leaves out the faintest and draws some a little wide or tight.
- What is dark or long but no vessel is there too, so that a network learns to tell them apart: haemorrhages, the
  macula, stripes of choroid and nerve fibres, the edges of disc, exudates and field.
- The camera (field, light, focus, noise, contrast of vessels) differs from image to image.

How vessels grow is in ``vessels``.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

from shared.preprocessing.image import MaskArray
from shared.seeds import generator
from simulations.pretraining.example import Example, eight_bit
from simulations.pretraining.fields import Field, ridges, smooth
from simulations.pretraining.vessels import Eye, Vessels, grow, paint

EDGE_PX = 540
_MAGNIFIED_PX = 4.2
"""Radius of the widest vein beyond which a field is a small one, seen through a sharp camera."""


def fundus(seed: int, index: int) -> Example:
    """Image number ``index`` with its mask of vessels."""
    rng = generator(seed, "pretraining-fundus", index)
    eye = _eye(rng)
    vessels = grow(rng, eye)
    light = _background(rng, eye) * (1 - _absorbed(rng, vessels, eye)) * _grain(rng, eye)
    light = gaussian_filter(light, rng.uniform(0.3, 1.1))
    light += rng.normal(0, rng.uniform(0.004, 0.02), light.shape)
    field = _field(rng, eye)
    # The edge of the field is a little soft, and darker than what it frames.
    seen = gaussian_filter(field.astype(np.float64), rng.uniform(0.5, 3.0)) ** rng.uniform(0.5, 2.0) * field
    beyond, level = rng.choice([0.0, rng.uniform(0.0, 0.06)]), rng.uniform(0.35, 0.6)
    grey = beyond + (np.clip(light * level, 0.1, 1) - beyond) * seen
    return Example(eight_bit(grey, "fundus"), _drawn_by_hand(rng, vessels, eye) * field)


def _eye(rng: np.random.Generator) -> Eye:
    """A camera that sees 30 to 50 degrees, centred near the macula or near the disc."""
    zoom = rng.uniform(0.85, 1.65)
    side = rng.choice([-1.0, 1.0])
    middle, apart = EDGE_PX / 2, 165 * zoom
    aim = rng.uniform(-0.1, 1.15)
    disc = middle + rng.normal(0, 15), middle - side * apart * (1 - aim) + rng.normal(0, 10)
    return Eye(
        edge=EDGE_PX,
        disc=disc,
        macula=(disc[0] + rng.normal(15, 10) * zoom, disc[1] + side * apart),
        disc_px=rng.uniform(27, 40) * zoom,
        widest_px=rng.uniform(2.6, 4.2) * zoom,
        thinnest_px=rng.uniform(0.5, 0.9),
        reach_px=EDGE_PX * 0.52,
    )


def _absorbed(rng: np.random.Generator, vessels: Vessels, eye: Eye) -> Field:
    """Share of light that vessels take, less in arteries and thin ones, with a bright reflex along wide ones."""
    strongest = rng.uniform(0.22, 0.5)
    depth = strongest * np.clip(vessels.radii / 2.2, 0.35, 1) ** rng.uniform(0.2, 0.9)
    depth = depth * np.where(vessels.artery, rng.uniform(0.6, 0.95), 1.0)
    absorbed = paint(vessels, depth, vessels.radii, eye.edge)
    wide = (vessels.artery | (rng.random() < 0.3)) & (vessels.radii > 1.8)
    if wide.any() and rng.random() < 0.75:
        arteries = Vessels(vessels.rows[wide], vessels.columns[wide], vessels.radii[wide], vessels.artery[wide])
        reflex = paint(arteries, np.ones(int(wide.sum())), vessels.radii[wide] * 0.3, eye.edge)
        absorbed -= rng.uniform(0.03, 0.22) * gaussian_filter(reflex, 0.5)
    fading = np.clip(1 + 0.15 * smooth(rng, absorbed.shape, (60.0, 60.0)), 0.4, 1.3)
    return np.asarray(absorbed * fading)


def _drawn_by_hand(rng: np.random.Generator, vessels: Vessels, eye: Eye) -> MaskArray:
    """The mask: vessels below some radius are left out, all others drawn wider by the slip of a hand.

    A hand slips by pixels of the camera; they are fewer where the same number of them shows a smaller field.
    """
    kept = vessels.radii > rng.uniform(0.4, 0.9)
    shown = Vessels(vessels.rows[kept], vessels.columns[kept], vessels.radii[kept], vessels.artery[kept])
    wider = np.maximum(shown.radii + rng.uniform(0.0, 1.0) * (0.3 if eye.widest_px > _MAGNIFIED_PX else 1.0), 0.8)
    return np.asarray(paint(shown, np.ones(wider.size), wider, eye.edge) > 0.5, np.uint8)


def _background(rng: np.random.Generator, eye: Eye) -> Field:
    shape = (eye.edge, eye.edge)
    rows, columns = np.indices(shape)
    from_middle = np.hypot(rows - eye.edge / 2, columns - eye.edge / 2) / (eye.edge / 2)
    light = 1 - rng.uniform(-0.1, 0.5) * from_middle**2 + 0.1 * smooth(rng, shape, (180.0, 180.0))
    light += rng.uniform(0.01, 0.05) * smooth(rng, shape, (25.0, 25.0))
    light += rng.uniform(0.005, 0.025) * smooth(rng, shape, (4.0, 4.0))
    lengths = (rng.uniform(14, 40), rng.uniform(14, 40))
    light += rng.normal(0, 0.05) * ridges(rng, shape, lengths, rng.uniform(0.25, 0.6))
    away = np.hypot(rows - eye.macula[0], columns - eye.macula[1]) / eye.disc_px
    light -= rng.uniform(0.03, 0.3) * np.exp(-((away / rng.uniform(0.5, 1.3)) ** 2))
    return np.asarray(_with_lesions(rng, light) + _disc(rng, eye))


def _grain(rng: np.random.Generator, eye: Eye) -> Field:
    """What bright parts of a fundus are covered with: nerve fibres, pigment, the grain of old film; factors about 1."""
    shape = (eye.edge, eye.edge)
    fine = rng.uniform(0.004, 0.04) * smooth(rng, shape, (rng.uniform(1.2, 2.5),) * 2)
    coarse = rng.uniform(0.004, 0.025) * smooth(rng, shape, (rng.uniform(2.5, 6.0), rng.uniform(2.5, 6.0)))
    network = rng.uniform(0.0, 0.1) * ridges(rng, shape, (rng.uniform(5, 12),) * 2, rng.uniform(0.25, 0.6))
    where = np.clip(np.exp(rng.uniform(0.2, 0.8) * smooth(rng, shape, (90.0, 90.0))), 0.3, 2.2)
    return np.asarray(np.clip(1 + (fine + coarse + network * rng.choice([-0.3, 1.0])) * where, 0.3, 1.7))


def _disc(rng: np.random.Generator, eye: Eye) -> Field:
    """The optic disc, bright with a brighter cup, and the glow of nerve fibres around it."""
    rows, columns = np.indices((eye.edge, eye.edge))
    away = np.hypot((rows - eye.disc[0]) / rng.uniform(0.95, 1.15), columns - eye.disc[1]) / eye.disc_px
    edge = rng.uniform(0.03, 0.15)
    bright = rng.uniform(0.15, 0.7) / (1 + np.exp(np.clip((away - 1) / edge, -30, 30)))
    cup = rng.uniform(0.0, 0.4) * np.exp(-((away / 0.5) ** 2))
    return np.asarray(bright + cup + rng.uniform(0, 0.12) * np.exp(-((away / 2.5) ** 2)))


def _with_lesions(rng: np.random.Generator, light: Field) -> Field:
    """Exudates and drusen (bright), haemorrhages and pigment (dark), in some eyes."""
    changed = light
    for sign, most in ((1.0, 50), (-1.0, 25)):
        if rng.random() < 0.4:
            for _ in range(int(rng.integers(1, most))):
                changed = _blot(rng, changed, sign * rng.uniform(0.05, 0.35))
    return changed


def _blot(rng: np.random.Generator, light: Field, change: float) -> Field:
    """A round or ragged spot, at most 40 pixels wide."""
    size = float(np.clip(rng.lognormal(1.2, 0.7), 1.2, 14))
    reach = int(3 * size)
    row, column = rng.integers(reach, light.shape[0] - reach, 2)
    box = slice(row - reach, row + reach), slice(column - reach, column + reach)
    down, across = np.indices((2 * reach, 2 * reach)) - reach
    ragged = 0.25 * size * smooth(rng, down.shape, (size, size))
    turn = rng.uniform(0, np.pi)
    along, upright = down * np.cos(turn) + across * np.sin(turn), across * np.cos(turn) - down * np.sin(turn)
    away = np.hypot(along, upright * rng.uniform(1.0, 2.0)) + ragged
    light[box] += change / (1 + np.exp(np.clip((away - size) / 0.8, -30, 30)))
    return light


def _field(rng: np.random.Generator, eye: Eye) -> MaskArray:
    """The round field of view, cut flat above and below by some cameras."""
    rows, columns = np.indices((eye.edge, eye.edge)) - eye.edge / 2
    seen = np.hypot(rows, columns) < 0.495 * eye.edge
    if rng.random() < 0.5:
        seen &= np.abs(rows) < rng.uniform(0.36, 0.48) * eye.edge
    return np.asarray(seen, np.uint8)
