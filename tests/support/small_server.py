"""``consilium-server`` as the lead meets it."""

import io
import os
import sys
from collections.abc import Mapping
from unittest import mock

import pytest
from small_hospitals import Said

from server import cli
from shared.environment import settings


def lead(
    capsys: pytest.CaptureFixture[str], *arguments: object, environ: Mapping[str, str] | None = None, typed: str = ""
) -> Said:
    """``consilium-server ARGUMENTS`` in this process, with ``typed`` on its standard input."""
    capsys.readouterr()
    words = ["consilium-server", *map(str, arguments)]
    with (
        mock.patch.dict(os.environ, settings(os.environ) | dict(environ or {})),
        mock.patch.object(sys, "argv", words),
        mock.patch.object(sys, "stdin", io.StringIO(typed)),
        pytest.raises(SystemExit) as left,
    ):
        cli.main()
    said = capsys.readouterr()
    assert isinstance(left.value.code, int)
    return Said(left.value.code, said.out, said.err)
