# Every habit of this project; `make help` lists them.
.DEFAULT_GOAL := help
.PHONY: help run watch-events consume audit schemas schema-sql faults relay-faults simulate mutants mutation nightly races bench-history bench-overload bench bench-quick bench-profile bench-relay bench-outbox test test-unit test-integration test-system check format lock clean environment environment-dev environment-profile environment-dbos environment-mutation

# The first Python that is new enough; name another one with `make PYTHON=/path/to/python ...`.
PYTHON ?= $(or $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
  $$python -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done),python3)
PYTEST = .venv-dev/bin/python -m pytest
# Much of the suite waits for processes to start, stop or fail: two at a time keep both cores busy.
WORKERS ?= 2
# Services share one version of each package: the widest lock is solved first and constrains the others.
LOCK = .venv-dev/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
  --no-emit-index-url $(if $(UPGRADE),--upgrade)
SERVICES = order product coupon balance relay

help: ## list these habits
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-17s %s\n", $$1, $$2 }' Makefile

run: environment ## start everything here: database, broker, five services and demo data
	@exec .venv/bin/python -m deploy.local

watch-events: environment ## print the events of the topic as they arrive
	@exec .venv/bin/python -m deploy.local.watch_events

consume: environment ## run the reference consumer beside what runs here, and prove that it missed nothing
	@exec .venv/bin/python -m deploy.local.consume

audit: environment ## audit what runs here: every order against every book
	@exec .venv/bin/python -m deploy.local.audit

schemas: environment-dev ## write the events' schemas under docs/ anew, from the models that describe them
	@.venv-dev/bin/python -m services.relay.schemas docs/schemas

schema-sql: environment-dev ## write every service's schema.sql anew, from its migrations; needs Postgres 15
	@.venv-dev/bin/python -m tests.infrastructure.schema_dump

# A folder of its own: other runs of pytest close the common one to the user that the embedded Postgres runs as.
test: environment-dev ## run every test, against real Postgres and the best broker this machine has
	@exec $(PYTEST) --numprocesses $(WORKERS) --dist loadfile --basetemp="$$(mktemp -d)/tests"

test-unit: environment-dev ## run the pure tests: no database, no broker, no process
	@exec $(PYTEST) tests/unit

test-integration: environment-dev ## run the tests of a part against Postgres or a broker
	@exec $(PYTEST) tests/integration tests/contract

test-system: environment-dev ## run the tests that start the services as processes
	@exec $(PYTEST) tests/system

faults: environment-dev ## shop while everything fails; SECONDS=300, SEED=… to repeat a run
	@FAULTS_SECONDS=$(or $(SECONDS),300) FAULTS_SEED=$(SEED) $(PYTEST) -s tests/faults/test_faults.py

relay-faults: environment-dev ## 100,000 events while relays and broker are killed 50 times; EVENTS=…, STRIKES=…, SEED=…
	@RELAY_FAULTS_EVENTS=$(or $(EVENTS),100000) RELAY_FAULTS_STRIKES=$(or $(STRIKES),50) FAULTS_SEED=$(SEED) \
	  $(PYTEST) -s tests/faults/test_relay_faults.py

simulate: environment-dev ## simulate a million steps of faults; STEPS=…, SEED=… to replay one history
	@.venv-dev/bin/python -m tests.simulation $(if $(SEED),--seed $(SEED)) $(if $(STEPS),--steps $(STEPS))

mutants: environment-dev ## take each rule and guard of a fixed set out of the product in turn: tests have to notice
	@exec $(PYTEST) --numprocesses $(WORKERS) --basetemp="$$(mktemp -d)/tests" tests/mutation

mutation: environment-dev environment-mutation ## look for conditions that no test misses, at random; SECONDS=1200, SEED=…, ONLY=services/relay
	@exec .venv-dev/bin/python -m tests.mutation.sample --seconds $(or $(SECONDS),1200) $(if $(SEED),--seed $(SEED)) \
	  $(if $(ONLY),--only $(ONLY))

nightly: environment-dev ## run everything that takes long, and print a table of it; SEED=…, ARGS="faults races" for some
	@exec .venv-dev/bin/python -m tests.nightly $(if $(SEED),--seed $(SEED)) $(ARGS)

races: environment-dev ## 10,000 races of payment, cancellation and expiry, and as many connections dropped
	@RACES=$(or $(RACES),10000) DROPPED=$(or $(DROPPED),10000) FAULTS_SEED=$(SEED) \
	  $(PYTEST) -s tests/faults/test_replicas.py

check: environment-dev ## check format, lint, types and import rules
	@.venv-dev/bin/ruff format --check --quiet . || { echo 'make format mends this'; exit 1; }
	@.venv-dev/bin/ruff check --quiet .
	@.venv-dev/bin/mypy
	@.venv-dev/bin/lint-imports --no-logo

format: environment-dev ## format the code and mend what the linter can
	@.venv-dev/bin/ruff check --fix --quiet . ; .venv-dev/bin/ruff format .

lock: environment-dev ## solve every requirements.in again; UPGRADE=1 takes newer versions
	@$(LOCK) tests/requirements.in --output-file tests/requirements.lock
	@for folder in deploy/local deploy/consumer $(SERVICES:%=services/%); do \
	  echo $$folder && $(LOCK) --constraints tests/requirements.lock $$folder/requirements.in \
	    --output-file $$folder/requirements.lock || exit 1; done
	@for folder in profiler peer_program; do \
	  $(LOCK) tests/bench/checkout/$$folder/requirements.in \
	    --output-file tests/bench/checkout/$$folder/requirements.lock || exit 1; done
	@# Not yattag: there is no wheel of it, and only the tool's report in HTML needs it.
	@$(LOCK) --no-emit-package yattag tests/mutation/generator/requirements.in \
	  --output-file tests/mutation/generator/requirements.lock

bench-outbox: environment-dev ## whether the outbox grows, or claims slow down, by a million published events; ARGS="--only held"
	@exec .venv-dev/bin/python -m tests.bench.outbox $(ARGS)

bench-relay: environment-dev ## how fast the relay is beside a plain loop, against a real broker; run it alone
	@exec .venv-dev/bin/python -m tests.bench.relay $(if $(ONLY),--only $(ONLY))

bench: environment-dev environment-profile environment-dbos ## measure checkouts beside pgbench and dbos; fails if one of the promised ratios is missed
	@exec .venv-dev/bin/python -m tests.bench.checkout

bench-quick: environment-dev environment-profile environment-dbos ## the same in fewer and shorter rounds
	@exec .venv-dev/bin/python -m tests.bench.checkout --quick

bench-history: environment-dev ## whether checkouts cost the same after a million orders; ARGS="--orders 100000" and others
	@exec .venv-dev/bin/python -m tests.bench.history $(ARGS)

bench-overload: environment-dev ## what is served when two and four times as many come as can be; ARGS="--seconds 5"
	@exec .venv-dev/bin/python -m tests.bench.overload $(ARGS)

bench-profile: environment-dev environment-profile ## where a checkout's time goes; ARGS="--clients 64 --scenario cold" and others
	@exec .venv-dev/bin/python -m tests.bench.checkout.profile $(ARGS)

clean: ## remove the data, logs and environments that the other targets made
	@if test -f .venv/installed.lock; then .venv/bin/python -m deploy.local.clean; fi
	rm -rf .local .venv .venv-dev .venv-dbos .venv-profile .venv-mutation .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

environment:
	@$(PYTHON) deploy/environment.py .venv deploy/local/requirements.lock

environment-dev:
	@$(PYTHON) deploy/environment.py .venv-dev tests/requirements.lock

environment-profile:
	@$(PYTHON) deploy/environment.py .venv-profile tests/bench/checkout/profiler/requirements.lock

environment-dbos:
	@$(PYTHON) deploy/environment.py .venv-dbos tests/bench/checkout/peer_program/requirements.lock

environment-mutation:
	@$(PYTHON) deploy/environment.py .venv-mutation tests/mutation/generator/requirements.lock
