"""The Flower app bundle: configuration only, the same bytes on every machine.

Promises
- It holds no code: ``pyproject.toml``, ``README.md`` and Flower's list of both. The apps that it names are those of the
  *installed* package; code in a bundle would win over it, because Flower puts the bundle's folder first on the path.
- Its bytes depend on ``Bundle`` alone: files are stored, not compressed, because another zlib compresses otherwise.
- A run is told apart by its run configuration, never by its bundle, so that a site approves one digest.

Format: a zip archive with ``.info/CONTENT``, one line ``path,SHA-256,bits`` a file (Flower 1.41, ``flwr build``).
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from dataclasses import dataclass

PUBLISHER, NAME, VERSION = "consilium", "consilium", "1.0.0"
APP = f"{PUBLISHER}/{NAME}"
CONFIG_KEYS = ("run", "federation")
"""What a run configuration may say: which run this is, and the folder of the federation. No secrets."""

_README = "Configuration only. The apps named here are those of the installed package.\n"
_EPOCH = (1980, 1, 1, 0, 0, 0)
_UNIX = 3


@dataclass(frozen=True, slots=True)
class Bundle:
    """Which installed apps a bundle names, as ``module:attribute``."""

    server: str = "server.app:app"
    client: str = "client.app:app"


INSTALLED = Bundle()


def bundle_bytes(bundle: Bundle = INSTALLED) -> bytes:
    """The archive that is submitted with every run."""
    files = {"pyproject.toml": _pyproject(bundle).encode(), "README.md": _README.encode()}
    content = "\n".join(f"{name},{hashlib.sha256(data).hexdigest()},{8 * len(data)}" for name, data in files.items())
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in (*files.items(), (".info/CONTENT", content.encode())):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.create_system, entry.external_attr = _UNIX, 0o600 << 16
            archive.writestr(entry, data)
    return buffer.getvalue()


def bundle_sha256(bundle: Bundle = INSTALLED) -> str:
    """What a site approves: 64 hexadecimal digits."""
    return hashlib.sha256(bundle_bytes(bundle)).hexdigest()


def _pyproject(bundle: Bundle) -> str:
    config = "".join(f'{key} = ""\n' for key in CONFIG_KEYS)
    return (
        f'[project]\nname = "{NAME}"\nversion = "{VERSION}"\nlicense = "Apache-2.0"\ndependencies = []\n\n'
        f'[tool.flwr.app]\npublisher = "{PUBLISHER}"\nfab-include = ["README.md"]\n\n'
        f'[tool.flwr.app.components]\nserverapp = "{bundle.server}"\nclientapp = "{bundle.client}"\n\n'
        f"[tool.flwr.app.config]\n{config}"
    )
