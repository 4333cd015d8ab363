"""Fingerprints: what computes numbers is in them, equal ones differ in nothing, and a difference can be read."""

from importlib.metadata import version

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shared import fingerprint
from shared.fingerprint import TOLERANCES, collect, differences, numbers

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
    told = "statistics: bbbbbbbbbbbb here, cccccccccccc there (usually another definition of what is counted)"
    assert line == told


def test_an_entry_that_one_side_lacks_is_a_difference() -> None:
    assert differences(HERE, without("scipy")) == [f"scipy: {version('scipy')} here, absent there"]
    assert differences(without("scipy"), HERE) == [f"scipy: absent here, {version('scipy')} there"]


def test_an_entry_that_nobody_here_knows_is_a_difference_too() -> None:
    assert differences(HERE, changed(cupy="13")) == ["cupy: absent here, 13 there"]


def test_the_order_in_which_a_site_lists_entries_is_no_difference() -> None:
    assert differences(HERE, HERE[::-1]) == []


def test_versions_come_before_what_they_explain_and_networks_before_accelerators() -> None:
    parts = ["phantom.decoding", "phantom.network.initial.loss", "phantom.device.initial.loss"]
    here, there = (collect(value, "b", dict.fromkeys(parts, f"voxels:{value}")) for value in ("1", "2"))
    older = tuple(sorted({**dict(there), "torch": "1"}.items()))
    found = differences(here, older)
    assert [line.partition(":")[0] for line in found] == ["parameters", "torch", *parts]


# --- numbers ---------------------------------------------------------------------------------------------------------


def lines(here: str, there: str, name: str = "phantom.network.pattern.logits") -> list[str]:
    return differences(((name, here),), ((name, there),))


@pytest.mark.parametrize("kind", sorted(TOLERANCES))
def test_numbers_may_differ_by_what_their_kind_allows_and_by_no_more(kind: str) -> None:
    allowed = TOLERANCES[kind]
    for sign in (1, -1):
        assert lines(f"{kind}:3", f"{kind}:{3 * (1 + sign * 0.9 * allowed)!r}") == []
        assert len(lines(f"{kind}:3", f"{kind}:{3 * (1 + sign * 1.6 * allowed)!r}")) == 1


def test_the_line_says_what_both_have_how_far_apart_they_are_what_is_allowed_and_what_it_usually_means() -> None:
    (line,) = lines(numbers("float32", [3.0, 4.0]), numbers("float32", [3.0, 4.5]))
    assert line == (
        "phantom.network.pattern.logits: 3, ... here, 3, ... there, 0.092 apart, 0.003 allowed "
        "(usually another layer, normalisation or loss, or a network in training mode)"
    )


def test_a_vector_is_compared_by_the_length_of_its_difference_and_not_number_by_number() -> None:
    """A logit near zero has no relative accuracy of its own."""
    assert lines("float32:1000,0.001", "float32:1000,-0.001") == []
    assert lines("float32:0.001", "float32:-0.001") != []


@pytest.mark.parametrize(
    ("here", "there", "allowed"),
    [("float32", "tf32", 0.1), ("bfloat16", "float32", 0.3), ("tf32", "bfloat16", 0.3)],
)
def test_between_two_precisions_the_coarser_one_decides(here: str, there: str, allowed: float) -> None:
    assert lines(f"{here}:1", f"{there}:{1 + 0.9 * allowed}") == []
    (line,) = lines(f"{here}:1", f"{there}:{1 + 2 * allowed}")
    assert f"{allowed:g} allowed" in line


def test_double_precision_is_not_loosened_by_what_a_site_calls_its_numbers() -> None:
    assert len(lines("float64:1", "bfloat16:1.01")) == 1
    assert len(lines("voxels:1", "nearest:1")) == 1


def test_a_metric_that_is_undetermined_must_be_so_at_both() -> None:
    assert lines("float64:nan,0.5", "float64:nan,0.5000000000001") == []
    assert len(lines("float64:nan,0.5", "float64:0.5,nan")) == 1
    assert len(lines("float64:nan", "float64:0")) == 1


@pytest.mark.parametrize("there", ["float32:inf", "float32:1,1", "float32:", "float32:x", "float32", "", "absent:1"])
def test_what_is_no_comparable_number_is_a_difference(there: str) -> None:
    assert len(lines("float32:1", there)) == 1


def test_rounding_next_to_zero_is_no_difference() -> None:
    assert lines("float64:0", "float64:1e-17") == []
    assert len(lines("float64:0", "float64:1e-6")) == 1


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=1, max_size=8))
def test_numbers_survive_being_written_and_read(values: list[float]) -> None:
    for kind in ("float64", "float32"):
        written = numbers(kind, values)
        assert [float(said) for said in written.partition(":")[2].split(",")] == pytest.approx(values, rel=1e-6)
        assert lines(written, numbers(kind, [value * (1 + 1e-12) for value in values])) == []


@settings(max_examples=25)
@given(st.lists(st.tuples(st.text(max_size=99), st.text(max_size=99)), max_size=5), st.text(max_size=30))
def test_whatever_a_site_sends_gives_short_printable_lines_and_never_an_error(
    sent: list[tuple[str, str]], junk: str
) -> None:
    name = "phantom.loss"
    told = differences((*HERE, (name, "float32:1")), (*sent, (name, f"float32:{junk}"), ("torch", "nan:" + junk)))
    assert told
    for line in told:
        assert line.isprintable()
        assert len(line) < 400


def test_a_value_of_a_megabyte_is_not_repeated_in_a_sentence() -> None:
    assert len(lines("float32:1", "float32:" + "1," * 500_000)[0]) < 300
    assert len(lines("a" * 64, "\x1b[31m" * 100_000)[0]) < 300
