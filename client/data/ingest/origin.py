"""Whether a stored case would be read the same way again: without reading it.

Promises
- ``origin_of`` changes when a source file of the case does (length or time of last change), when the rules of the site
  do, or the code that reads; while it is equal, nothing needs to be read again.
- It says nothing about names: files and folders enter by their salted names. ``place_of`` is the part of it that says
  where the files lie: two folders may hold two pictures of one name.

As with rsync, a file that was changed without changing its length and its time is not noticed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

from client.data import ingest
from client.data.case_files import CaseFiles, Salt
from client.data.ingest.reading import Rules
from client.data.source.files import SourceFile
from shared import preprocessing
from shared.preprocessing.readable import Readable

_CALLED = ("nibabel", "numpy", "pillow", "pydicom", "pylibjpeg-libjpeg", "pylibjpeg-openjpeg", "pyjpegls", "scipy")

_BETWEEN = "."

OriginOf = Callable[[CaseFiles], str]


def origins(rules: Rules, salt: Salt) -> OriginOf:
    """The function that says what a case would be read from, under ``rules``."""
    how = _combined([code_digest(), json.dumps(_rules(rules), sort_keys=True)])
    # All slices of a series share the tuple of its files.
    series = lru_cache(maxsize=4)(lambda files: _combined(map(_stamp, files)))

    def origin_of(files: CaseFiles) -> str:
        """Two names, of a place and of a state; equal while nothing needs to be read again."""
        days = salt.days(files.patient) if rules.dates == "shift" else 0
        parts = [*map(_stamp, files.images), "mask", *([_stamp(files.mask)] if files.mask else [])]
        said = f"{files.modality} {files.frame} {days} {_told(files)}"
        state = _combined([how, said, *parts, series(files.slice_of)])
        return f"{salt.case('place', _path(files.images[0]))}{_BETWEEN}{state}"

    return origin_of


def place_of(origin: str) -> str:
    """Salted name of the place that the first file of a case was read from."""
    return origin.partition(_BETWEEN)[0]


@lru_cache(maxsize=1)
def code_digest() -> str:
    """Digest of all code that reads images, and of the versions of what it calls."""
    folders = [Path(package.__file__ or "").parent for package in (ingest, preprocessing)]
    sources = [path.read_bytes().hex() for folder in folders for path in sorted(folder.glob("*.py"))]
    return _combined([*sources, *(f"{name} {version(name)}" for name in _CALLED)])


def _rules(rules: Rules) -> list[object]:
    return [sorted(rules.refuse), rules.dates, sorted(rules.structures.items())]


def _told(files: CaseFiles) -> str:
    """What a table says of a DICOM image: it is held against the header each time that it changes (``leaks``)."""
    return json.dumps([files.label, files.subgroups]) if files.series else ""


def _path(file: Readable) -> str:
    return file.key if isinstance(file, SourceFile) else str(file)


def _stamp(file: Readable) -> str:
    """Name, length and time of last change; a file that is not there has a stamp, too."""
    name = file.seen if isinstance(file, SourceFile) else file.name
    try:
        found = Path(file.path if isinstance(file, SourceFile) else str(file)).stat()
    except OSError:
        return f"{name} missing"
    return f"{name} {found.st_size} {found.st_mtime_ns}"


def _combined(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
