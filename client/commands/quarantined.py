"""``consilium-site quarantined``: which files are behind the reasons, for the people who can mend them.

What Consilium stores holds salted names only, so the sources are walked again and each file's name is salted as it was
at ingest. Paths go to the terminal of whoever asks and nowhere else: no log, no file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from client.data.archive.archive import Archive
from client.data.source.files import SourceFile, walk
from client.site_folder import SiteFolder


def quarantined(site: SiteFolder, name: str, sources: Sequence[Path]) -> Iterator[tuple[str, str]]:
    """(reason, path) of each file of ``sources`` that was set aside at the last ingest, in the order of the walk.

    Raises:
        SiteDataError: there is no such data set, or a source is not there.
    """
    dataset = site.dataset(name)
    dataset.require_begun()
    with Archive.open(dataset.archive, site.store_key()) as archive:
        reasons = {file.name: file.code for file in archive.files() if file.use == "quarantined"}
    for found in walk(sources, site.salt()):
        if isinstance(found, SourceFile) and found.seen in reasons:
            yield reasons[found.seen], found.key
