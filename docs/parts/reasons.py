"""Tables of every stable reason (``code``) that the code can give, found in its syntax trees.

Promises
- A reason is found where it is raised: ``SomeError("…", code="…")``, or a call of a function or dataclass of ours whose
  parameter ``code`` is given a literal. What is computed is not found; there is a test that nothing else is computed.
- Sentences are shown as they stand in the code, with … for numbers.

What a reason leads to is said by the error that carries it (``shared.errors``).
"""

from __future__ import annotations

import ast
import inspect
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from docs.parts.syntax import argument, words
from shared import errors
from shared.errors import ConsiliumError

ROOT = Path(__file__).parents[2]
PACKAGES = ("shared", "client", "server", "simulations")
QUARANTINED, REFUSAL = "Quarantined", "Refusal"
KINDS: Mapping[str, type[ConsiliumError]] = {
    name: kind for name, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, ConsiliumError)
}

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, order=True)
class Reason:
    """A code, the error that carries it, the file it is given in, and the sentence that goes with it."""

    code: str
    kind: str
    file: str
    sentence: str


@dataclass(frozen=True)
class _Carrier:
    """A function or dataclass with a parameter ``code``: where that stands among the arguments, and what it makes."""

    code_at: int
    sentence_at: int | None
    kind: str


def reason_tables() -> str:
    """A table for each error, in alphabetical order of their reasons."""
    by_kind: dict[str, dict[str, list[Reason]]] = defaultdict(lambda: defaultdict(list))
    for reason in sorted(set(found())):
        by_kind[reason.kind][reason.code].append(reason)
    parts = []
    for name, kind in KINDS.items():
        if by_kind[name]:
            meaning = (kind.__doc__ or "").partition("\n")[0].replace("``", "`")
            parts.append(f"### {name}\n\n{meaning} Code where none is given: `{kind.code}`.\n\n{_table(by_kind[name])}")
    return "\n".join(parts)


def _table(by_code: Mapping[str, list[Reason]]) -> str:
    lines = ["| code | what it says | where |", "|---|---|---|"]
    for code, reasons in by_code.items():
        said = "; ".join(dict.fromkeys(one.sentence for one in reasons if one.sentence)) or "(see the code)"
        where = ", ".join(dict.fromkeys(f"`{one.file}`" for one in reasons))
        lines.append(f"| `{code}` | {said} | {where} |")
    return "\n".join(lines) + "\n"


def found() -> Iterator[Reason]:
    """Every reason of the four packages."""
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in _sources()}
    for path, tree in trees.items():
        own = dict(_carriers(tree))
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            reason = _reason(call, path, own)
            if reason is not None:
                yield reason


def _sources() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def _reason(call: ast.Call, path: Path, own: Mapping[str, _Carrier]) -> Reason | None:
    name = call.func.id if isinstance(call.func, ast.Name) else ""
    carrier = own.get(name) or _SHARED.get(name) or (_Carrier(-1, 0, name) if name in KINDS else None)
    if carrier is None:
        return None
    code = argument(call, "code", carrier.code_at)
    if not isinstance(code, ast.Constant) or not isinstance(code.value, str):
        return None
    sentence = argument(call, "sentence", carrier.sentence_at)
    return Reason(code.value, carrier.kind, path.relative_to(ROOT).as_posix(), words(sentence))


_SHARED: Mapping[str, _Carrier] = {
    "refusing": _Carrier(0, 1, "CaseError"),
    QUARANTINED: _Carrier(1, 2, "CaseError"),
    REFUSAL: _Carrier(0, 1, "ProtocolError"),
}
"""Carriers that other modules import; those of a module's own are found by ``_carriers``."""


def _carriers(tree: ast.Module) -> Iterator[tuple[str, _Carrier]]:
    """Functions of a module that put their parameter ``code`` into an error."""
    for function in (node for node in ast.walk(tree) if isinstance(node, Function)):
        names = [one.arg for one in (*function.args.posonlyargs, *function.args.args)]
        made = [
            call.func.id
            for call in ast.walk(function)
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name)
        ]
        kinds = [name for name in made if name in KINDS]
        if "code" in names and kinds:
            sentence = next((names.index(name) for name in ("sentence", "what") if name in names), None)
            yield function.name, _Carrier(names.index("code"), sentence, kinds[0])
