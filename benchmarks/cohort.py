"""A hundred thousand small cases: what it takes to diagnose, freeze and check them, and how memory grows with them.

``cohort`` makes the rows of the table; the other functions are arms of processes of their own. Cases are images of 8²
with smooth, different contents, three to a patient, as an ingest leaves them. Making them is not counted.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from itertools import batched
from pathlib import Path

import numpy as np
from archive import record_of
from bench import Bench
from processes import Ran
from rows import Row, Target, ratios

from client.data.archive.archive import Archive
from client.data.archive.catalogue import Change
from client.data.cohort.drift import require_unchanged
from client.data.cohort.freeze import freeze as frozen
from client.data.cohort.manifest import SplitRule
from client.data.doctor.diagnose import diagnose
from shared.preprocessing.image import Image
from shared.seeds import generator
