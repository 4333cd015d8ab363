"""Tables of everything that the data doctor can find, from ``client/data/doctor/checks``.

Promises
- Every finding has a row, by theme and in the order of the code: when it is found, from the table that opens its
  module, and what to do, from the call that makes it. One that has only one of the two is an error.
- Bounds are shown as numbers, not under the names that they have in the code.

Words of the page around them are left to ``docs/data-doctor.md``.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from types import ModuleType

from client.data.doctor import checks
from docs.parts.syntax import argument, words

THEMES = ("intake", "identity", "patients", "labels", "masks", "geometry", "intensity", "identifying")
"""Modules of ``checks``, in the order of the page."""

_NAMED = re.compile(r" \(``(?:\w+\.)*(?P<aside>[a-z_]+)``\)|``(?:\w+\.)*(?P<name>\w+)``")
_HINT_AT = 4


@dataclass(frozen=True)
class Row:
    """One finding: its code, how grave it is, when it is found, what to do about it."""

    code: str
    severity: str
    found: str
    hint: str


def finding_tables() -> str:
    """A heading and a table for each theme; raises ``KeyError`` where a module's text and its calls differ."""
    parts = []
    for theme in THEMES:
        module = importlib.import_module(f"{checks.__name__}.{theme}")
        question = (inspect.getdoc(module) or "").partition("\n")[0]
        lines = ["| finding | severity | found where | what to do |", "|---|---|---|---|"]
        lines += [f"| `{row.code}` | {row.severity} | {row.found} | {row.hint} |" for row in rows_of(module)]
        parts.append(f"### {question}\n\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


def rows_of(module: ModuleType) -> list[Row]:
    """The findings of one module of checks, in the order of the table that opens it."""
    table = list(_cells((inspect.getdoc(module) or "").splitlines()))
    hints = _hints(ast.parse(inspect.getsource(module)))
    differ = {code for code, *_ in table} ^ hints.keys()
    if differ:
        raise KeyError(f"{module.__name__} opens with other findings than it makes: {sorted(differ)}")
    valued = partial(_NAMED.sub, partial(_value, module))
    return [Row(code, severity, valued(found).replace("|", "\\|"), hints[code]) for code, severity, found in table]


def _cells(lines: list[str]) -> Iterator[tuple[str, ...]]:
    """Rows of a table between lines of ``===``, below its header; what goes on in the next line is joined."""
    rules = [number for number, line in enumerate(lines) if re.fullmatch(r"=+( +=+)+", line)]
    starts = [found.start() for found in re.finditer("=+", lines[rules[0]])]
    ends = [*starts[1:], None]
    rows: list[list[str]] = []
    for line in lines[rules[1] + 1 : rules[2]]:
        cells = [line[start:end].strip() for start, end in zip(starts, ends, strict=True)]
        if cells[0]:
            rows.append(cells)
        else:
            rows[-1] = [f"{before} {after}".strip() for before, after in zip(rows[-1], cells, strict=True)]
    return map(tuple, rows)


def _value(module: ModuleType, found: re.Match[str]) -> str:
    """A bound as a number; nothing for the name of a function or field that is added in brackets."""
    if found["aside"]:
        return ""
    bound = getattr(module, found["name"], None)
    return f"{bound:g}" if isinstance(bound, int | float) else f"`{found['name']}`"


def _hints(tree: ast.Module) -> Mapping[str, str]:
    """What to do by code: of each call of ``Finding``, and of each call that hands its code on to one."""
    made: dict[str, str] = {}
    handed: dict[str, str] = {}
    for function in (node for node in tree.body if isinstance(node, ast.FunctionDef)):
        for call in _calls(function):
            if isinstance(call.func, ast.Name) and call.func.id == "Finding":
                hint, code = words(argument(call, "hint", _HINT_AT)), call.args[0]
                made |= {words(code): hint} if isinstance(code, ast.Constant) else {}
                handed |= {function.name: hint} if isinstance(code, ast.Name) else {}
    for call in _calls(tree):
        if isinstance(call.func, ast.Name) and call.func.id in handed:
            made[words(call.args[0])] = handed[call.func.id]
    return made


def _calls(tree: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))
