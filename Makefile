# Two commands do everything on a fresh machine:  make reproduce   and   make test
PROFILE ?= smoke
PYTHON ?= python3
FUZZ_SECONDS ?= 120
CORES ?= all
RUN := .venv/bin/python -m
SNAKEMAKE = $(RUN) snakemake --snakefile workflow/Snakefile --cores $(CORES) --scheduler greedy --keep-going \
    --rerun-incomplete --nolock --quiet host progress reason rules --config

.PHONY: reproduce test torture lint fuzz lab offline quality install clean

reproduce: install
	@$(SNAKEMAKE) profile=$(PROFILE)
	@$(RUN) compendium tables --profile $(PROFILE)

# The notebooks' networks first: the workflow trains two at a time, a notebook one after the other. Both where no network is,
# if this machine can (Linux): nothing but the sample CT is fetched.
ISOLATED = $(shell if sh workflow/offline.sh true 2>/dev/null; then echo sh workflow/offline.sh; else \
    echo "this machine cannot take the network away: what follows is tested with it" >&2; fi)

test: install
	$(RUN) pytest tests --numprocesses 2
	$(RUN) compendium sample
	@$(ISOLATED) $(SNAKEMAKE) profile=smoke -- grid runs/smoke/sample/ct_sij.nii.gz runs/smoke/first_mask/ct_sij.nii.gz
	$(ISOLATED) $(RUN) pytest --nbval-lax --nbval-current-env --nbval-cell-timeout=1800 notebooks

# Every fault: jobs ended at random moments, disks that fill up, clocks that jump. About half an hour.
torture: install
	$(RUN) pytest tests/test_faults.py --torture

# Coverage of all tests by lines and branches, then mutations of metrics, losses, geometry and splits. About an hour.
quality: install
	@mkdir -p runs/quality
	$(RUN) coverage erase && $(RUN) coverage run -m pytest tests && $(RUN) coverage combine --quiet
	$(RUN) coverage report && $(RUN) coverage json --quiet -o runs/quality/coverage.json && .venv/bin/python workflow/covered.py; \
	    covered=$$?; sh workflow/mutations.sh && exit $$covered

lint: install
	$(RUN) ruff check .

# Two minutes, or FUZZ_SECONDS=600. On Linux only.
fuzz: install
	@sh workflow/quality_tools.sh
	mkdir -p runs/fuzz && cd runs/fuzz && PYTHONPATH=../quality/tools ../../.venv/bin/python ../../tests/fuzz_readers.py $(FUZZ_SECONDS)

# JupyterLab itself asks public hosts for updates and news; not here.
QUIET_LAB = --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate --LabApp.news_url=None

lab: install
	@.venv/bin/python workflow/viewer $$(command -v npm >/dev/null && echo install || echo check) || \
	    echo "JupyterLab starts all the same; notebook 10 takes the next viewer, and says what to do for itkwidgets" >&2
	$(RUN) jupyter lab --notebook-dir=. --ip=127.0.0.1 $(QUIET_LAB) $(if $(filter 0,$(shell id -u)),--allow-root) notebooks/00_start_here.ipynb

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
