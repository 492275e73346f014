# make env    everything that is needed: .venv with all packages, and Psi4
# make demo   set-up, then the starter reactions with config/config.yaml
# make leaderboard REACTIONS=path METHODS="a b" MINUTES=60 CORES=2 RESULTS=folder PUBLISHED=table ENGINE=psi4
#             methods by structures for so many minutes, then one page; the same command goes on
#             on a cluster: PROFILE=slurm, and JOBS=8 for a short queue
# make test   set-up, then the whole test suite
# make lint   format and static checks
# make reliability  faults really made, docs/reliability.md (resumable)
# make clean  caches and .venv; never results
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.ONESHELL:
export PATH := $(CURDIR)/.venv/bin:$(PATH)
CORES ?= $(shell n=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1); echo $$((n < 4 ? n : 4)))

.PHONY: env demo leaderboard reliability test lint clean
.DEFAULT_GOAL := env

env:
	@tools/environment.sh run
	@echo "saddleflow: ready; for daily use: export PATH=\"$(CURDIR)/.venv/bin:\$$PATH\""

demo:
	@tools/environment.sh run
	python tools/unlock.py
	status=0
	snakemake --cores $(CORES) || status=$$?
	saddleflow where config/config.yaml
	exit $$status

leaderboard:
	@tools/environment.sh run
	python tools/leaderboard.py --cores $(CORES) --minutes $(or $(MINUTES),60) \
	  --results "$(or $(RESULTS),results-leaderboard)" --reactions "$(REACTIONS)" --methods "$(METHODS)" \
	  --engine "$(ENGINE)" --published "$(PUBLISHED)" --settings "$(SETTINGS)" --profile "$(PROFILE)" --jobs "$(JOBS)"

test:
	@tools/environment.sh test
	@python -m pytest

lint:
	@tools/environment.sh run
	@python -m pip install --quiet --disable-pip-version-check -e '.[lint]'
	ruff check .
	ruff format --check .
	snakefmt --check Snakefile workflow/rules

reliability:
	@tools/environment.sh run
	python tools/reliability.py .reliability/state.json docs/reliability.md

clean:
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis build dist src/*.egg-info
	find src tests workflow -name __pycache__ -type d -prune -exec rm -rf {} +
