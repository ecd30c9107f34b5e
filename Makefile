# Every target makes .venv by itself. PYTHON=/path/to/python3 chooses the interpreter,
# ARGS="…" passes arguments on: make demo ARGS="scale=2", make test ARGS="-k psnr".
.POSIX:
.PHONY: help setup demo test test-slow test-full lint clean

PY = .venv/bin/python
# One thread per worker: torch would start one per core in each of them.
PYTEST = OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist loadfile

help:
	@echo 'make demo       train, and look at report.html: a few minutes, no GPU'
	@echo 'make test       the tests (10 minutes at most)'
	@echo 'make test-full  the tests and the slow ones'
	@echo 'make lint       ruff, mypy, import layers, spelling, notebooks without output'
	@echo 'make clean      remove caches and builds; runs, data and .venv stay'

setup:
	@sh scripts/setup.sh

demo: setup
	$(PY) -m srtrain experiment=mse_plus_perceptual $(ARGS)

test: setup
	$(PYTEST) -m 'not slow' $(ARGS)

test-slow: setup
	$(PYTEST) -m slow $(ARGS)

test-full: setup
	$(PYTEST) $(ARGS)
	$(PY) scripts/chaos.py --kills 20 experiment=mse
	$(PY) scripts/chaos.py --kills 20 experiment=patchgan
	$(PY) scripts/chaos.py --kills 20 --ranks 2 experiment=mse

lint: setup
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	.venv/bin/lint-imports
	git ls-files -z | xargs -0 $(PY) -m codespell_lib
	git ls-files -z '*.ipynb' | xargs -0 -r $(PY) -m nbstripout --verify

clean:
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find srtrain tests scripts -name __pycache__ -prune -exec rm -rf {} +
