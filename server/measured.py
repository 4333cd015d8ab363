"""What a model was measured to be, kept in the run folder: so that another model can be compared on the same patients.

Promises
- ``keep`` writes the statistics of one measurement, summed and by site where the plan releases them, exactly: integers
  by patient group. The file is whole or not there, and for its owner alone: it belongs to the coordinator, which was
  told all of it, and to nobody who only reads the results.
- ``kept`` gives back the same measurement. A file of other definitions is refused, a missing one is None.
- Statistics that hold noise are not kept: nothing can be paired in them.

Leaves to others: which measurements are kept (``server.coordinator``), and what follows from two of them
(``server.differences``, ``server.report.compare``).
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from server.intake import Measurement
from server.run_state import SERVER_STATE
from shared.checkpoint import DISK_FULL
from shared.durable import replace_file
from shared.errors import CapacityError, RunError
from shared.evaluation.additive import Schema, Statistics

FIRST, LAST, TEST = (f"measured-{which}.safetensors" for which in ("first", "last", "test"))
"""The first and the last measured round on validation patients; the final model on test patients."""
_ROUND, _SCHEMA, _POOLED, _SITE = "round", "schema", "pooled", "site/"


def keep(folder: Path, name: str, round_number: int, measurement: Measurement) -> None:
    """Write ``measurement`` of a round under ``name`` into the run ``folder``; of noisy statistics, nothing."""
    pooled = measurement.pooled
    if not isinstance(pooled, Statistics):
        return
    parts: dict[str, NDArray[Any]] = {
        _ROUND: np.array([round_number], np.int64),
        _SCHEMA: _digest(pooled.schema),
        _POOLED: pooled.flat(),
        **{f"{_SITE}{site}": of.flat() for site, of in measurement.sites.items()},
    }
    content = safetensors.numpy.save(parts)
    try:
        replace_file(folder / SERVER_STATE / name, content)
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise CapacityError(
            f"the disk is full: statistics of a round need {len(content)} bytes, "
            f"{shutil.disk_usage(folder).free} are free",
            hint="free space on the disk of the run's folder, then resume the run",
            code="disk-full",
        ) from None


def kept(folder: Path, name: str, schema: Schema) -> tuple[int, Measurement] | None:
    """The round and the measurement under ``name``; None where none was kept.

    Raises:
        RunError: the file is damaged, or its statistics follow another definition than ``schema``.
    """
    path = folder / SERVER_STATE / name
    if not path.exists():
        return None
    try:
        parts: Mapping[str, NDArray[Any]] = safetensors.numpy.load(path.read_bytes())
        round_number, found = int(parts[_ROUND][0]), parts[_SCHEMA]
    except (OSError, safetensors.SafetensorError, KeyError, IndexError):
        raise RunError(f"{name} cannot be read", hint="restore the run folder from a copy") from None
    if not np.array_equal(found, _digest(schema)):
        raise RunError(
            f"{name} follows another definition of statistics than {schema.definition}",
            hint="read it with the version that wrote it",
        )
    sites = {key.removeprefix(_SITE): of for key, of in sorted(parts.items()) if key.startswith(_SITE)}
    by_site = {site: Statistics.from_flat(schema, of) for site, of in sites.items()}
    return round_number, Measurement(Statistics.from_flat(schema, parts[_POOLED]), by_site)


def _digest(schema: Schema) -> NDArray[np.uint8]:
    return np.frombuffer(bytes.fromhex(schema.digest()), np.uint8)
