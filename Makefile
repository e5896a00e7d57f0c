# The commands a newcomer needs. Each sets up what it needs first (slurm/bootstrap --help says what and how).

SCRIPTS := slurm/build_horovod slurm/check_horovod slurm/devcluster
DEMO := experiment=lenet_fashion_mnist cluster=local resources.ranks=2 run.study=demo

.DEFAULT_GOAL := help
.PHONY: help setup setup-slurm demo test test-long bench mutants clean

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

setup: ## install what hpctrain needs: system packages (as root), .venv/, Horovod
	@slurm/bootstrap

setup-slurm: # and Slurm, for the development cluster of the tests
	@slurm/bootstrap --with-slurm

demo: setup ## train LeNet-5 on Fashion-MNIST with two Horovod ranks, as a batch job on this machine
	.venv/bin/hpctrain submit $(DEMO)
	.venv/bin/hpctrain logs -f --study demo

test: setup-slurm ## check style and types, run the tests (with real Horovod ranks and a real Slurm)
	.venv/bin/ruff check . $(SCRIPTS)
	.venv/bin/ruff format --check . $(SCRIPTS)
	.venv/bin/mypy
	.venv/bin/pytest -n 2 -m "not long" tests/unit
	.venv/bin/pytest -m "not long" tests/integration tests/slurm

test-long: setup-slurm ## run the tests that take minutes each
	.venv/bin/pytest -m long tests/unit tests/integration tests/slurm

mutants: setup ## see what the tests of each pure module notice: they must kill 90 % of its mutants
	.venv/bin/python tests/mutants.py

bench: setup-slurm ## measure this project beside its peers
	@for script in tests/benchmarks/*.py; do \
		echo "== $$script"; .venv/bin/python $$script || exit 1; done

clean: ## delete caches and built packages; runs/, data/ and .venv/ stay
	rm -rf build dist .mutants .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -path ./.venv -prune -o -path ./runs -prune -o -path ./data -prune -o \
		-name __pycache__ -type d -exec rm -rf {} +
