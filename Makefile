# `make demo` and `make test` need Python 3.11 or newer, make and a package index; each makes its own environment.

PYTHON ?= python3
# Not --dist loadgroup: pytest-xdist 3.8 runs a test again in which a worker died, and waits for ever in the end
# (https://github.com/pytest-dev/pytest-xdist/issues/1378, /1371).
PYTEST = -m pytest --numprocesses 2 --dist worksteal
PIP_INSTALL = -m pip install --quiet --disable-pip-version-check

# What other versions can break: the core, and what runs in or beside it. A choice, so that all legs of .ci/run together
# stay under 40 minutes on two cores.
CORE_TESTS = tests/test_compat.py tests/test_config.py tests/injection tests/base/test_state.py tests/base/test_bos.py \
	tests/base/test_fingerprint.py tests/base/test_probe.py tests/patch/test_folder.py \
	$(addprefix tests/model/test_, $(addsuffix .py, patched_model named_patches calls files delegation auto)) \
	$(addprefix tests/export/test_, $(addsuffix .py, baking token_rows head_rows tokenizer_files)) tests/answers/test_served_probe.py
NEWEST_TESTS = $(CORE_TESTS) tests/test_readme.py tests/model/test_trainer_hook.py tests/base/test_loading.py \
	tests/hub/test_round_trip.py tests/hub/test_push.py \
	$(addprefix tests/training/test_, $(addsuffix .py, trl_contract sft dpo two_stage adopted settings fused_head))
LOWEST_TESTS = $(CORE_TESTS) tests/hub/test_round_trip.py tests/hub/test_push.py tests/report/test_plots.py \
	$(addprefix tests/evaluation/test_, $(addsuffix .py, scorers evaluate))

.PHONY: help demo test test-newest test-lowest check docs dist space clean

help:
	@echo "make demo    train a patch on the embedded miniature models and show before and after (about a minute after the install)"
	@echo "make test    the full test suite, with the versions of constraints.txt"
	@echo "make test-newest, make test-lowest    a part of it with the newest and the lowest versions allowed"
	@echo "make check   lint, format, documentation and distribution, strict"
	@echo "make docs    build the documentation into site/"
	@echo "make dist    build what an index gets into dist/, and check it"
	@echo "make space   put the page and the package into dist/space/, to be uploaded as a Space of the Hub"
	@echo "make clean   remove environments and what was built"

demo: .venv-demo/ready
	.venv-demo/bin/policy-patch demo --output_dir demo-output

test: .venv-test/ready
	OMP_NUM_THREADS=1 .venv-test/bin/python $(PYTEST)

test-newest: .venv-newest/ready
	OMP_NUM_THREADS=1 .venv-newest/bin/python $(PYTEST) $(NEWEST_TESTS)

# The demo trains, and training asks for a newer transformers than all the rest: it lies in a folder of its own.
test-lowest: .venv-lowest/ready
	OMP_NUM_THREADS=1 .venv-lowest/bin/python $(PYTEST) $(LOWEST_TESTS)
	.venv-lowest/bin/python $(PIP_INSTALL) --no-deps --upgrade --target .venv-lowest/for-training transformers==5.23.0
	OMP_NUM_THREADS=1 PYTHONPATH=.venv-lowest/for-training .venv-lowest/bin/python $(PYTEST) tests/cli/test_demo.py

check: .venv-docs/ready
	.venv-docs/bin/ruff check .
	.venv-docs/bin/ruff format --check .
	$(MAKE) docs dist

# What an index would get, checked as it is there. TAG=v1.2.0 also checks that it is the version of that tag, and
# REPOSITORY=https://... that all addresses in it are of the repository that releases it.
dist: .venv-docs/ready
	rm -rf dist
	.venv-docs/bin/python -m build --no-isolation --outdir dist .
	.venv-docs/bin/twine check --strict dist/*
	.venv-docs/bin/python -m tests.distribution dist $(if $(TAG),--tag $(TAG)) $(if $(REPOSITORY),--repository $(REPOSITORY))

# The package lies beside the page, so that the Space's requirements name packages of the index only.
SPACE = dist/space
space:
	rm -rf $(SPACE)
	mkdir -p $(SPACE)
	cp -R spaces/policy_patch_demo/. policy_patch $(SPACE)
	find $(SPACE) -name __pycache__ -prune -exec rm -rf {} +
	@echo "Wrote $(SPACE). Next: hf upload ORG/NAME $(SPACE) --repo-type space"

docs: .venv-docs/ready
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict --quiet

clean:
	rm -rf .venv-demo .venv-test .venv-newest .venv-lowest .venv-docs demo-output site dist

# An environment is ready when its install came to the end; a broken one is made anew.

.venv-demo/ready: what = --constraint constraints.txt --editable ".[all]"
.venv-test/ready: what = --constraint constraints.txt --editable ".[test]"
.venv-docs/ready: what = --constraint constraints.txt --requirement docs/requirements.txt
# A newer torch than this comes with several GB of CUDA.
.venv-newest/ready: what = --editable ".[test]" torch==2.13.0
.venv-lowest/ready: what = --constraint constraints-lowest.txt --editable ".[cli,eval,endpoint]" \
	datasets gradio hypothesis markdown-it-py pandas peft pexpect psutil pytest pytest-timeout pytest-xdist trl

.venv-%/ready: pyproject.toml constraints.txt constraints-lowest.txt docs/requirements.txt
	@echo "Making the environment .venv-$* (a minute or two) ..."
	rm -rf .venv-$*
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/python $(PIP_INSTALL) $(what)
	touch $@
