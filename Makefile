# `make` alone tells what there is.
.PHONY: help setup demo test image-test chaos soak check docs reference bench bench-peers clean
.DEFAULT_GOAL := help

help: ## say what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' Makefile

setup: ## install everything into .venv; quick when that is done already
	@deploy/setup

demo: setup ## show CNM at work
	@.venv/bin/cnm demo

test: setup ## run all tests, two files at a time, the fast ones first (make test ARGS="-k pool"); see deploy/test
	@deploy/setup-examples
	@deploy/test $(ARGS)

image-test: setup ## build the image and start the compose stack in a machine of its own, with Debian's Docker (needs debootstrap)
	@.venv/bin/python -m pytest -q tests/image $(ARGS)

chaos: setup ## two minutes of kills under a hundred clients, then a fault at every step of every saga (an hour)
	@CNM_CHAOS_SECONDS=$${CNM_CHAOS_SECONDS:-120} CNM_CHAOS_CLIENTS=$${CNM_CHAOS_CLIENTS:-100} \
		CNM_FAULTS=$${CNM_FAULTS:-all} \
		.venv/bin/python -m pytest -q --show-capture=no tests/e2e/api/test_chaos.py tests/e2e/api/test_faults.py $(ARGS)

soak: setup ## an hour of steady work: nothing may grow (CNM_SOAK_SECONDS)
	@.venv/bin/python -m bench.soak

check: setup ## lint, format, types, and who may import whom
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/lint-imports --no-logo
	.venv/bin/python -m cnm.docs --check

docs: setup ## write docs/ from the code
	@.venv/bin/python -m cnm.docs
	@CNM_WRITE_DOCS=1 .venv/bin/python -m pytest -q tests/unit/driver_bridge/test_rules_page.py

reference: setup ## write the examples of the reference from a run of a real installation, and docs/ from them
	@CNM_WRITE_DOCS=1 .venv/bin/python -m pytest -q tests/e2e/test_reference.py -k examples
	@.venv/bin/python -m cnm.docs

bench: setup ## measure; see bench/
	@.venv/bin/python -m bench $(ARGS)

bench-peers: setup ## measure beside dockerd, netavark, CNI and dnsmasq, a quarter of an hour (ARGS=--quick: five minutes)
	@.venv/bin/python -m bench.peers $(ARGS)

.PHONY: pictures
pictures: setup ## take the pictures of the README in a browser, over a real installation
	@CNM_BROWSER=1 deploy/setup-browser
	@.venv/bin/python -m bench.pictures

clean: ## remove what setup and the tools made
	rm -rf .venv .uv .setup .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache \
		examples/javascript/node_modules tests/asyncapi/node_modules .image
