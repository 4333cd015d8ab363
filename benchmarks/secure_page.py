"""Writes the tables of docs/results.md#secure-aggregation: ``python benchmarks/secure_page.py``.

What ``python benchmarks/run.py --only secure`` has left in results/secure.json becomes text between the two marks on
the page; all else on it stays. Of each federation the largest message is shown, the middle site's time, and the
coordinator's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from processes import HERE
from rows import replaced
from secure import FLOAT32, RESULTS

PAGE = HERE.parent / "docs" / "results.md"
_MEGA = 1e6
_HEAD = (
    "parameters",
    "sites",
    "dropped",
    "a site, s: float32 / exact / masked",
    "coordinator, s: float32 / exact / masked",
    "a site sends, MB: float32 / exact / masked",
    "masked / float32",
    "papers to a site, kB",
)
_FLOWER = ("parameters", "clients", "dropped", "a client, s", "server, s", "a client sends, MB", "sent / float32")


def main() -> None:
    write(RESULTS, PAGE)


def write(kept: Path, page: Path) -> None:
    """Put the tables of ``kept`` into ``page``."""
    document = json.loads(kept.read_text(encoding="utf-8"))
    page.write_text(replaced(page.read_text(encoding="utf-8"), block(document)), encoding="utf-8")


def block(document: Mapping[str, Any]) -> str:
    """All that stands between the marks."""
    tables = [_remark(document), table(_HEAD, _lines(document["cells"]))]
    if document["flower"]:
        tables += ["Flower's legacy SecAgg+, by the same measure:", table(_FLOWER, _flower(document["flower"]))]
    return "\n\n".join(tables)


def table(head: Sequence[str], lines: Iterator[Sequence[str]]) -> str:
    """Markdown."""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *lines))


def _remark(document: Mapping[str, Any]) -> str:
    masked, stream = (median(document["speed"][name]) for name in ("masked", "stream"))
    load, peak = document["load"], max(cell["peak_mib"] for cell in document["cells"]) / 1024
    return (
        f"Masks are made and added at {masked:.1f} GB/s of one core (AES-256-CTR alone: {stream:.1f}). All times are "
        f"CPU seconds of one core, taken under a load of {min(load):.1f} to {max(load):.1f}; the largest federation "
        f"took {peak:.1f} GiB."
    )


def _lines(cells: Sequence[Mapping[str, Any]]) -> Iterator[Sequence[str]]:
    for cell in cells:
        sides = (cell["float32"], cell["exact"])
        for number, found in enumerate(cell["masked"]):
            # Plain sums are measured with all sites.
            beside = [*sides, found] if number == 0 else [found]
            yield (
                f"{cell['parameters'] / _MEGA:g} M",
                str(cell["sites"]),
                f"{found['dropped']:.0f}",
                *(" / ".join(_seconds(side[name]) for side in beside) for name in ("site_s", "coordinator_s")),
                " / ".join(f"{side['up'] / _MEGA:.2f}" for side in beside),
                f"{found['up'] / cell['parameters'] / FLOAT32:.3f}",
                f"{found['papers_down'] / 1000:.1f}",
            )


def _flower(cells: Sequence[Mapping[str, Any]]) -> Iterator[Sequence[str]]:
    for cell in cells:
        yield (
            f"{cell['parameters'] / _MEGA:g} M",
            str(cell["sites"]),
            f"{cell['dropped']:.0f}",
            _seconds(cell["site_s"]),
            _seconds(cell["coordinator_s"]),
            f"{cell['up'] / _MEGA:.2f}",
            f"{cell['up'] / cell['parameters'] / FLOAT32:.3f}",
        )


def _seconds(value: float) -> str:
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"


if __name__ == "__main__":
    main()
