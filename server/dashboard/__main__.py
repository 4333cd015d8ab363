"""``python -m server.dashboard FEDERATION [PORT]``: the page in a process of its own; the address goes to stdout."""

import sys
from pathlib import Path

from server.dashboard.app import PORT, serve
from shared.errors import ConsiliumError


def main(argv: list[str]) -> int:
    """Show the page until told to stop; 1 where that is impossible."""
    try:
        serve(Path(argv[0]), int(argv[1]) if argv[1:] else PORT, lambda address: print(address, flush=True))
    except ConsiliumError as error:
        sys.stderr.write(f"error: {error.sentence}\nhint:  {error.hint}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
