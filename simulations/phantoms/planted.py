"""The faults of ``simulations.faults`` in synthetic hospitals, which are written as DICOM.

Promises
- Only the hospital that is named changes, and only in what the fault says; the truth stays true.

========================  ==========================================================================================
kind                      what is done to the hospital
========================  ==========================================================================================
images-inverted           Hounsfield units change sign, as under a rescale slope of the wrong sign
masks-shifted             every mask lies ``by`` pixels too far down and right
patients-at-two-sites     the first ``patients`` people of ``other`` have the same files here
========================  ==========================================================================================

Faults of labels are refused: synthetic hospitals are made for masks.
"""

from __future__ import annotations

from dataclasses import replace

from shared.errors import ScenarioError
from simulations.faults import Fault
from simulations.phantoms.hospitals import Hospital, PhantomFederation


def planted(federation: PhantomFederation, fault: Fault | None) -> PhantomFederation:
    """The hospitals of ``federation`` with ``fault`` in one of them; raises ``ScenarioError``."""
    if fault is None:
        return federation
    named = {hospital.name: hospital for hospital in federation.hospitals}
    fault.check(named)
    named[fault.site] = _damaged(named[fault.site], fault, named)
    return PhantomFederation(tuple(named.values()))


def _damaged(hospital: Hospital, fault: Fault, named: dict[str, Hospital]) -> Hospital:
    match fault.kind:
        case "images-inverted":
            return replace(hospital, scanner=replace(hospital.scanner, gain=-hospital.scanner.gain))
        case "masks-shifted":
            return replace(hospital, masks_off_px=fault.by)
        case "patients-at-two-sites":
            return replace(hospital, guests=((named[fault.other], fault.patients),))
        case "labels-flipped" | "one-class":
            raise ScenarioError(
                f"{fault.kind} cannot be planted into synthetic hospitals", hint="plant it into images with a manifest"
            )
