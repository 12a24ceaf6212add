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

# MONAI Label has an environment of its own, see requirements-label.txt
LABEL_ENV := $(CURDIR)/.venv-label
LABEL_RUN := $(LABEL_ENV)/bin/python
LABEL_READY := $(LABEL_ENV)/.few-label-bundles-$(shell (cat requirements-label.txt custom/monai_label/torchvision_fit.py; pwd) | cksum | cut -d' ' -f1)
BUNDLE ?= cctr_acdc
# folder of the model.pt and model.json of a training to serve
WEIGHTS ?=
HOST ?= 127.0.0.1
PORT ?= 8000
# names by which other machines call the server, and web pages of other servers that may use it
ALLOW ?=
ORIGINS ?=

.PHONY: demo demo-coral bundles pictures package label-studies label-server test test-slow test-label lint bench clean

demo: $(READY)
	$(RUN) -m custom.cli.demo hearts

demo-coral: $(READY)
	$(RUN) -m custom.cli.demo coral

# the configs of the bundles, from bundles/sources
bundles: $(READY)
	$(RUN) -m custom.cli.bundles bundles

# those of README.md and docs, from the phantom and the demo, which is run first if it was not
pictures: $(READY)
	$(RUN) -m custom.cli.pictures docs/pictures

package: $(READY)
	$(RUN) -m custom.cli.package dist

# before an installation of minutes
label-studies:
	@test -d "$(STUDIES)" || [[ "$(STUDIES)" == *://* ]] || { \
	  echo "STUDIES: '$(STUDIES)' is no folder; give that of the images: make label-server STUDIES=<folder>"; exit 2; }

label-server: label-studies $(LABEL_READY)
	$(LABEL_RUN) -m custom.monai_label.server "$(STUDIES)" --bundles $(BUNDLE) --host $(HOST) --port $(PORT) \
	  $(if $(WEIGHTS),--weights "$(WEIGHTS)") $(if $(ALLOW),--allow $(ALLOW)) $(if $(ORIGINS),--origins $(ORIGINS))

test: $(READY)
	$(RUN) -m ruff check .
	$(RUN) -m pytest -q -n logical --dist loadfile

test-slow: $(READY)
	$(RUN) -m pip install -q -e '.[tracking,publishing]'
	$(RUN) -m pytest -q -m slow

test-label: $(LABEL_READY)
	$(LABEL_RUN) -m pip install -q pytest==9.2.0
	$(LABEL_RUN) -m pytest -q -m slow tests/monai_label/test_server.py tests/monai_label/test_series.py

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

$(LABEL_READY):
	@test -x $(LABEL_RUN) || $(PYTHON) -m venv $(LABEL_ENV)
	$(LABEL_RUN) -m pip install -q --upgrade pip
	@$(LABEL_RUN) -c 'import torch' 2> /dev/null || $(LABEL_RUN) -m pip install -q '$(TORCH)'
	@# before minutes of installing; what does not fit is repaired at the end
	@$(LABEL_RUN) custom/monai_label/torchvision_fit.py notice
	@# without a build of its own, for which pip would fetch torch a second time
	$(LABEL_RUN) -m pip install -q setuptools
	SAM2_BUILD_CUDA=0 $(LABEL_RUN) -m pip install -q --no-build-isolation --no-deps sam2==1.1.0
	$(LABEL_RUN) -m pip install -q -r requirements-label.txt
	$(LABEL_RUN) custom/monai_label/torchvision_fit.py repair
	@touch $@

clean:
	rm -rf dist runs bundles/*/models bundles/*/eval bundles/*/data
