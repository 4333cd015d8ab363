"""Words that DICOM defines for what may be kept of a header.

Promises
- Every word stands in the standard, and none is a person's: a text that equals none of them is not passed on.

How texts become words is left to ``deidentification_values``.
"""

from __future__ import annotations

from collections.abc import Mapping

BODY_PARTS = frozenset(
    """
    ABDOMEN ABDOMENPELVIS ADRENAL ANKLE AORTA ARM AXILLA BACK BLADDER BRAIN BREAST BRONCHUS BUTTOCK CALCANEUS CALF
    CAROTID CEREBELLUM CERVIX CHEEK CHEST CHESTABDOMEN CHESTABDPELVIS CIRCLEOFWILLIS CLAVICLE COCCYX COLON CORNEA
    CORONARYARTERY CSPINE CTSPINE DUODENUM EAR ELBOW ESOPHAGUS EXTREMITY EYE EYELID FACE FEMUR FINGER FOOT GALLBLADDER
    HAND HEAD HEADNECK HEART HIP HUMERUS IAC ILEUM ILIUM JAW JEJUNUM KIDNEY KNEE LARYNX LEG LIVER LSPINE LSSPINE LUNG
    MAXILLA MEDIASTINUM MOUTH NECK NECKCHEST NECKCHESTABDOMEN NECKCHESTABDPELV NOSE ORBIT OVARY PANCREAS PAROTID
    PATELLA PELVIS PENIS PHARYNX PROSTATE RADIUS RADIUSULNA RECTUM RIB SCALP SCAPULA SCLERA SCROTUM SHOULDER SKULL
    SPINE SPLEEN SSPINE STERNUM STOMACH SUBMANDIBULAR TESTIS THIGH THUMB THYMUS THYROID TIBIA TIBIAFIBULA TLSPINE TMJ
    TOE TONGUE TRACHEA TSPINE ULNA URETER URETHRA UTERUS VAGINA VULVA WHOLEBODY WRIST ZYGOMA
    """.split()  # noqa: SIM905 - words are read more easily than 128 strings
)
"""Body Part Examined, PS3.16 Annex L (Table L-1) in its edition of 2016; later editions add mostly vessels."""

SCANNING_SEQUENCES: Mapping[str, str] = {name: name.lower() for name in ("SE", "IR", "GR", "EP", "RM")}
"""PS3.3 C.8.3.1: spin echo, inversion recovery, gradient recalled, echo planar, research mode."""

VIEW_POSITIONS: Mapping[str, str] = {
    name: name.lower()
    for name in ("AP", "PA", "LL", "RL", "RLD", "LLD", "RLO", "LLO", "CC", "MLO", "ML", "LM", "LMO", "XCCL", "XCCM")
}
"""PS3.3 C.8.1.1 and C.8.7.5; the mammographic views of PS3.16 CID 4014 in its short form."""

PHOTOMETRIC: Mapping[str, str] = {
    name: name.lower().replace(" ", "-").replace("_", "-")
    for name in (
        *("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_420"),
        *("YBR_ICT", "YBR_RCT", "XYB"),
    )
}
"""PS3.3 C.7.6.3.1.2."""

TRANSFER_SYNTAXES: Mapping[str, str] = {
    "1.2.840.10008.1.2": "implicit-le",
    "1.2.840.10008.1.2.1": "explicit-le",
    "1.2.840.10008.1.2.1.99": "deflated-explicit-le",
    "1.2.840.10008.1.2.2": "explicit-be",
    "1.2.840.10008.1.2.4.50": "jpeg-baseline",
    "1.2.840.10008.1.2.4.51": "jpeg-extended",
    "1.2.840.10008.1.2.4.57": "jpeg-lossless",
    "1.2.840.10008.1.2.4.70": "jpeg-lossless-sv1",
    "1.2.840.10008.1.2.4.80": "jpeg-ls",
    "1.2.840.10008.1.2.4.81": "jpeg-ls-near-lossless",
    "1.2.840.10008.1.2.4.90": "jpeg-2000-lossless",
    "1.2.840.10008.1.2.4.91": "jpeg-2000",
    "1.2.840.10008.1.2.4.201": "htj2k-lossless",
    "1.2.840.10008.1.2.4.202": "htj2k-lossless-rpcl",
    "1.2.840.10008.1.2.4.203": "htj2k",
    "1.2.840.10008.1.2.5": "rle",
    "1.2.840.10008.1.2.8.1": "deflated-frames",
}
"""PS3.6 Annex A, Table A-1."""
