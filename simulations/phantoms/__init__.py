"""Synthetic hospitals with known answers.

Who comes: ``cohort``, ``anatomy``, ``body``, ``solids``; how they are scanned: ``scanner``; what is written: ``files``,
``masks``, ``tables``; where: ``folders``; which hospitals there are: ``hospitals``.
"""

from simulations.phantoms.folders import PhantomReport, Written, write_hospitals
from simulations.phantoms.hospitals import Hospital, PhantomFederation, hospitals, tiny_hospitals

__all__ = [
    "Hospital",
    "PhantomFederation",
    "PhantomReport",
    "Written",
    "hospitals",
    "tiny_hospitals",
    "write_hospitals",
]
