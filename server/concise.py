"""What of a run's results stands in ``results.json``, and how the file is laid out.

Promises
- The final model keeps every metric. Of all other models (baselines, personalised ones, every model at every site) and
  of differences the main metrics stay, those of ``server.report.metrics.MAIN`` and the headline: a run has as many
  blocks of those as it has sites, and most metrics are by class or by size of lesion.
- Nothing is rounded, and doing it twice changes nothing.
- ``laid_out`` is JSON that a person can read and a diff can show: sorted keys, one line for a value that holds no
  further one, such as an interval, a participant list or a curve.

Leaves to others: the numbers, the file itself and ``details.json``, which holds what is left out (``server.results``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from server.report.metrics import MAIN

_ABOVE_METRICS = {"central": 0, "local": 1, "at_home": 2, "elsewhere": 2, "cross_site": 2, "cross_site_validation": 2}
"""Of ``baselines``: how many levels of names (of sites, say) stand above the metrics."""
_BLOCK = {"pooled": 0, "sites": 1, "macro": 0, "worst": 0, "undetermined": 0}
_INDENT = "  "


def concise(document: Mapping[str, Any]) -> dict[str, Any]:
    """``document`` with the main metrics alone where there are many models."""
    wanted = {*MAIN, document["headline"]}
    found = dict(document)
    for part, levels in (("baselines", _ABOVE_METRICS), ("personalised", _BLOCK)):
        if part in document:
            found[part] = _parts(document[part], levels, wanted)
    if "differences" in document:
        found["differences"] = [one | {"metrics": _main(one["metrics"], 0, wanted)} for one in document["differences"]]
    return found


def laid_out(value: Any) -> str:  # noqa: ANN401 - JSON is as deep as it is
    """``value`` as the text of a JSON file; raises ``ValueError`` for a number that is not finite."""
    return _laid_out(value, "") + "\n"


def _parts(said: Mapping[str, Any], levels: Mapping[str, int], wanted: set[str]) -> dict[str, Any]:
    return {name: _main(inner, levels[name], wanted) if name in levels else inner for name, inner in said.items()}


def _main(metrics: Mapping[str, Any], above: int, wanted: set[str]) -> dict[str, Any]:
    if above:
        return {name: _main(inner, above - 1, wanted) for name, inner in metrics.items()}
    return {name: found for name, found in metrics.items() if name in wanted}


def _laid_out(value: Any, indent: str) -> str:  # noqa: ANN401 - JSON is as deep as it is
    inside = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    if not any(isinstance(inner, (Mapping, list)) for inner in inside):
        return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)
    deeper = indent + _INDENT
    if isinstance(value, Mapping):
        lines = [f"{json.dumps(key, ensure_ascii=False)}: {_laid_out(value[key], deeper)}" for key in sorted(value)]
    else:
        lines = [_laid_out(inner, deeper) for inner in value]
    opened, closed = "{}" if isinstance(value, Mapping) else "[]"
    return f"{opened}\n{deeper}" + f",\n{deeper}".join(lines) + f"\n{indent}{closed}"
