"""Measurements in the run folder: read back to the last count, for their owner alone, refused where they do not fit."""

import stat
from pathlib import Path

import numpy as np
import pytest

from server.intake import Measurement
from server.measured import FIRST, TEST, keep, kept
from server.run_state import SERVER_STATE
from shared.errors import RunError
from shared.evaluation.additive import Schema, Statistics

SCHEMA = Schema("counted-1", (("hits", ()), ("bins", (3,))))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / SERVER_STATE).mkdir()
    return tmp_path


def drawn(seed: int) -> Statistics:
    values = np.random.default_rng(seed).integers(-(2**62), 2**62, SCHEMA.length)
    return Statistics.from_flat(SCHEMA, values)


def counted(measurement: Measurement) -> dict[str, list[int]]:
    assert isinstance(measurement.pooled, Statistics)
    sites = {site: of.flat().tolist() for site, of in measurement.sites.items()}
    return {"": measurement.pooled.flat().tolist(), **sites}


def test_what_was_kept_reads_back_to_the_last_count(folder: Path) -> None:
    measurement = Measurement(drawn(0), {"north": drawn(1), "a/b": drawn(2)})
    keep(folder, TEST, 20, measurement)
    found = kept(folder, TEST, SCHEMA)
    assert found is not None
    assert found[0] == 20
    assert counted(found[1]) == counted(measurement)


def test_sums_alone_read_back_without_sites(folder: Path) -> None:
    keep(folder, TEST, 1, Measurement(drawn(0)))
    found = kept(folder, TEST, SCHEMA)
    assert found is not None
    assert found[1].sites == {}


def test_the_order_of_the_sites_changes_no_byte(folder: Path) -> None:
    north, south = ("north", drawn(1)), ("south", drawn(2))
    for name, sites in ((FIRST, (north, south)), (TEST, (south, north))):
        keep(folder, name, 3, Measurement(drawn(0), dict(sites)))
    first, test = ((folder / SERVER_STATE / name).read_bytes() for name in (FIRST, TEST))
    assert first == test


def test_statistics_by_patient_group_are_for_the_coordinators_account_alone(folder: Path) -> None:
    keep(folder, TEST, 1, Measurement(drawn(0)))
    assert stat.S_IMODE((folder / SERVER_STATE / TEST).stat().st_mode) == 0o600


def test_what_was_never_kept_is_none(folder: Path) -> None:
    assert kept(folder, TEST, SCHEMA) is None


def test_another_definition_is_refused_though_it_has_as_many_counts(folder: Path) -> None:
    keep(folder, TEST, 1, Measurement(drawn(0)))
    other = Schema("counted-2", SCHEMA.shapes)
    assert other.length == SCHEMA.length
    with pytest.raises(RunError, match=r"another definition of statistics than counted-2") as refused:
        kept(folder, TEST, other)
    assert refused.value.hint


@pytest.mark.parametrize("content", [b"", b"not numbers", b"\0" * 64], ids=["empty", "words", "zeros"])
def test_a_damaged_file_is_an_error_and_not_a_crash(folder: Path, content: bytes) -> None:
    (folder / SERVER_STATE / TEST).write_bytes(content)
    with pytest.raises(RunError, match="cannot be read"):
        kept(folder, TEST, SCHEMA)


def test_a_file_without_its_parts_is_an_error(folder: Path) -> None:
    keep(folder, TEST, 1, Measurement(drawn(0)))
    path = folder / SERVER_STATE / TEST
    path.write_bytes(path.read_bytes().replace(b'"schema"', b'"sch-ma"'))
    with pytest.raises(RunError, match="cannot be read"):
        kept(folder, TEST, SCHEMA)
