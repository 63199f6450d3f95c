# Two commands do everything on a fresh machine:  make reproduce   and   make test
PROFILE ?= smoke
PYTHON ?= python3
FUZZ_SECONDS ?= 60
CORES ?= all
RUN := .venv/bin/python -m
SNAKEMAKE = $(RUN) snakemake --snakefile workflow/Snakefile --cores $(CORES) --scheduler greedy --keep-going \
    --rerun-incomplete --nolock --quiet host progress reason rules --config

.PHONY: reproduce test test-notebooks test-all test-slurm lint fuzz lab docs offline install clean

reproduce: install
	@$(SNAKEMAKE) profile=$(PROFILE)
	@$(RUN) compendium tables --profile $(PROFILE)

# Where no network is, if this machine can (Linux): nothing but the sample CT is fetched.
ISOLATED = $(shell if sh workflow/offline.sh true 2>/dev/null; then echo sh workflow/offline.sh; else \
    echo "this machine cannot take the network away: what follows is tested with it" >&2; fi)
NBVAL = $(ISOLATED) $(RUN) pytest --nbval-lax --nbval-current-env --nbval-cell-timeout=1800 --numprocesses 2 --dist loadfile

# Everyday: five minutes. A test that takes over 5 s is marked slow; those listed at the end ask for it.
test: install
	$(RUN) pytest tests --numprocesses 2 -m "not slow" --durations 0 --durations-min 5
	$(RUN) compendium sample
	$(NBVAL) notebooks/0[0-4]_*.ipynb

# The other notebooks, and the networks they compare before them.
test-notebooks: install
	$(RUN) compendium sample
	@$(ISOLATED) $(SNAKEMAKE) profile=smoke -- grid runs/smoke/sample/ct_sij.nii.gz runs/smoke/first_mask/ct_sij.nii.gz
	$(NBVAL) notebooks/0[5-9]_*.ipynb notebooks/1*.ipynb

# Everything, the everyday tests included.
test-all: test test-notebooks test-slurm fuzz
	$(RUN) pytest tests --numprocesses 2 -m slow --ignore tests/test_slurm.py
	.venv/bin/python tests/mutants.py

# Three networks as jobs of a Slurm of one node, which ends with the test. On Debian and Ubuntu; elsewhere it is skipped.
APT = $(if $(filter-out 0,$(shell id -u)),sudo --non-interactive) apt-get --quiet=2

test-slurm: install
	@PATH=$$PATH:/usr/sbin; { command -v munged && command -v slurmd; } >/dev/null || { $(APT) update && \
	    $(APT) install --yes --no-install-recommends munge slurm-wlm >/dev/null; } || \
	    echo "Slurm could not be installed; as root: apt-get install munge slurm-wlm" >&2
	$(RUN) pytest tests/test_slurm.py -rs

lint: install
	$(RUN) ruff check .

# Damaged files for every reader: a minute, or FUZZ_SECONDS=600. On Linux only.
fuzz: install
	@sh workflow/tools.sh fuzz
	cd runs/fuzz && PYTHONPATH=tools ../../.venv/bin/python ../../tests/fuzz_readers.py $(FUZZ_SECONDS)

# JupyterLab itself asks public hosts for updates and news; not here.
QUIET_LAB = --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate --LabApp.news_url=None

lab: install
	@.venv/bin/python workflow/viewer $$(command -v npm >/dev/null && echo install || echo check) || \
	    echo "JupyterLab starts all the same; notebook 10 takes the next viewer, and says what to do for itkwidgets" >&2
	$(RUN) jupyter lab --notebook-dir=. --ip=127.0.0.1 $(QUIET_LAB) $(if $(filter 0,$(shell id -u)),--allow-root) notebooks/00_start_here.ipynb

# The pages and the notebooks of the PROFILE, run where they have not been, as a site that asks no host for anything.
docs: install
	@$(SNAKEMAKE) profile=$(PROFILE) -- $(patsubst %.ipynb,runs/$(PROFILE)/%.html,$(wildcard notebooks/*.ipynb))
	@sh workflow/site.sh runs/$(PROFILE)/notebooks runs/docs/site
	@echo "open $(CURDIR)/runs/docs/site/index.html"

# The whole smoke workflow in a copy of this folder, where no network is (Linux).
offline: install
	@$(RUN) compendium sample
	rm -rf runs/offline && mkdir -p runs/offline/data
	git ls-files -z | xargs -0 cp --parents --target-directory=runs/offline
	cp -r data/sample runs/offline/data
	cd runs/offline && PYTHONPATH=. sh workflow/offline.sh $(CURDIR)/$(SNAKEMAKE) profile=smoke
	@echo "all of it worked without a network: $(CURDIR)/runs/offline"

install: .venv/installed

.venv/installed: requirements.lock requirements-cpu.lock requirements-gpu.lock pyproject.toml workflow/install.sh
	@PYTHON=$(PYTHON) sh workflow/install.sh

# Downloads, generated data and runs; figures and notebooks stay.
clean:
	rm -rf runs .snakemake data/phantoms-* data/prepared data/sample
