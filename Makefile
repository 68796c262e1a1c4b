# Two commands do everything: `make serve` and `make test`. Both set themselves up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH ?= 2.13.0
HOST ?= 127.0.0.1
PORT ?= 8080
MODEL ?= tiny
TINY ?=

GPU ?=

.PHONY: gpu gpu-wheels setup serve test network test-all check loadtest tiny clean

setup: $(VENV)/ready

# An NVIDIA GPU takes torch's CUDA build; everybody else the CPU build, a tenth of its size, where an index offers it.
$(VENV)/ready: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	if command -v nvidia-smi >/dev/null 2>&1; then $(BIN)/pip install -q "torch>=2.11"; \
	else $(BIN)/pip install -q "torch==$(TORCH)+cpu" 2>/dev/null || $(BIN)/pip install -q "torch==$(TORCH)"; fi
	$(BIN)/pip install -q -e ".[dev]"
	touch $@

serve: setup
	$(BIN)/avis serve --host $(HOST) --port $(PORT) --model $(MODEL)

# Debian's Chromium for the browser tests, where there is none yet.
.PHONY: chromium
chromium:
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || { \
	  as_root=$$([ "$$(id -u)" = 0 ] || echo sudo); \
	  $$as_root apt-get update -q && $$as_root apt-get install -y -q --no-install-recommends chromium; }

# A worker per core or thread of one, up to four: each loads torch, 0.6 GB.
WORKERS ?= -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder --max-worker-restart 2
USUAL := not slow and not gpu and not weights and not network
test: setup chromium
	$(BIN)/pytest -q $(WORKERS) -m "$(USUAL)"

# Line coverage of all; the parts that decide and carry sessions must have 90 %.
.PHONY: coverage
coverage: setup chromium
	$(BIN)/pytest -q $(WORKERS) -m "$(USUAL)" --cov --cov-report=term
	for part in scheduling sessions webrtc; do \
	  $(BIN)/coverage report --include="server/$$part/*" --fail-under=90 || exit 1; done

# Debian's Firefox, to drive the page in it, too.
.PHONY: firefox
firefox:
	@command -v firefox-esr >/dev/null || command -v firefox >/dev/null || { \
	  as_root=$$([ "$$(id -u)" = 0 ] || echo sudo); \
	  $$as_root apt-get update -q && $$as_root apt-get install -y -q --no-install-recommends firefox-esr; }

# Prometheus' promtool and docker-compose, to hold what we ship for them to their own rules.
.PHONY: deploy-tools
deploy-tools:
	@command -v promtool >/dev/null && command -v docker-compose >/dev/null || { \
	  as_root=$$([ "$$(id -u)" = 0 ] || echo sudo); \
	  $$as_root apt-get update -q && $$as_root apt-get install -y -q --no-install-recommends prometheus docker-compose; }

# Loss, bursts, thin links and blackouts between network namespaces: in real time, so on a quiet machine.
network: setup chromium firefox deploy-tools
	$(BIN)/pytest -q -m network

test-all: setup chromium
	$(BIN)/pytest -q

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(MAKE) audit
	$(MAKE) test

# The installed packages: known weaknesses, licences, and a list of them in CycloneDX's form.
.PHONY: audit licences sbom release-check
audit: setup
	$(BIN)/python tools/audit.py

licences: setup
	$(BIN)/pip-licenses --from=mixed --order=license

sbom: setup
	mkdir -p build
	$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --output-file build/sbom.json $(BIN)/python

# Wheel and sdist, built, installed in fresh environments and served. QUICK= installs the dependencies anew, too.
QUICK ?= --quick
release-check: setup
	$(BIN)/python tools/release_check.py $(QUICK)

# The documentation as a static site in build/site. Nothing is fetched.
.PHONY: docs docs-pictures
docs: setup
	$(BIN)/python tools/docs.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "open build/site/index.html"

# Pictures of the documentation and of the README, from a clip: make docs-pictures CLIP=clip.mp4
docs-pictures: setup
	$(BIN)/python tools/front_page.py picture $(CLIP)
	$(BIN)/python tools/docs_pictures.py $(CLIP)

# Everything that a GPU can tell, in nine minutes and without a network: torch with CUDA must be there.
gpu:
	$$(test -x $(BIN)/python && echo $(BIN)/python || echo $(PYTHON)) tools/gpu_report.py $(GPU)

# The packages that an image with torch may lack, for Python 3.12; fetched beforehand.
gpu-wheels:
	$(PYTHON) -m pip download -q --only-binary=:all: --python-version 3.12 --implementation cp \
	  --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 -d build/gpu-wheels "pydantic>=2.11" av==18.1.0

loadtest: setup
	$(BIN)/avis loadtest http://$(HOST):$(PORT) --ramp

tiny: setup
	$(BIN)/avis train $(TINY)

clean:
	rm -rf $(VENV) build dist *.egg-info
