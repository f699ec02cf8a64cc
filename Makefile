# SPDX-License-Identifier: Apache-2.0
# make run, make test, make check, make bench: each sets up what it needs first.

PYTHON ?= /usr/bin/python3
VENV := .venv
BIN := $(VENV)/bin
# What the virtual environment and the tests take from the distribution. bcc is seen only by the distribution's own interpreter.
PACKAGES := python3-bpfcc python3-venv python3-dev libbpf1 libbpf-dev bpftool gcc tmux kmod prometheus prometheus-alertmanager victoria-metrics chromium nodejs npm optipng

# Python without a suffix.
SCRIPTS := kernel/boot kernel/guest kernel/run kernel/source kernel/tree kernel/workload

KERNEL ?= patched
ONCE ?=
PYTEST_ARGS ?=
# Tests that `make test` runs at a time: two guests keep two processors busy.
WORKERS ?= 2
HOURS ?= 2
RELEASE ?=
KERNELS ?=
# Where packages of a release that was named go: dist/*.deb are those of this machine's.
DEBS := dist$(if $(RELEASE),/debian-$(RELEASE))
# What took longest is listed at the end: CI has a limit.
PYTEST_SHARED := $(BIN)/pytest -n $(WORKERS) --dist loadscope --no-loadscope-reorder --durations 30 --durations-min 5

.PHONY: setup packages run test matrix soak check lint bench pictures deb test-package clean

setup: $(VENV)/.ready bpf/programs.json

# The BPF programs, compiled once for every kernel. Not there where bcc may not make maps: then each host compiles at its first start.
bpf/programs.json: $(VENV)/.ready $(wildcard bpf/*.c bpf/*.h) $(shell find bpf/include -name '*.h')
	@$(BIN)/python packaging/compile_programs.py bpf && touch -c $@

# The interpreter of the virtual environment must be the distribution's: no other sees its bcc, and the pip package of that name is something else.
# What is compiled is compiled again when it changes.
COMPILED := $(wildcard uaptrace/*/*.pxd)
$(VENV)/.ready: setup.cfg setup.py pyproject.toml $(COMPILED) $(COMPILED:.pxd=.py)
	@echo "setting up $(VENV): this takes a few minutes the first time" >&2
	@.ci/packages python3-bpfcc python3-venv python3-dev gcc libbpf1 >&2
	@test -x $(BIN)/python || $(PYTHON) -m venv --system-site-packages $(VENV) >&2
	@$(BIN)/pip install -q --disable-pip-version-check -e '.[test]' >&2
	@touch $@

packages:
	@.ci/packages $(PACKAGES) >&2

run: setup
	@KERNEL=$(KERNEL) ONCE=$(ONCE) kernel/run

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/mypy --scripts-are-modules $(SCRIPTS)
	$(BIN)/vulture
	@$(BIN)/reuse lint --lines

# The quick subset: no virtual machine, no browser, under two minutes.
check: setup lint
	$(BIN)/pytest -q -m 'not vm and not browser and not slow' $(PYTEST_ARGS)

test: setup packages lint
	kernel/build >/dev/null
	$(PYTEST_SHARED) $(PYTEST_ARGS)

# Every row of the matrix, also those that CI has no time for.
matrix: setup packages
	UAPTRACE_MATRIX=1 $(PYTEST_SHARED) tests/vm/test_matrix.py tests/vm/test_releases.py tests/vm/test_bisect.py tests/vm/test_here.py tests/vm/test_trial_failures.py $(PYTEST_ARGS)

# Left running on a host that is never quiet: make soak HOURS=2 (of a kernel with a dump of its page tables).
soak: setup packages
	UAPTRACE_SOAK_HOURS=$(HOURS) KERNEL=$(KERNEL) $(BIN)/pytest tests/vm/test_soak.py $(PYTEST_ARGS)

bench: setup packages
	$(BIN)/python -m bench

pictures: setup packages
	$(BIN)/python -m tests.browser.pictures

clean:
	rm -rf $(VENV) build *.egg-info

# The Debian package for the release of this machine, or of another one: sudo make deb RELEASE=13
deb: setup
	packaging/build-deb $(DEBS) $(RELEASE)

# The package as a user installs it, on hosts of their own in QEMU, one for each kernel: sudo make test-package RELEASE=13 KERNELS='6.12 7.3'
# Root only; a kernel takes 7 to 11 minutes.
test-package: setup packages deb
	UAPTRACE_TEST_PACKAGE=$$(ls -t $(DEBS)/*.deb | head -1) UAPTRACE_TEST_KERNELS='$(KERNELS)' $(BIN)/pytest packaging/tests -s $(PYTEST_ARGS)
