# Each target makes the environment that it needs. To use one of your own instead, activate it first
# (`source .../bin/activate` or `conda activate ...`): what it lacks of requirements.txt is then installed into it.
SHELL := bash
PYTHON ?= python3
# Installed where no torch is yet. A machine with a GPU may want another build: install it first, in an active environment.
TORCH ?= torch==2.13.0

ACTIVE := $(or $(VIRTUAL_ENV),$(CONDA_PREFIX))
ENV := $(if $(ACTIVE),$(ACTIVE),$(CURDIR)/.venv)
RUN := $(ENV)/bin/python
READY := $(ENV)/.few-label-bundles-$(shell (cat requirements.txt pyproject.toml; pwd) | cksum | cut -d' ' -f1)

.PHONY: demo demo-cctr package test test-slow lint bench clean

demo: $(READY)
	$(RUN) -m custom.demo coral

demo-cctr: $(READY)
	$(RUN) -m custom.demo cctr

package: $(READY)
	$(RUN) -m custom.archive dist

test: $(READY)
	$(RUN) -m ruff check .
	$(RUN) -m pytest -q

test-slow: $(READY)
	$(RUN) -m pip install -q -e '.[tracking]'
	$(RUN) -m pytest -q -m slow

lint: $(READY)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

bench: $(READY)
	$(RUN) benchmarks/coral_loss.py
	$(RUN) -m pip install -q -e '.[benchmark]'
	$(RUN) benchmarks/pretrain_throughput.py

$(READY):
	@test -x $(RUN) || $(PYTHON) -m venv $(ENV)
	$(RUN) -m pip install -q --upgrade pip
	@$(RUN) -c 'import torch' 2> /dev/null || $(RUN) -m pip install -q '$(TORCH)'
	$(RUN) -m pip install -q -r requirements.txt
	$(RUN) -m pip install -q -e '.[test]'
	@touch $@

clean:
	rm -rf dist runs bundles/*/models bundles/*/eval bundles/*/data
