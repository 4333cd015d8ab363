"""What runs in the process of one arm: ``python benchmarks/arm.py MODULE.FUNCTION '{"argument": value}'``.

The function's result is printed as the last line of stdout, as JSON. The modules of this folder import each other by
their own names, not as a package: Opacus installs one that is called ``benchmarks``.
"""

from __future__ import annotations

import importlib
import json
import sys


def main(name: str, arguments: str) -> None:
    module, _, function = name.rpartition(".")
    result = getattr(importlib.import_module(module), function)(**json.loads(arguments))
    print(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
