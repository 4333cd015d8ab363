"""From a pydantic error to one sentence that a person can act on.

Promises
- The sentence names the key as it stands in the TOML file (``training.steps``), the value, and what was expected.
- An unknown key is answered with the nearest known one where there is a near one, else with the list of known ones.
- One problem at a time: an unknown key first, since a misspelt key is also why another one is missing.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

_LONGEST_VALUE_SHOWN = 60


def describe(error: ValidationError, root: type[BaseModel]) -> tuple[str, str]:
    """Turn the first problem of ``error`` into (sentence, hint)."""
    problems = error.errors(include_url=False)
    unknown = [problem for problem in problems if problem["type"] == "extra_forbidden"]
    problem = (unknown or problems)[0]
    path = _keys(root, problem)
    key = ".".join(str(part) for part in path) or "the file"
    if problem["type"] == "extra_forbidden":
        return f"unknown key {key}", suggest(str(path[-1]), known_keys(root, path[:-1]))
    if problem["type"] == "missing":
        return f"missing key {key}", f"add {key}; see docs/plan.md for what it means"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"{key}: {message}", "change one of the values named"
    return f"{key} = {_shown(problem['input'])}: {message}", f"correct {key}"


def suggest(word: str, known: Iterable[str]) -> str:
    """The nearest of ``known`` as a question, or the whole list."""
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    return f"did you mean {near[0]}?" if near else f"known here: {', '.join(names)}"


def known_keys(root: type[BaseModel], path: tuple[str | int, ...]) -> list[str]:
    """Keys that the table at ``path`` may hold; for a choice of tables, those of every choice."""
    models = [root]
    for part in path:
        if isinstance(part, int):
            continue
        models = [
            found for model in models if part in model.model_fields for found in _models_in(model.model_fields[part])
        ]
    return sorted({name for model in models for name in model.model_fields})


def _keys(root: type[BaseModel], problem: ErrorDetails) -> tuple[str | int, ...]:
    """The keys of the problem's place as they stand in the file.

    Pydantic puts the name of each alternative that it tried between them: the kind of a table, or a type.
    """
    models: list[type[BaseModel]] = [root]
    kept: list[str | int] = []
    location = problem["loc"]
    for place, part in enumerate(location):
        inside = [model.model_fields[str(part)] for model in models if part in model.model_fields]
        unknown = problem["type"] == "extra_forbidden" and place == len(location) - 1
        # Below a leaf: an index, or a key of a free table such as a site's name; types have brackets or dashes.
        free = isinstance(part, int) or (not models and not set("[-") & set(part))
        if inside or unknown or free:
            kept.append(part)
        if inside:
            models = [found for field in inside for found in _models_in(field)]
    return tuple(kept)


def _models_in(field: Any) -> list[type[BaseModel]]:  # noqa: ANN401 - pydantic's FieldInfo holds any annotation
    pending, found = [field.annotation], []
    while pending:
        annotation = pending.pop()
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            found.append(annotation)
        pending.extend(get_args(annotation))
    return found


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST_VALUE_SHOWN else text[: _LONGEST_VALUE_SHOWN - 1] + "…"
