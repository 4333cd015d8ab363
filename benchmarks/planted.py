"""Are planted faults found, and honest hospitals left in peace, in the scenarios that ship?

    python benchmarks/planted.py --breast FOLDER --retina FOLDER --out planted.jsonl     # the table of docs/results.md
    python benchmarks/planted.py --show planted.jsonl                                    # print it again

Every line is one run of ``consilium-sim run SCENARIO --cross-site``, shortened, with ``scenario.fault`` where one is
planted. Each run has a seed of its own, so its own split, initial weights and draws; of ``demo`` also its own people.
A run that is in the file already is not made again. Without a folder, its scenario is left out.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from shared.evaluation.label_quality import LEVEL
from simulations.duplicates import CODE
from simulations.progress import Silent
from simulations.run import Order, run
from simulations.scenario import load

_SHORT = {
    "demo": ("plan.rounds=5", "personalisation.steps=1", "scenario.doctor_pages=false"),
    "breast": ("plan.rounds=12", "personalisation.steps=1", "preprocessing.size=[64, 64]"),
    "retina": ("plan.rounds=5", "personalisation.steps=1", "preprocessing.size=[256, 256]"),
}
_SHIFT_PX = {"demo": 4, "retina": 12}
_ONE_STEP = ("plan.rounds=1", "training.steps=1", "training.warmup_rounds=0")
"""Where patients are compared and no model is asked."""

_PLANTED: Mapping[str, Mapping[str, Sequence[tuple[str, int]]]] = {
    "demo": {
        "images-inverted": (("north", 201), ("east", 202), ("west", 203)),
        "masks-shifted": (("east", 204), ("south", 205), ("west", 206)),
        CODE: (("east", 207), ("south", 208), ("west", 209)),
    },
    "breast": {
        "labels-flipped": (("busbra_ge_logiq5", 211), ("busbra_toshiba_aplio300", 212), ("busi_baheya", 213)),
        "images-inverted": (("busbra_ge_logiq7", 214), ("busbra_toshiba_aplio300", 215), ("busi_baheya", 216)),
        "one-class": (("busbra_ge_logiq5", 217), ("busbra_toshiba_aplio300", 218), ("busi_baheya", 219)),
        CODE: (("busbra_ge_logiq7", 220), ("busbra_toshiba_aplio300", 221), ("busi_baheya", 222)),
    },
    "retina": {
        "images-inverted": (("drive", 231), ("hrf", 232), ("stare", 233)),
        "masks-shifted": (("chase_db1", 234), ("drive", 235), ("hrf", 236)),
        CODE: (("drive", 237), ("hrf", 238), ("stare", 239)),
    },
}
_GUESTS_FROM = {"demo": "north", "breast": "busbra_ge_logiq5", "retina": "chase_db1"}
_HONEST = {"demo": (301, 302, 303), "breast": (311, 312, 313, 314), "retina": (321, 322, 323)}


@dataclass(frozen=True)
class Trial:
    """One run: where a fault is planted, or ``kind`` "" for honest hospitals."""

    scenario: str
    seed: int
    kind: str = ""
    site: str = ""

    def changes(self) -> tuple[str, ...]:
        """What is set in the scenario."""
        short = ("evaluation.every=1000", *_SHORT[self.scenario])
        if not self.kind:
            return short
        planted: dict[str, object] = {"kind": self.kind, "site": self.site}
        if self.kind == CODE:
            return (*short, *_ONE_STEP, _fault(planted | {"other": _GUESTS_FROM[self.scenario], "patients": 4}))
        return (*short, _fault(planted | {"by": _SHIFT_PX.get(self.scenario, 0)}))


@dataclass(frozen=True)
class Made:
    """What a run found: findings as in results.json, and the checks of its data that are nearest to one."""

    trial: Trial
    findings: tuple[dict[str, Any], ...]
    checks: tuple[dict[str, Any], ...]

    @property
    def named(self) -> bool:
        """Whether the planted fault stands among the findings, at its site."""
        return any(self._is_planted(one) for one in self.findings)

    @property
    def others(self) -> list[str]:
        """Findings that nobody planted."""
        return [f"{one['code']} at {one['site']}" for one in self.findings if not self._is_planted(one)]

    def _is_planted(self, one: Mapping[str, Any]) -> bool:
        trial = self.trial
        sites = {trial.site, _GUESTS_FROM[trial.scenario]} if trial.kind == CODE else {trial.site}
        return one["code"] == trial.kind and one["site"] in sites


def _fault(fields: Mapping[str, object]) -> str:
    return "scenario.fault={ " + ", ".join(f"{name} = {json.dumps(value)}" for name, value in fields.items()) + " }"


def trials(scenarios: Sequence[str]) -> Iterator[Trial]:
    """All runs of ``scenarios``: planted ones, then honest ones."""
    for name in scenarios:
        yield from (Trial(name, seed, kind, site) for kind, at in _PLANTED[name].items() for site, seed in at)
    for name in scenarios:
        yield from (Trial(name, seed) for seed in _HONEST[name])


def made(trial: Trial, data: Path | None) -> Made:
    """Run ``trial`` in a folder that does not stay."""
    with tempfile.TemporaryDirectory() as folder:
        order = Order(Path(folder) / "run", data, workers=1, cross_site=True)
        out = run(load(trial.scenario, trial.changes(), trial.seed), order, Silent())
        found = json.loads((out / "results.json").read_text(encoding="utf-8"))["checks"]
    return Made(trial, tuple(found["findings"]), tuple(found["data"]))


def read(path: Path) -> list[Made]:
    """The runs on file."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    rows = [json.loads(line) for line in lines]
    return [Made(Trial(**row["trial"]), tuple(row["findings"]), tuple(row["checks"])) for row in rows]


def table(runs: Sequence[Made]) -> str:
    """Markdown: a line for every planted run, and one for the honest runs of each scenario."""
    lines = ["| data | planted | at | seed | named? | p | other findings |", "|---" * 7 + "|"]
    for one in (one for one in runs if one.trial.kind):
        trial, said = one.trial, "yes" if one.named else "**no**"
        others = ", ".join(one.others) or "none"
        lines.append(
            f"| {trial.scenario} | {trial.kind} | {trial.site} | {trial.seed} | {said} | {_p(one)} | {others} |"
        )
    for name in _HONEST:
        if honest := [one for one in runs if one.trial.scenario == name and not one.trial.kind]:
            alarms = sum(bool(one.findings) for one in honest)
            seeds = ", ".join(str(one.trial.seed) for one in honest)
            lines.append(
                f"| {name} | nothing, {len(honest)} runs | | {seeds} | | {_smallest(honest)} | {alarms} alarms |"
            )
    return "\n".join(lines)


def _p(one: Made) -> str:
    """Corrected p of the planted fault's check, found or not; duplicates are not drawn."""
    own = [of["adjusted"] for of in one.checks if (of["site"], of["code"]) == (one.trial.site, one.trial.kind)]
    return f"{own[0]:.2g}" if own else ""


def _smallest(runs: Sequence[Made]) -> str:
    return f"smallest {min(of['adjusted'] for one in runs for of in one.checks):.2g} (level {LEVEL:g})"


def main() -> None:
    """Make the runs that are missing, and print the table."""
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name in ("breast", "retina"):
        arguments.add_argument(f"--{name}", type=Path, help="folder with manifest.csv")
    arguments.add_argument("--out", type=Path, default=Path("planted.jsonl"), help="one line for each run")
    arguments.add_argument("--show", type=Path, help="print the table of this file and make no run")
    asked = arguments.parse_args()
    if asked.show is None:
        folders = {"demo": None} | {name: of for name in ("breast", "retina") if (of := getattr(asked, name))}
        known = {one.trial for one in read(asked.out)}
        for trial in trials(list(folders)):
            if trial not in known:
                with asked.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(asdict(made(trial, folders[trial.scenario]))) + "\n")
    print(table(read(asked.show or asked.out)))


if __name__ == "__main__":
    main()
