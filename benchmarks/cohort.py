"""A hundred thousand small cases: what it takes to diagnose, freeze and check them, and how memory grows with them.

``cohort`` makes the rows of the table; the other functions are arms of processes of their own. Cases are images of 8²
with smooth, different contents, three to a patient, as an ingest leaves them. Making them is not counted.
"""

from __future__ import annotations
