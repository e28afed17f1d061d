# The targets of this project; `make help` lists them.
.DEFAULT_GOAL := help
.PHONY: help run watch-events consume audit schemas schema-sql faults relay-faults simulate mutants mutation nightly races bench-history bench-overload bench bench-quick bench-profile bench-relay bench-outbox test test-unit test-integration test-system check format lock clean environment environment-dev environment-profile environment-dbos environment-mutation

# The first Python that is new enough; name another one with `make PYTHON=/path/to/python ...`.
PYTHON ?= $(or $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
  $$python -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done),python3)
PYTEST = .venv-dev/bin/python -m pytest
# Many tests wait for processes to start, stop or fail, so two workers keep both cores busy.
WORKERS ?= 2
# Services share one version of each package: the largest lock is resolved first and constrains the others.
LOCK = .venv-dev/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
  --no-emit-index-url $(if $(UPGRADE),--upgrade)
SERVICES = order product coupon balance relay

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-17s %s\n", $$1, $$2 }' Makefile

run: environment ## start everything here: database, broker, five services and demo data
	@exec .venv/bin/python -m deploy.local

watch-events: environment ## print the events of the topic as they arrive
	@exec .venv/bin/python -m deploy.local.watch_events

consume: environment ## run the reference consumer beside `make run`, and prove that it missed nothing
	@exec .venv/bin/python -m deploy.local.consume

audit: environment ## compare every order with the books of all participants, beside `make run`
	@exec .venv/bin/python -m deploy.local.audit

schemas: environment-dev ## regenerate the events' schemas under docs/ from their models
	@.venv-dev/bin/python -m services.relay.schemas docs/schemas

schema-sql: environment-dev ## regenerate every service's schema.sql from its migrations; needs Postgres 15
	@.venv-dev/bin/python -m tests.infrastructure.schema_dump

# A separate folder: other runs of pytest remove the access to the common one for the user of the embedded Postgres.
test: environment-dev ## run every test, against real Postgres and the best broker available here
	@exec $(PYTEST) --numprocesses $(WORKERS) --dist loadfile --basetemp="$$(mktemp -d)/tests"

test-unit: environment-dev ## run the pure tests: no database, no broker, no process
	@exec $(PYTEST) tests/unit

test-integration: environment-dev ## run the tests of single parts against Postgres or a broker
	@exec $(PYTEST) tests/integration tests/contract

test-system: environment-dev ## run the tests that start the services as processes
	@exec $(PYTEST) tests/system

faults: environment-dev ## place orders while every component fails; SECONDS=300, SEED=… to repeat a run
	@FAULTS_SECONDS=$(or $(SECONDS),300) FAULTS_SEED=$(SEED) $(PYTEST) -s tests/faults/test_faults.py

relay-faults: environment-dev ## publish 100,000 events while relays and broker are killed 50 times; EVENTS=…, STRIKES=…, SEED=…
	@RELAY_FAULTS_EVENTS=$(or $(EVENTS),100000) RELAY_FAULTS_STRIKES=$(or $(STRIKES),50) FAULTS_SEED=$(SEED) \
	  $(PYTEST) -s tests/faults/test_relay_faults.py

simulate: environment-dev ## simulate a million steps of faults; STEPS=…, SEED=… to replay one history
	@.venv-dev/bin/python -m tests.simulation $(if $(SEED),--seed $(SEED)) $(if $(STEPS),--steps $(STEPS))

mutants: environment-dev ## remove each rule and guard of a fixed set in turn; a test must fail
	@exec $(PYTEST) --numprocesses $(WORKERS) --basetemp="$$(mktemp -d)/tests" tests/mutation

mutation: environment-dev environment-mutation ## search at random for conditions whose removal no test notices; SECONDS=1200, SEED=…, ONLY=services/relay
	@exec .venv-dev/bin/python -m tests.mutation.sample --seconds $(or $(SECONDS),1200) $(if $(SEED),--seed $(SEED)) \
	  $(if $(ONLY),--only $(ONLY))

nightly: environment-dev ## run all long targets, and print a table; SEED=…, ARGS="faults races" for some of them
	@exec .venv-dev/bin/python -m tests.nightly $(if $(SEED),--seed $(SEED)) $(ARGS)

races: environment-dev ## race payment, cancellation and expiry 10,000 times, and drop as many connections
	@RACES=$(or $(RACES),10000) DROPPED=$(or $(DROPPED),10000) FAULTS_SEED=$(SEED) \
	  $(PYTEST) -s tests/faults/test_replicas.py

check: environment-dev ## check format, lint, types and import rules
	@.venv-dev/bin/ruff format --check --quiet . || { echo 'make format fixes this'; exit 1; }
	@.venv-dev/bin/ruff check --quiet .
	@.venv-dev/bin/mypy
	@.venv-dev/bin/lint-imports --no-logo

format: environment-dev ## format the code, and fix what the linter can fix
	@.venv-dev/bin/ruff check --fix --quiet . ; .venv-dev/bin/ruff format .

lock: environment-dev ## resolve every requirements.in again; UPGRADE=1 takes newer versions
	@$(LOCK) tests/requirements.in --output-file tests/requirements.lock
	@for folder in deploy/local deploy/consumer $(SERVICES:%=services/%); do \
	  echo $$folder && $(LOCK) --constraints tests/requirements.lock $$folder/requirements.in \
	    --output-file $$folder/requirements.lock || exit 1; done
	@for folder in profiler peer_program; do \
	  $(LOCK) tests/bench/checkout/$$folder/requirements.in \
	    --output-file tests/bench/checkout/$$folder/requirements.lock || exit 1; done
	@# Without yattag: it has no wheel, and only the tool's HTML report needs it.
	@$(LOCK) --no-emit-package yattag tests/mutation/generator/requirements.in \
	  --output-file tests/mutation/generator/requirements.lock

bench-outbox: environment-dev ## measure whether a million published events make the outbox grow or claims slower; ARGS="--only held"
	@exec .venv-dev/bin/python -m tests.bench.outbox $(ARGS)

bench-relay: environment-dev ## measure the relay beside a plain loop, against a real broker; run nothing else meanwhile
	@exec .venv-dev/bin/python -m tests.bench.relay $(if $(ONLY),--only $(ONLY))

bench: environment-dev environment-profile environment-dbos ## measure checkouts beside pgbench and dbos; fails if one of the promised ratios is missed
	@exec .venv-dev/bin/python -m tests.bench.checkout

bench-quick: environment-dev environment-profile environment-dbos ## run `make bench` with fewer and shorter rounds
	@exec .venv-dev/bin/python -m tests.bench.checkout --quick

bench-history: environment-dev ## measure whether checkouts cost the same after a million orders; ARGS="--orders 100000" and others
	@exec .venv-dev/bin/python -m tests.bench.history $(ARGS)

bench-overload: environment-dev ## measure what is served at two and four times the capacity; ARGS="--seconds 5"
	@exec .venv-dev/bin/python -m tests.bench.overload $(ARGS)

bench-profile: environment-dev environment-profile ## show where a checkout's time is spent; ARGS="--clients 64 --scenario cold" and others
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
