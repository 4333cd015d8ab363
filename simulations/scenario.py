"""A scenario: a plan, and where a simulation gets its hospitals from.

Promises
- A scenario is one TOML file: ``[scenario]`` says what is simulated; every other table is the plan, unchanged, so that
  the plan's digest is the one that production would sign.
- A name stands for a file in ``simulations/scenarios``; anything with a ``.toml`` ending is a path.
- ``key=value`` overrides are parsed as TOML and checked like the file itself; wrong ones name the nearest right one.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.errors import PlanError, ScenarioError
from shared.plan import Plan, from_document
from shared.plan_errors import describe, suggest
from simulations.faults import Fault

BUILT_IN = Path(__file__).parent / "scenarios"


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Phantoms(_Table):
    """Synthetic hospitals, written as DICOM and read back like real ones."""

    kind: Literal["phantoms"]
    hospitals: Annotated[int, Field(ge=1, le=1000)] = 4
    size: Literal["demo", "tiny"] = "demo"


class Manifest(_Table):
    """A real folder with a ``manifest.csv``; give it with ``--data``."""

    kind: Literal["manifest"]
    patient_columns: tuple[str, ...] = ("patient",)
    subgroup_columns: tuple[str, ...] = ()
    drop_labels: tuple[str, ...] = ()


class Partition(_Table):
    """How cases are given to sites: as they are, or pooled and dealt anew."""

    kind: Literal["natural", "iid", "dirichlet", "quantity"] = "natural"
    sites: Annotated[int, Field(ge=2)] | None = None
    alpha: Annotated[float, Field(gt=0)] = 0.5


class Setting(_Table):
    """The ``[scenario]`` table."""

    title: str
    source: Annotated[Phantoms | Manifest, Field(discriminator="kind")]
    partition: Partition = Partition()
    baselines: bool = False
    """Whether ``run`` also trains each site alone and all data pooled; ``baselines`` always does."""
    cross_site: bool = False
    """Whether ``run`` also measures each site's own model at every site, and tests the sites' data with them."""
    fault: Fault | None = None
    """What is planted into one hospital before anything is read, to see whether it is found."""
    overlays: Literal["never", "synthetic"] = "synthetic"
    doctor_pages: bool = False
    """Whether each site's data doctor also writes its report, with thumbnails, as it would at a hospital."""


@dataclass(frozen=True)
class Scenario:
    """A setting and the plan that is run in it."""

    name: str
    setting: Setting
    plan: Plan


def names() -> list[str]:
    """Built-in scenarios, sorted."""
    return sorted(path.stem for path in BUILT_IN.glob("*.toml"))


def load(name: str, overrides: tuple[str, ...] = (), seed: int | None = None) -> Scenario:
    """Read a scenario by name or path.

    Args:
        name: a built-in name, or a path that ends in ``.toml``.
        overrides: ``table.key=value`` with a TOML value; a bare word is taken as a string.
        seed: replaces ``plan.seed`` if given.

    Raises:
        ScenarioError, PlanError: one sentence for the first thing that is wrong.
    """
    path = Path(name) if name.endswith(".toml") else BUILT_IN / f"{name}.toml"
    document = _read(path, name)
    for override in overrides:
        _set(document, override)
    if seed is not None:
        document.setdefault("plan", {})["seed"] = seed
    return Scenario(path.stem, _setting(document.pop("scenario", None)), from_document(document))


def _read(path: Path, name: str) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        hint = suggest(name, names()) if not name.endswith(".toml") else "check the path"
        raise ScenarioError(f"there is no scenario {name}", hint=hint) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ScenarioError(f"scenario {name} cannot be read: {type(error).__name__}", hint="check the file") from None
    except tomllib.TOMLDecodeError as error:
        raise ScenarioError(f"scenario {name} is not valid TOML: {error}", hint="check the line named") from None


def _setting(table: object) -> Setting:
    if table is None:
        raise ScenarioError("the file has no [scenario] table", hint="add [scenario] with title and source")
    try:
        return Setting.model_validate(table)
    except ValidationError as error:
        sentence, hint = describe(error, Setting)
        raise ScenarioError(f"[scenario] {sentence}", hint=hint) from None


def _set(document: dict[str, Any], override: str) -> None:
    dotted, found, value = override.partition("=")
    keys = dotted.strip().split(".")
    if not found or len(keys) < 2 or not all(keys):
        raise PlanError(f"--set {override} is not of the form table.key=value", hint="for example training.steps=10")
    table = document
    for key in keys[:-1]:
        table = table.setdefault(key, {})
        if not isinstance(table, dict):
            raise PlanError(
                f"--set {dotted}: {key} is not a table", hint="name a key of the plan, such as training.steps"
            )
    table[keys[-1]] = _value(value.strip())


def _value(text: str) -> object:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
