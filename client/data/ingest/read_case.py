"""One case, from its files to a canonical, de-identified image with its mask, or the reason why not.

Promises
- Whatever the files hold, the only exception is ``CaseError``; each file is read whole and once, and its digest is that
  of the bytes that were decoded.
- What a file is, its first bytes say: DICOM, NIfTI, PNG or JPEG for images; also RT structure sets for masks.
- Of a header nothing leaves but what the allow-list lets through, and the kinds of what it did not. Where files of one
  series differ, the one with the smallest digest speaks for acquisition: the order of files plays no part.
- A label or subgroup of the site's tables that repeats an identifying value of the header is refused ("leak").
- Suspicions of burned-in identifiers that the site refuses end as "burned-in-declared", "burned-in-secondary-capture"
  or "burned-in-text"; the others are handed on.

Geometry, pixels and masks are left to ``shared.preprocessing``, which files belong together to ``client.data.source``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from client.data.case_files import CaseFiles, Salt
from client.data.ingest.leaks import identifying_values, require_clean
from client.data.ingest.opened import Opened, described_file, digest_of, open_file, remembering
from client.data.ingest.read_mask import mask_on
from client.data.ingest.reading import Reading, Rules, Suspicion
from client.data.ingest.slice_mask import SeriesMask, mask_of_slice, read_series_mask
from shared.errors import CaseError
from shared.preprocessing.burned_in import suspicions
from shared.preprocessing.deidentification import acquisition, identifying_kinds
from shared.preprocessing.dicom import each_of, frame_of, image_of
from shared.preprocessing.dicom_file import DicomFile
from shared.preprocessing.dicom_header import text
from shared.preprocessing.image import Image, MaskArray
from shared.preprocessing.nifti import image_from_nifti
from shared.preprocessing.quarantine import refusing
from shared.preprocessing.raster import image_from_raster
from shared.preprocessing.readable import Readable

ReadCase = Callable[[CaseFiles], Reading]

_LOOK = "look at the image; allow this suspicion for the site only where such images show no identifiers"


def read_case(files: CaseFiles, rules: Rules, salt: Salt) -> Reading:
    """Read one case; raises ``CaseError``."""
    return case_reader(rules, salt)(files)


def case_reader(rules: Rules, salt: Salt) -> ReadCase:
    """``read_case`` for many cases: what cases that follow each other have in common is read once.

    That is the mask of a series of which each slice is a case, and the file of which each frame is one.
    """
    readers = _Readers(
        image=remembering(open_file),
        mask=remembering(partial(open_file, role="mask")),
        series_mask=remembering(partial(read_series_mask, structures=rules.structures)),
    )
    return partial(_read, rules=rules, salt=salt, readers=readers)


@dataclass(frozen=True, slots=True)
class _Readers:
    """How files are read that several cases may share."""

    image: Callable[[Readable], Opened]
    mask: Callable[[Readable], Opened]
    series_mask: Callable[[Readable, tuple[Readable, ...]], SeriesMask]


def _read(files: CaseFiles, rules: Rules, salt: Salt, readers: _Readers) -> Reading:
    opened = each_of(files.images, open_file if files.frame is None else readers.image)
    made_of = each_of(opened, described_file) if len(opened) > 1 or opened[0].dataset is not None else []
    image = _image(opened[0], made_of, files)
    found = _suspicions(made_of, image)
    _refuse(found, rules)
    mask, sources = _mask(files, image, made_of, rules, readers)
    kept, dropped = _header(opened, files, rules, salt)
    return Reading(image, mask, kept, dropped, found, digest_of([*(one.sha256 for one in opened), *sources]))


def _image(first: Opened, made_of: Sequence[DicomFile], files: CaseFiles) -> Image:
    if made_of:
        return image_of(made_of) if files.frame is None else frame_of(made_of[0], files.frame)
    if first.format == "nifti":
        return image_from_nifti(first.held, files.modality)
    return image_from_raster(first.held, files.modality)


def _suspicions(made_of: Sequence[DicomFile], image: Image) -> tuple[Suspicion, ...]:
    """Of a series, the first header that declares burned-in annotation speaks; what captures a screen is no series."""
    headers = [file.dataset for file in made_of]
    with refusing("unreadable-dicom", "the header cannot be interpreted"):
        declaring = (header for header in headers if text(header, "BurnedInAnnotation").upper() == "YES")
        return suspicions(next(declaring, headers[0] if headers else None), image)


def _refuse(found: Sequence[Suspicion], rules: Rules) -> None:
    refused = rules.refuse.intersection(found)
    if "declared" in refused:
        sentence = "the header says that identifiers are burned into the image"
        raise CaseError(sentence, hint=_LOOK, code="burned-in-declared")
    if "secondary-capture" in refused:
        sentence = "the image is a captured screen, which may show identifiers"
        raise CaseError(sentence, hint=_LOOK, code="burned-in-secondary-capture")
    if "text" in refused:
        sentence = "text was found in the image, which may be an identifier"
        raise CaseError(sentence, hint=_LOOK, code="burned-in-text")


def _mask(
    files: CaseFiles, image: Image, made_of: Sequence[DicomFile], rules: Rules, readers: _Readers
) -> tuple[MaskArray | None, tuple[bytes, ...]]:
    """The mask, and the digests of what it was made of."""
    if files.mask is None:
        return None, ()
    if files.slice_of and made_of:
        series = readers.series_mask(files.mask, files.slice_of)
        return mask_of_slice(series, made_of[0]), series.sources
    mask = readers.mask(files.mask)
    return mask_on(image, mask, made_of, rules.structures, files.frame), (mask.sha256,)


def _header(
    opened: Sequence[Opened], files: CaseFiles, rules: Rules, salt: Salt
) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...]]:
    """What is kept of the headers, and the kinds of what is not."""
    headers = [one.dataset for one in sorted(opened, key=lambda one: one.sha256) if one.dataset is not None]
    if not headers:
        return (), ()
    days = salt.days(files.patient) if rules.dates == "shift" else None
    with refusing("unreadable-dicom", "the header cannot be interpreted"):
        kinds = {kind for header in headers for kind in identifying_kinds(header)}
        kept = acquisition(headers[0], days)
        if files.label is not None or files.subgroups:
            require_clean(files.label, files.subgroups, kept, identifying_values(headers[0]))
        return kept, tuple(sorted(kinds))
