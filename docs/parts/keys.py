"""Tables of the keys that a plan or a scenario may hold, and of the networks that a plan may name.

Promises
- Types, bounds and defaults come from the pydantic models, by way of their JSON schema. Nothing of them is repeated.
- What a key means is written by hand in ``keys.toml``. A key without a meaning, and a meaning without a key, is an
  error.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.models import ARCHITECTURES
from shared.plan import Plan
from simulations.scenario import Setting

MEANINGS = Path(__file__).with_name("keys.toml")

Schema = Mapping[str, Any]


@dataclass(frozen=True)
class Key:
    """One row: a key by its dotted name, or one of the alternatives that a table may be, which explains itself."""

    name: str
    schema: Schema
    default: str = ""
    alternative: str = ""


def plan_tables() -> str:
    """A heading and a table for each section of the plan, in the order of the file."""
    meanings = tomllib.loads(MEANINGS.read_text(encoding="utf-8"))
    root = Plan.model_json_schema()
    defs, parts = root["$defs"], []
    for name, field in root["properties"].items():
        section = _resolved(field, defs)
        needed = "Required." if name in root["required"] else "May be left out."
        keys = list(_keys("", section, defs))
        described = _table(keys, _flat(meanings.get(name, {})), f"[{name}]", defs)
        parts.append(f"### [{name}]\n\n{_purpose(section)} {needed}\n\n{described}")
    _refuse_stale(meanings, {*root["properties"], "scenario"})
    return "\n".join(parts)


def scenario_table() -> str:
    """The table of ``[scenario]``, which stands beside the plan in a scenario's file."""
    meanings = tomllib.loads(MEANINGS.read_text(encoding="utf-8"))
    root = Setting.model_json_schema()
    return _table(list(_keys("", root, root["$defs"])), _flat(meanings["scenario"]), "[scenario]", root["$defs"])


def network_table() -> str:
    """The networks by name: what they predict, their channels, and the edges they take."""
    lines = ["| `model.name` | one prediction per | default channels | edges of image and patch |", "|---|---|---|---|"]
    for name, row in ARCHITECTURES.items():
        factor = row.reduction(row.widths)
        edges = f"divisible by {factor}" if row.edges == "divisible" else f"at least {factor}"
        per = "voxel" if row.output == "dense" else "image"
        lines.append(f"| `{name}` | {per} | {f'`{list(row.widths)}`' if row.widths else 'fixed'} | {edges} |")
    return "\n".join(lines) + "\n"


def _keys(prefix: str, table: Schema, defs: Schema) -> Iterator[Key]:
    """Every key of a table and of the tables in it; alternatives of a table one after the other."""
    for name, field in table.get("properties", {}).items():
        if "const" in field:
            continue
        yield Key(prefix + name, field, "**required**" if name in table.get("required", ()) else _default(field))
        for inner in _inner_tables(field, defs):
            kind = inner["properties"].get("kind", {}).get("const")
            if kind:
                yield Key(prefix + name, inner, alternative=kind)
            yield from _keys(f"{prefix}{name}.", inner, defs)


def _inner_tables(field: Schema, defs: Schema) -> list[Schema]:
    found = [_resolved(one, defs) for one in _alternatives(field)]
    return [one for one in found if one.get("type") == "object" and "properties" in one]


def _alternatives(field: Schema) -> Sequence[Schema]:
    options: Sequence[Schema] = field.get("anyOf") or field.get("oneOf") or [field]
    return [one for one in options if one.get("type") != "null"]


def _resolved(field: Schema, defs: Schema) -> Schema:
    (option, *others) = _alternatives(field)
    if others or "$ref" not in option:
        return field
    found: Schema = defs[option["$ref"].rpartition("/")[2]]
    return found


def _table(keys: Sequence[Key], meanings: Mapping[str, str], section: str, defs: Schema) -> str:
    _refuse_stale(meanings, {key.name for key in keys}, section)
    lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
    lines += [_row(key, meanings[key.name], defs) for key in keys]
    return "\n".join(lines) + "\n"


def _row(key: Key, meaning: str, defs: Schema) -> str:
    if key.alternative:
        return f'| `{key.name} = {{ kind = "{key.alternative}" }}` | | | {_plain(key.schema["description"])} |'
    return f"| `{key.name}` | {_type(key.schema, defs)} | {key.default} | {meaning} |"


def _refuse_stale(meanings: Mapping[str, object], known: set[str], where: str = "the plan") -> None:
    if meanings.keys() != known:
        raise KeyError(f"keys.toml and {where} differ in {sorted(meanings.keys() ^ known)}")


def _flat(meanings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """``{"fixed_point": {"range": …}}`` as ``{"fixed_point.range": …}``; ``_`` is the meaning of the table itself."""
    flat: dict[str, str] = {}
    for name, value in meanings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix.rstrip(".") if name == "_" else prefix + name] = value
    return flat


def _type(field: Schema, defs: Schema) -> str:
    shown = dict.fromkeys(_one_type(_resolved(one, defs), defs) for one in _alternatives(field))
    return " or ".join(shown)


def _one_type(field: Schema, defs: Schema) -> str:
    if "enum" in field or "const" in field:
        return " ".join(f"`{json.dumps(value)}`" for value in field.get("enum", [field.get("const")]))
    shown: Mapping[str, Callable[[], str]] = {
        "array": lambda: f"list{_length(field)}, each {_type(field['items'], defs)}",
        "object": lambda: _table_type(field, defs),
        "string": lambda: f"text, `{field['pattern']}`" if "pattern" in field else "text",
        "boolean": lambda: "true or false",
        "integer": lambda: f"integer{_bounds(field)}",
        "number": lambda: f"number{_bounds(field)}",
    }
    return shown[field["type"]]()


def _table_type(field: Schema, defs: Schema) -> str:
    free = field.get("additionalProperties")
    return f"table: name = {_type(free, defs)}" if isinstance(free, Mapping) else "table"


def _length(field: Schema) -> str:
    least, most = field.get("minItems"), field.get("maxItems")
    if least is None:
        return ""
    return f" of {least} to {most}" if most else f" of {least} or more"


def _bounds(field: Schema) -> str:
    words = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    parts = [f"{sign} {_number(field[name])}" for name, sign in words.items() if name in field]
    return f" {', '.join(parts)}" if parts else ""


def _number(value: float) -> str:
    return "2⁶³" if value == 2**63 else f"{value:g}" if abs(value) < 1e6 else str(value)


def _default(field: Schema) -> str:
    value = field.get("default")
    if value is None:
        return "absent"
    if isinstance(value, Mapping):
        return f'`{{ kind = "{value["kind"]}" }}`' if "kind" in value else "as below" if value else "empty"
    return f"`{json.dumps(value)}`"


def _purpose(section: Schema) -> str:
    """What a section is for: its docstring after the name."""
    text = _plain(section["description"]).partition(": ")[2]
    return text[:1].upper() + text[1:]


def _plain(docstring: str) -> str:
    return " ".join(docstring.split()).replace("``", "`")
