"""From the words of a command line to values: ``--column``, ``--where``, ``--structure`` and their like.

Promises
- Each function takes what the option was given, every time it was given, and returns a mapping; what has no equals
  sign, or names one thing twice, is a usage error that says what the option takes.
- A word that came from a table (a value, a label) is not repeated in an error.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import click

from client.data.cohort.manifest import SplitRule
from shared.plan import load

_TRAIN, _VALIDATION = 0.6, 0.15
_CLASS = re.compile(r"[1-9][0-9]{0,2}")


def columns(words: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """``ours=theirs+theirs`` as ``Table.columns``; raises ``click.BadParameter``."""
    found = _pairs(words, "--column", "OURS=THEIRS or OURS=THEIRS+THEIRS")
    named = {ours: tuple(part.strip() for part in theirs.split("+")) for ours, theirs in found.items()}
    if not all(all(theirs) for theirs in named.values()):
        raise _wrong("--column", "a column has no name: give OURS=THEIRS+THEIRS")
    return named


def where(words: Sequence[str]) -> dict[str, str]:
    """``column=value`` as ``Table.where``; raises ``click.BadParameter``."""
    return _pairs(words, "--where", "COLUMN=VALUE")


def structures(words: Sequence[str]) -> dict[str, int]:
    """``name=1`` as ``Rules.structures``; raises ``click.BadParameter``."""
    found = _pairs(words, "--structure", "NAME=CLASS, a number from 1 to 255")
    if not all(_CLASS.fullmatch(index) and int(index) < 256 for index in found.values()):
        raise _wrong("--structure", "give NAME=CLASS, a number from 1 to 255")
    return {name: int(index) for name, index in found.items()}


def split_rule(plan: Path | None, train: float | None, validation: float | None, seed: int | None) -> SplitRule:
    """How patients are divided: as a plan says, or as ``--train``, ``--validation`` and ``--seed`` do.

    Raises:
        click.UsageError: both, or shares that leave nobody for testing.
        PlanError: the plan is wrong.
    """
    if plan is not None:
        if (train, validation, seed) != (None, None, None):
            raise _usage("--plan excludes --train, --validation and --seed")
        found = load(plan)
        return SplitRule(found.plan.seed, found.data.train_fraction, found.data.validation_fraction)
    rule = SplitRule(seed or 0, _TRAIN if train is None else train, _VALIDATION if validation is None else validation)
    if rule.train_fraction + rule.validation_fraction >= 1:
        raise _usage("--train and --validation must leave patients for testing (sum below 1)")
    return rule


def _pairs(words: Sequence[str], option: str, form: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for word in words:
        name, equals, value = (part.strip() for part in word.partition("="))
        if not equals or not name:
            raise _wrong(option, f"give {form}")
        if name in found:
            raise _wrong(option, f"{name} is given twice")
        found[name] = value
    return found


def _wrong(option: str, sentence: str) -> click.BadParameter:
    return click.BadParameter(sentence, click.get_current_context(silent=True), param_hint=option)


def _usage(sentence: str) -> click.UsageError:
    return click.UsageError(sentence, click.get_current_context())
