"""Write the golden files anew: run from the repository root, then review the difference like code."""

import importlib.util
import json
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main() -> None:
    spec = importlib.util.spec_from_file_location("test_wire", HERE.parent / "shared" / "test_wire.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["test_wire"] = module
    spec.loader.exec_module(module)
    (HERE / "wire.json").write_text(json.dumps(module.everything(), indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
