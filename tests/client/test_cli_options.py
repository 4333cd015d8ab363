"""Words of a command line as values; what cannot be one is a usage error that says what the option takes."""

from collections.abc import Callable

import click
import pytest

from client import options


def test_a_column_has_one_name_or_several_joined_in_their_order() -> None:
    said = ["patient_id=PID", "label = class ", "study_uid=a+ b"]
    assert options.columns(said) == {"patient_id": ("PID",), "label": ("class",), "study_uid": ("a", "b")}


def test_a_value_may_be_empty_and_may_hold_an_equals_sign() -> None:
    assert options.where(["split=", "rule=a=b"]) == {"split": "", "rule": "a=b"}


def test_a_structure_has_a_class_from_1_to_255() -> None:
    assert options.structures(["GTV 1=1", "Lung, left=255"]) == {"GTV 1": 1, "Lung, left": 255}


@pytest.mark.parametrize("parse", [options.columns, options.where, options.structures])
def test_nothing_said_is_nothing(parse: Callable[[list[str]], dict[str, object]]) -> None:
    assert parse([]) == {}


@pytest.mark.parametrize(
    ("parse", "words", "said"),
    [
        (options.columns, ["patient_id"], "give OURS=THEIRS or OURS=THEIRS+THEIRS"),
        (options.columns, ["=PID"], "give OURS=THEIRS"),
        (options.columns, ["patient_id="], "a column has no name"),
        (options.columns, ["patient_id=a+"], "a column has no name"),
        (options.columns, ["label=a", "label=b"], "label is given twice"),
        (options.where, ["split"], "give COLUMN=VALUE"),
        (options.where, ["split=a", "split=b"], "split is given twice"),
        (options.structures, ["GTV=0"], "a number from 1 to 255"),
        (options.structures, ["GTV=256"], "a number from 1 to 255"),
        (options.structures, ["GTV=-1"], "a number from 1 to 255"),
        (options.structures, ["GTV=one"], "a number from 1 to 255"),
        (options.structures, ["GTV=²"], "a number from 1 to 255"),
        (options.structures, ["GTV=1000"], "a number from 1 to 255"),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_what_an_option_cannot_take_is_told(
    parse: Callable[[list[str]], dict[str, object]], words: list[str], said: str
) -> None:
    with pytest.raises(click.BadParameter) as caught:
        parse(words)
    assert said in caught.value.format_message()
    assert "--" in caught.value.format_message()
