"""Errors say what and what to do, and cross process borders whole."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import pytest

from shared import errors

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.ConsiliumError)]


def test_the_tree_in_the_docstring_is_the_tree_in_the_code() -> None:
    drawn = {line.split()[1] for line in (errors.__doc__ or "").splitlines() if "──" in line}
    assert drawn == {kind.__name__ for kind in KINDS} - {"ConsiliumError"}


def test_no_two_kinds_share_a_code() -> None:
    assert len({kind.code for kind in KINDS}) == len(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_keeps_sentence_hint_and_code(kind: type[errors.ConsiliumError]) -> None:
    error = kind("3 of 4 failed", hint="look", code="special")
    assert (str(error), error.sentence, error.hint, error.code) == ("3 of 4 failed", "3 of 4 failed", "look", "special")
    assert kind("x").code == kind.code


def raise_case_error() -> None:
    raise errors.CaseError("mask has 3 axes", hint="give 2", code="mask-shape")


def test_an_error_from_another_process_arrives_with_its_hint_and_code() -> None:
    pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
    with pool, pytest.raises(errors.CaseError) as caught:
        pool.submit(raise_case_error).result()
    assert (caught.value.sentence, caught.value.hint, caught.value.code) == ("mask has 3 axes", "give 2", "mask-shape")
