"""Fill the generated parts of the documentation: ``make docs``, or ``python -m docs.build`` from the repository root.

Promises
- What the code knows (keys of the plan, messages, the table of rounds, reasons, findings, help texts, scenarios) is
  taken from the code. ``tests/style/test_docs.py`` fails when a page says something else.
- A generated part stands between ``<!-- generated: NAME -->`` and ``<!-- end -->``; the rest of a page is left alone.
- Running twice changes nothing, and nothing depends on the machine, the clock or the order of a dictionary.

What the parts say is left to ``docs/parts``.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from client.settings import template
from docs.parts import deidentification, findings, keys, messages, reasons
from server import rounds_page
from simulations import scenario

ROOT = Path(__file__).parents[1]
COLUMNS = 80
_PART = re.compile(r"(<!-- generated: (?P<name>[^>]+?) -->\n).*?(<!-- end -->)", re.DOTALL)


def help_of(*command: str) -> str:
    """What ``COMMAND --help`` prints on a terminal of 80 columns, as a block of text; the command must be installed."""
    script = Path(sys.executable).with_name(command[0])
    shown = subprocess.run(  # noqa: S603 - our own command
        [script, *command[1:], "--help"],
        env={**os.environ, "COLUMNS": str(COLUMNS), "TERM": "dumb"},
        capture_output=True,
        text=True,
        check=True,
    )
    return f"```text\n{shown.stdout.rstrip()}\n```\n"


def scenario_table() -> str:
    """The built-in scenarios: what they train, and on what."""
    lines = ["| scenario | what it is | images | network |", "|---|---|---|---|"]
    for name in scenario.names():
        found = scenario.load(name)
        images = "generated" if found.setting.source.kind == "phantoms" else "`--data FOLDER`"
        lines.append(f"| `{name}` | {found.setting.title} | {images} | `{found.plan.model.name}` |")
    return "\n".join(lines) + "\n"


PARTS: Mapping[str, Callable[[], str]] = {
    "help consilium-sim": lambda: help_of("consilium-sim"),
    "help consilium-sim run": lambda: help_of("consilium-sim", "run"),
    "help consilium-site": lambda: help_of("consilium-site"),
    "help consilium-site ingest": lambda: help_of("consilium-site", "ingest"),
    "help consilium-site doctor": lambda: help_of("consilium-site", "doctor"),
    "help consilium-site freeze": lambda: help_of("consilium-site", "freeze"),
    "site settings": lambda: f"```toml\n{template('aachen', 'none')}```\n",
    "help consilium-server": lambda: help_of("consilium-server"),
    "plan keys": keys.plan_tables,
    "scenario keys": keys.scenario_table,
    "networks": keys.network_table,
    "requests": messages.request_table,
    "replies": messages.reply_table,
    "rounds": rounds_page.as_markdown,
    "reasons": reasons.reason_tables,
    "kept attributes": deidentification.kept_table,
    "kept dates": deidentification.dates_table,
    "findings": findings.finding_tables,
    "scenarios": scenario_table,
}
"""Name of a generated part -> its text, which ends with a newline."""


def pages() -> list[Path]:
    """Every page that may hold a generated part."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def filled(text: str) -> str:
    """A page with its generated parts made anew; raises ``KeyError`` for a part that nobody makes."""
    return _PART.sub(lambda found: f"{found[1]}{PARTS[found['name']]()}{found[3]}", text)


def main() -> None:
    """Rewrite the pages that are out of date and name them."""
    for page in pages():
        before = page.read_text(encoding="utf-8")
        after = filled(before)
        if after != before:
            page.write_text(after, encoding="utf-8")
            sys.stdout.write(f"rewrote {page.relative_to(ROOT)}\n")


if __name__ == "__main__":
    main()
