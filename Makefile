# Everything a newcomer needs: make demo, make test. Set-up happens by itself and only once.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

export FLWR_TELEMETRY_ENABLED := 0
export FLWR_DISABLE_UPDATE_CHECK := 1
export RAY_USAGE_STATS_ENABLED := 0

.PHONY: help demo demo-deployed test test-all check bench docs clean
help:
	@echo "make demo      set up, then four synthetic hospitals train one U-Net: DICOM to report"
	@echo "make demo-deployed  set up, then three hospitals as real processes on this machine, one of them killed"
	@echo "make test      set up, then the test suite"
	@echo "make check     format, lint, types, import fences, style, fast tests"
	@echo "make test-all  also the slow tests"
	@echo "make bench     performance ratios, measured side by side"
	@echo "make docs      rebuild the generated parts of docs/"

$(READY): pyproject.toml constraints.txt
	@test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	@echo "setting up $(VENV) (a few minutes the first time)"
	@$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	@touch $@

demo: $(READY)
	@$(BIN)/consilium-sim run demo --out demo-run --overwrite

demo-deployed: $(READY)
	@rm -rf demo-deployed
	@$(BIN)/consilium-sim rehearse --out demo-deployed

test: $(READY)
	@$(BIN)/pytest -n 2 -m "not slow and not gpu"

test-all: $(READY)
	@HYPOTHESIS_PROFILE=explore $(BIN)/pytest -n 2 -m "not gpu"

check: $(READY)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@PYTHONPATH=. $(BIN)/lint-imports
	@$(BIN)/pytest -n 2 -m "not slow and not gpu and not network"

bench: $(READY)
	@$(BIN)/python benchmarks/run.py

docs: $(READY)
	@$(BIN)/python -m docs.build

clean:
	rm -rf $(VENV) demo-run
