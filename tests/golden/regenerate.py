"""Write the golden files anew: run from the repository root, then review the difference like code."""

import importlib.util
import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
FILES = {
    "wire.json": "test_wire",
    "messages.json": "test_message_bytes",
    "secure_sum.json": "test_secure_transcript",
}


def main() -> None:
    sys.path.insert(0, str(HERE.parent / "support"))
    for file, name in FILES.items():
        spec = importlib.util.spec_from_file_location(name, HERE.parent / "shared" / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        (HERE / file).write_text(json.dumps(module.everything(), indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
