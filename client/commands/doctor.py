"""``consilium-site doctor --dataset``: a data set looked at, as a page that stays and a summary that may leave."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from functools import partial

from client.commands.clock import Clock
from client.data.archive.archive import Archive
from client.data.cohort import files
from client.data.cohort.split import split_of
from client.data.dataset import Dataset, Examined, state_of
from client.data.doctor.diagnose import diagnose
from client.data.doctor.findings import Diagnosis
from client.data.doctor.page import write_page
from client.data.doctor.summary import summary
from client.data.progress import Progress
from client.governance.audit import Event
from client.settings import processes
from client.site_folder import SiteFolder
from shared.messages import Split


def examine(site: SiteFolder, name: str, progress: Progress, now: Clock) -> Diagnosis:
    """Look at the data set ``name``; what was found is kept last, so that it stands for a page that is there.

    Raises:
        ConsiliumError: there is no such data set, or its archive is not what was stored.
    """
    audit, dataset = site.audit, site.dataset(name)
    audit.require_sound()
    dataset.require_begun()
    with Archive.open(dataset.archive, site.store_key()) as archive:
        state = state_of(archive)
        found = diagnose(
            archive,
            name,
            _split_of(site, dataset),
            workers=processes(site.settings, None),
            progress=progress,
            quota=site.settings.quarantine.quota,
        )
        write_page(found, archive, dataset.page)
    dataset.page.chmod(0o600)
    told = json.dumps(summary(found, site.settings.doctor.disclosure_floor), indent=2, sort_keys=True)
    dataset.write(dataset.summary, told.encode() + b"\n")
    dataset.keep(Examined(state, found))
    severities = Counter(f"findings.{finding.severity}" for finding in found.findings)
    counts = {"cases": found.cases, "patients": found.patients, **severities}
    audit.append(Event("doctor", name, counts, {"state": state}), now())
    return found


def _split_of(site: SiteFolder, dataset: Dataset) -> Callable[[str], Split] | None:
    """How the current cohort divides patients, so that likeness across its splits is seen; None before the first."""
    if files.current(dataset.cohorts) is None:
        return None
    rule = files.load(dataset.cohorts, site.signing_key().verify_key).rule
    return partial(split_of, rule, site.settings.site.name)
