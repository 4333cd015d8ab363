"""The settings of a site: ``site.toml``, written by hospital IT, read at the start of every command.

Promises
- Settings are a value: frozen, checked whole when read. An unknown key, a wrong type or an impossible value is one
  sentence with the key, the value and a suggestion.
- Everything but the site's name has a default, and the default is the careful choice.
- ``template`` is a file that explains every key and says nothing but the defaults.

What may be trained and released is no setting: plans say it and this hospital approves them by digest.
"""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from client.data.ingest.reading import Rules, Suspicion
from shared.errors import SiteDataError
from shared.plan_errors import describe

FILE = "site.toml"
NAME = r"^[a-z0-9][a-z0-9-]{0,62}$"
"""What a site, and a data set, may be called: it becomes the name of a folder, and stands in messages and reports."""


class _Table(BaseModel):
    """A table of the settings: frozen, closed to keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Site(_Table):
    """``[site]``: who this is."""

    name: Annotated[str, Field(pattern=NAME)]


class Ingest(_Table):
    """``[ingest]``: how images are read in."""

    workers: Literal["auto"] | Annotated[int, Field(ge=1, le=1024)] = "auto"
    subgroups: tuple[str, ...] = ()


class Deidentification(_Table):
    """``[deidentification]``: what is done about what may identify."""

    dates: Literal["drop", "shift"] = "drop"
    refuse: tuple[Suspicion, ...] = ("declared", "secondary-capture", "text")


class Store(_Table):
    """``[store]``: how images lie on disk."""

    encryption: Literal["none", "aes-gcm"] = "none"
    key_file: str = "keys/store.key"


class Doctor(_Table):
    """``[doctor]``: what a summary that leaves may say."""

    disclosure_floor: Annotated[int, Field(ge=3)] = 5


class Quarantine(_Table):
    """``[quarantine]``: how much may be unusable."""

    quota: Annotated[float, Field(ge=0, le=1)] = 0.2


class Coordinator(_Table):
    """``[coordinator]``: whom this site connects to."""

    address: str = ""
    ca_file: str = ""


class Settings(_Table):
    """The whole file. Build it with ``load`` or ``parse``."""

    site: Site
    ingest: Ingest = Ingest()
    deidentification: Deidentification = Deidentification()
    store: Store = Store()
    doctor: Doctor = Doctor()
    quarantine: Quarantine = Quarantine()
    coordinator: Coordinator = Coordinator()


def rules(settings: Settings, structures: dict[str, int]) -> Rules:
    """What these settings let in and keep, for a data set with these structures."""
    chosen = settings.deidentification
    return Rules(refuse=frozenset(chosen.refuse), dates=chosen.dates, structures=structures)


def processes(settings: Settings, asked: int | None) -> int:
    """How many processes to read with: as asked, else as set, else one for each core that may be used."""
    said = asked or settings.ingest.workers
    return len(os.sched_getaffinity(0)) if said == "auto" else said


def parse(text: str) -> Settings:
    """Read settings from TOML text; raises ``SiteDataError`` ("settings")."""
    try:
        return Settings.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise SiteDataError(
            f"{FILE} is not valid TOML: {error}", hint="check quotes, brackets and the line named", code="settings"
        ) from None
    except ValidationError as error:
        sentence, hint = describe(error, Settings)
        raise SiteDataError(f"{FILE}: {sentence}", hint=hint.partition(";")[0], code="settings") from None


def load(path: Path) -> Settings:
    """Read settings from a file; raises ``SiteDataError`` ("settings")."""
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise SiteDataError(
            f"{path.name} cannot be read: {reason}", hint="check the path and its permissions", code="settings"
        ) from None


def template(name: str, encryption: Literal["none", "aes-gcm"] = "none") -> str:
    """The text of a new ``site.toml``: all defaults, each key explained; raises ``SiteDataError`` for a bad name."""
    if not re.fullmatch(NAME, name):
        raise SiteDataError(
            f"{name!r} cannot name a site",
            hint="give --name: lower-case letters, digits and hyphens, 63 at most",
            code="site-name",
        )
    return _TEMPLATE.replace("{name}", name).replace("{encryption}", encryption)


_TEMPLATE = """\
# Settings of this site. Every command reads them anew; an unknown key is an error.
# A key that is left out has the value that stands here.

[site]
# Under this name the site enrols, and patients and images get their salted names:
# once images are ingested, another name makes other people of the same patients.
name = "{name}"

[ingest]
# Processes that read images: "auto" takes one for each core, or give a number.
workers = "auto"
# Columns of the label tables to report by, such as ["sex", "age"]. Ages become bands.
subgroups = []

[deidentification]
# Dates in headers: "drop" keeps none; "shift" moves each patient's dates into the past
# by a number of days of the patient's own, so that intervals stay.
dates = "drop"
# Images that may show a name in their pixels are set aside when one of these holds:
#   "declared"           the header says so (BurnedInAnnotation)
#   "secondary-capture"  a screen or a film was captured
#   "text"               something in the image looks like text
# Remove one only after looking at the images; each one let in is still reported.
refuse = ["declared", "secondary-capture", "text"]

[store]
# "aes-gcm" encrypts images on disk with AES-256-GCM; "none" leaves that to the disk.
# To be settled before the first ingest.
encryption = "{encryption}"
# The key, 64 hexadecimal digits, mode 0600; relative to this folder, or absolute.
# The environment variable CONSILIUM_STORE_KEY, where set, goes before it.
# Without the key nobody can read the images again.
key_file = "keys/store.key"

[doctor]
# In the summary that may leave this site, counts of fewer patients than this are
# written as suppressed.
disclosure_floor = 5

[quarantine]
# Largest share of a data set's cases that may be unusable. Above it, ingest ends with
# status 1 and the data set is not fit for use; nothing that was read is lost.
quota = 0.2

[coordinator]
# Where the coordinator is reached, such as "consilium.example.org:443"; "" takes what
# the lead's welcome says.
address = ""
# File with the certificate authority to trust, in PEM; "" takes the welcome's, and
# before there is one the system's.
ca_file = ""
"""
