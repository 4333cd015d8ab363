"""The folder of one data set at a site: where its parts lie, what it was begun with, what the doctor last said.

::

    dataset.toml      the choices that define it, written at the first ingest
    archive/          canonical, de-identified images (``client.data.archive``)
    prepared/         the same after a plan's preprocessing (``client.data.prepared``)
    cohorts/          what was frozen (``client.data.cohort.files``)
    diagnosis.json    what the doctor found, and in which state of the archive
    doctor.html       the same for people at this site, with thumbnails
    summary.json      the same as numbers that may leave

Promises
- A data set keeps the choices it was begun with: with others, the same files would become other cases beside the old.
- A diagnosis is known to be of the archive as it is, or of one that has changed since.
- Files are replaced whole, are on the disk when a call returns, and are readable by their owner alone.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from client.data.doctor.findings import Diagnosis
from shared.durable import replace_file
from shared.errors import SiteDataError
from shared.preprocessing.image import Modality

if TYPE_CHECKING:
    from client.data.archive.archive import Archive

_PRIVATE = 0o700


class Choices(BaseModel):
    """What the cases of a data set depend on, besides the files: see ``Wanted``, ``Table`` and ``Rules``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dimensions: Literal["auto", 2, 3] = "auto"
    modality: Modality = "other"
    columns: dict[str, tuple[str, ...]] = {}
    structures: dict[str, Annotated[int, Field(ge=1, le=255)]] = {}


@dataclass(frozen=True, slots=True)
class Examined:
    """A diagnosis, and the state of the archive (``state_of``) that it is about."""

    state: str
    diagnosis: Diagnosis


@dataclass(frozen=True, slots=True)
class Dataset:
    """A data set's folder, which may not be there yet."""

    folder: Path

    @property
    def name(self) -> str:
        """What the data set is called."""
        return self.folder.name

    @property
    def archive(self) -> Path:
        """Folder of the images."""
        return self.folder / "archive"

    @property
    def prepared(self) -> Path:
        """Folder of what plans make of the images."""
        return self.folder / "prepared"

    @property
    def cohorts(self) -> Path:
        """Folder of what was frozen."""
        return self.folder / "cohorts"

    @property
    def page(self) -> Path:
        """The doctor's report, which stays at the site."""
        return self.folder / "doctor.html"

    @property
    def summary(self) -> Path:
        """The doctor's numbers, which may leave."""
        return self.folder / "summary.json"

    def require_begun(self) -> None:
        """Raise ``SiteDataError`` ("dataset-missing") where nothing was ingested yet."""
        if not self._choices.is_file():
            known = sorted(path.parent.name for path in self.folder.parent.glob("*/dataset.toml"))
            raise SiteDataError(
                f"there is no data set {self.name!r} at this site",
                hint=f"there are: {', '.join(known)}" if known else "make one: consilium-site ingest SOURCE --dataset",
                code="dataset-missing",
            )

    def settled(self, given: Mapping[str, object]) -> Choices:
        """The choices of this data set: those it was begun with, or ``given`` and the defaults at the first ingest.

        Raises:
            SiteDataError: a given choice is impossible, or other than at the first ingest ("dataset-choices").
        """
        try:
            wanted = Choices.model_validate(given)
        except ValidationError as error:
            place = ".".join(str(part) for part in error.errors()[0]["loc"][:1])
            raise SiteDataError(
                f"{place}: {error.errors()[0]['msg']}", hint=f"correct --{place.rstrip('s')}", code="dataset-choices"
            ) from None
        if not self._choices.is_file():
            return wanted
        begun = self._begun()
        differ = [name for name in given if getattr(wanted, name) != getattr(begun, name)]
        if differ:
            told = "; ".join(f"{name} {_told(getattr(begun, name))}, now {_told(given[name])}" for name in differ)
            raise SiteDataError(
                f"the data set {self.name!r} was begun with other choices: {told}",
                hint="leave these options out to go on as begun, or choose another --dataset",
                code="dataset-choices",
            )
        return begun

    def begin(self, choices: Choices) -> None:
        """Make the folder and write down the choices, unless they are there already."""
        self.folder.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
        if not self._choices.is_file():
            text = tomli_w.dumps(choices.model_dump(mode="json"))
            self.write(self._choices, f"# What this data set was begun with. Changed by nobody.\n{text}".encode())

    def keep(self, examined: Examined) -> None:
        """Write down what the doctor found."""
        self.write(self._diagnosis, TypeAdapter(Examined).dump_json(examined))

    def examined(self) -> Examined | None:
        """What the doctor last found, None where it never ran; raises ``SiteDataError`` where that cannot be read."""
        try:
            return TypeAdapter(Examined).validate_json(self._diagnosis.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError):
            raise SiteDataError(
                f"{self._diagnosis.name} cannot be read", hint="run the doctor again", code="diagnosis-unreadable"
            ) from None

    def write(self, path: Path, content: bytes) -> None:
        """Replace a file of this folder."""
        replace_file(path, content)

    @property
    def _choices(self) -> Path:
        return self.folder / "dataset.toml"

    @property
    def _diagnosis(self) -> Path:
        return self.folder / "diagnosis.json"

    def _begun(self) -> Choices:
        try:
            return Choices.model_validate(tomllib.loads(self._choices.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            raise SiteDataError(
                f"{self._choices.name} of the data set {self.name!r} cannot be read",
                hint="restore it from your copy",
                code="dataset-choices",
            ) from None


def state_of(archive: Archive) -> str:
    """SHA-256 over all that a diagnosis depends on: 64 hexadecimal digits. Where cases lie on disk is no part of it."""
    state = hashlib.sha256()
    for record in archive.records():
        said = (record.case_id, record.content(), record.aliases, record.dropped, record.suspicions)
        state.update(json.dumps(said).encode() + b"\n")
    for one in sorted((one.case_id, one.code) for one in archive.quarantined()):
        state.update(json.dumps(one).encode() + b"\n")
    return state.hexdigest()


def _told(value: object) -> str:
    """A choice as it is typed."""
    if isinstance(value, Mapping):
        pairs = (
            "=".join((str(name), "+".join(part) if isinstance(part, tuple) else str(part)))
            for name, part in value.items()
        )
        return " ".join(pairs) or "none"
    return str(value)
