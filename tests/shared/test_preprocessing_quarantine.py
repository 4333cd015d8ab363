"""What third parties do wrong becomes one refusal, and nothing they say comes through."""

import logging
import traceback
import warnings

import pytest

from shared.errors import CaseError
from shared.preprocessing.quarantine import MAX_SAMPLES, refuse_oversized, refusing

NAME = "Mustermann^Erika"


class Panic(BaseException):
    """As raised by decoders written in Rust: not an ``Exception``."""


@pytest.mark.parametrize("failure", [ValueError(NAME), MemoryError(NAME), RecursionError(), Panic(NAME)])
def test_every_failure_becomes_the_given_refusal_without_its_own_words(failure: BaseException) -> None:
    with pytest.raises(CaseError) as caught, refusing("some-code", "the file is bad", "fetch it again"):
        raise failure
    error = caught.value
    assert (error.code, error.hint) == ("some-code", "fetch it again")
    assert error.sentence == f"the file is bad ({type(failure).__name__})"
    assert NAME not in "".join(traceback.format_exception(error))


def test_a_refusal_inside_passes_unchanged() -> None:
    inner = CaseError("two slices are missing", code="slice-gap")
    with pytest.raises(CaseError) as caught, refusing("some-code", "the file is bad"):
        raise inner
    assert caught.value is inner


@pytest.mark.parametrize("wish", [KeyboardInterrupt, SystemExit])
def test_the_wish_to_stop_is_not_a_bad_file(wish: type[BaseException]) -> None:
    with pytest.raises(wish), refusing("some-code", "the file is bad"):
        raise wish


def test_warnings_are_silent_inside_and_as_before_outside() -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with refusing("some-code", "the file is bad"):
            warnings.warn(NAME, stacklevel=1)
        assert seen == []
        warnings.warn("heard", stacklevel=1)
        assert len(seen) == 1


@pytest.mark.parametrize("name", ["pydicom", "nibabel.global", "PIL", "pylibjpeg"])
def test_readers_log_nothing_inside_and_as_before_outside(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """What they log may quote a header, and a log may be anywhere."""
    with caplog.at_level(logging.DEBUG):
        with refusing("code", "sentence"):
            logging.getLogger(name).warning("Invalid value for PN: Mueller^Anna")
        assert caplog.text == ""
        logging.getLogger(name).warning("after")
    assert "after" in caplog.text


def test_an_image_of_the_largest_size_is_read_and_one_sample_more_is_not() -> None:
    refuse_oversized((MAX_SAMPLES,))
    with pytest.raises(CaseError) as caught:
        refuse_oversized((MAX_SAMPLES + 1,))
    assert caught.value.code == "image-too-large"
    assert str(MAX_SAMPLES + 1) in caught.value.sentence
