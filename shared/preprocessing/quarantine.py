"""Whatever a file makes a reader do, it ends as one ``CaseError``.

Promises
- Inside ``refusing`` every failure of a third party leaves as ``CaseError`` with the given code. The sentence is ours
  and ends with the failure's type; a reader's own message may quote header values or paths: it is dropped, and so are
  warnings and what readers log.
- ``refuse_oversized`` stops a small file that declares a huge image, and a spacing that would make one, before memory
  is asked for.

Not promised: safety against a native decoder that ends the process, and use from several threads at once (silencing
warnings is process-wide in Python 3.11); sites read in worker processes.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from shared.errors import CaseError

MAX_SAMPLES = 2**30
"""Samples in one image, 4 GiB as float32: four times a 512 x 512 x 1000 CT."""


_LOGGERS = ("pydicom", "nibabel.global", "PIL", "pylibjpeg")
"""Names under which readers log."""


@contextmanager
def refusing(code: str, sentence: str, hint: str = "") -> Iterator[None]:
    """Turn every failure inside into ``CaseError(sentence, code)``; a ``CaseError`` passes unchanged."""
    with warnings.catch_warnings(), _nothing_logged():
        warnings.simplefilter("ignore")
        try:
            yield
        except (CaseError, KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException as error:  # noqa: BLE001 - a panic in a Rust decoder is not an Exception
            raise CaseError(f"{sentence} ({type(error).__name__})", hint=hint, code=code) from None


@contextmanager
def _nothing_logged() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [logger.disabled for logger in loggers]
    for logger in loggers:
        logger.disabled = True
    try:
        yield
    finally:
        for logger, disabled in zip(loggers, before, strict=True):
            logger.disabled = disabled


def refuse_oversized(shape: Sequence[int]) -> None:
    """Raise ``CaseError`` ("image-too-large") where an image of ``shape`` exceeds ``MAX_SAMPLES``."""
    samples = math.prod(shape)
    if samples > MAX_SAMPLES:
        raise CaseError(
            f"an image of {samples} samples is above the limit of {MAX_SAMPLES}",
            hint="check its size and spacing, or split it",
            code="image-too-large",
        )
