# `make demo` and `make test` need Python 3.11 or newer, make and a package index; each makes its own environment.

PYTHON ?= python3
# Not --dist loadgroup: pytest-xdist 3.8 runs a test again in which a worker died, and waits for ever in the end
# (https://github.com/pytest-dev/pytest-xdist/issues/1378, /1371).
PYTEST = -m pytest --numprocesses 2 --dist worksteal
PIP_INSTALL = -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: help demo test check docs clean

help:
	@echo "make demo    train a patch on the embedded miniature models and show before and after (about a minute after the install)"
	@echo "make test    the full test suite"
	@echo "make check   lint, format and documentation, strict"
	@echo "make docs    build the documentation into site/"
	@echo "make clean   remove environments and what was built"

demo: .venv-demo/ready
	.venv-demo/bin/policy-patch demo --output_dir demo-output

test: .venv-test/ready
	OMP_NUM_THREADS=1 .venv-test/bin/python $(PYTEST)

check: .venv-docs/ready
	.venv-docs/bin/ruff check .
	.venv-docs/bin/ruff format --check .
	$(MAKE) docs

docs: .venv-docs/ready
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict --quiet

clean:
	rm -rf .venv-demo .venv-test .venv-docs demo-output site

# An environment is ready when its install came to the end; a broken one is made anew.

.venv-demo/ready: what = --editable ".[all]"
.venv-test/ready: what = --editable ".[test]"
.venv-docs/ready: what = --requirement docs/requirements.txt

.venv-%/ready: pyproject.toml constraints.txt docs/requirements.txt
	@echo "Making the environment .venv-$* (a minute or two) ..."
	rm -rf .venv-$*
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/python $(PIP_INSTALL) $(what)
	touch $@
