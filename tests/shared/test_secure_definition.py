"""What makes two questions one: digests told again with nothing but hashlib, and what they do and do not depend on."""

import dataclasses
import hashlib
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from summed import CONTEXT, DEFINITION

from shared.messages import Vector
from shared.secure.context import Context
from shared.secure.question import definition, question

SCHEMA = "12" * 32
WEIGHTS = np.array([0.5, -1.0, 3.25], np.float32)


def test_a_definition_is_the_digest_of_run_schema_and_weights_as_little_endian_floats() -> None:
    model = hashlib.sha256(bytes.fromhex("0000003f000080bf00005040")).hexdigest()
    said = f'consilium-secure-definition-1\n{{"run":"r","schema":"{SCHEMA}","weights":"{model}"}}'
    assert definition(SCHEMA, WEIGHTS, "r") == hashlib.sha256(said.encode()).hexdigest()


def test_a_question_is_the_digest_of_what_it_is_about_the_round_of_training_and_the_definition() -> None:
    said = f"consilium-secure-question-1\ntrain 3 {DEFINITION}"
    assert question(CONTEXT, DEFINITION) == hashlib.sha256(said.encode()).hexdigest()
    said = f"consilium-secure-question-1\ntest  {DEFINITION}"
    assert question(dataclasses.replace(CONTEXT, about="test"), DEFINITION) == hashlib.sha256(said.encode()).hexdigest()


@given(st.integers(0, WEIGHTS.size - 1), st.integers(0, 31))
def test_a_model_that_differs_by_any_bit_is_another(parameter: int, bit: int) -> None:
    other = WEIGHTS.copy()
    other.view(np.uint32)[parameter] ^= np.uint32(1 << bit)
    assert definition(SCHEMA, other, "") != definition(SCHEMA, WEIGHTS, "")


def test_schemas_models_and_runs_are_all_told_apart() -> None:
    models = (WEIGHTS, WEIGHTS[::-1].copy(), WEIGHTS[:2], np.zeros(0, np.float32))
    made = {definition(*one) for one in itertools.product((SCHEMA, "34" * 32), models, ("", "r", "r2"))}
    assert len(made) == 2 * 4 * 3


@pytest.mark.parametrize("made", [WEIGHTS.astype(">f4"), np.repeat(WEIGHTS, 2)[::2]], ids=["big-endian", "strided"])
def test_how_a_model_lies_in_memory_does_not_matter(made: Vector) -> None:
    assert definition(SCHEMA, made, "") == definition(SCHEMA, WEIGHTS, "")


CONTEXTS = st.builds(
    Context,
    st.sampled_from(["ab" * 32, "cd" * 32]),
    st.sampled_from(["one", "two"]),
    st.integers(1, 3),
    st.sampled_from(["train", "validation", "test", "personalise"]),
)


@given(CONTEXTS, CONTEXTS, st.sampled_from([DEFINITION, "ef" * 32]))
def test_neither_run_nor_plan_makes_another_question_and_a_round_only_of_training(
    one: Context, other: Context, defined: str
) -> None:
    alike = one.about == other.about and defined == DEFINITION and (one.round == other.round or one.about != "train")
    assert (question(one, DEFINITION) == question(other, defined)) == alike
