"""Fingerprints: what computes numbers is in them, equal ones differ in nothing, and a difference can be read."""

from importlib.metadata import version

import pytest
import torch

from shared import fingerprint
from shared.fingerprint import collect, differences

HERE = collect("a" * 64, "b" * 64)


def changed(**entries: str) -> fingerprint.Fingerprint:
    return tuple(sorted({**dict(HERE), **entries}.items()))


def without(name: str) -> fingerprint.Fingerprint:
    return tuple(entry for entry in HERE if entry[0] != name)


def test_a_fingerprint_names_every_library_that_computes_numbers_and_both_schemas() -> None:
    found = dict(HERE)
    assert found.keys() == {"consilium", "torch", "monai", "numpy", "scipy", "parameters", "statistics"}
    assert found["numpy"] == version("numpy")
    assert (found["parameters"], found["statistics"]) == ("a" * 64, "b" * 64)


def test_a_fingerprint_is_sorted_so_that_equal_ones_are_equal_values() -> None:
    assert list(HERE) == sorted(HERE)
    assert collect("a" * 64, "b" * 64) == HERE


def test_the_version_of_torch_is_told_without_its_build() -> None:
    assert dict(HERE)["torch"] == torch.__version__.partition("+")[0]


@pytest.mark.parametrize(("one", "other"), [("2.13.0+cpu", "2.13.0+cu130"), ("2.13.0", "2.13.0+cpu")])
def test_two_builds_of_one_version_may_work_together(monkeypatch: pytest.MonkeyPatch, one: str, other: str) -> None:
    found = []
    for build in (one, other):
        monkeypatch.setattr(fingerprint, "version", lambda _name, build=build: build)
        found.append(collect("a", "b"))
    assert differences(*found) == []


def test_nothing_differs_from_itself() -> None:
    assert differences(HERE, HERE) == []


def test_a_difference_names_the_library_and_both_versions() -> None:
    (line,) = differences(HERE, changed(torch="2.12.1"))
    assert line == f"torch: {dict(HERE)['torch']} here, 2.12.1 there"


def test_every_difference_is_told_in_the_order_of_names() -> None:
    lines = differences(HERE, changed(torch="1", monai="2", parameters="c" * 64))
    assert [line.partition(":")[0] for line in lines] == ["monai", "parameters", "torch"]


def test_digests_are_told_by_their_first_digits() -> None:
    (line,) = differences(HERE, changed(statistics="c" * 64))
    assert line == "statistics: bbbbbbbbbbbb here, cccccccccccc there"


def test_an_entry_that_one_side_lacks_is_a_difference() -> None:
    assert differences(HERE, without("scipy")) == [f"scipy: {version('scipy')} here, absent there"]
    assert differences(without("scipy"), HERE) == [f"scipy: absent here, {version('scipy')} there"]


def test_an_entry_that_nobody_here_knows_is_a_difference_too() -> None:
    assert differences(HERE, changed(cupy="13")) == ["cupy: absent here, 13 there"]


def test_the_order_in_which_a_site_lists_entries_is_no_difference() -> None:
    assert differences(HERE, HERE[::-1]) == []
