# The targets of this project; `make help` lists them.
.DEFAULT_GOAL := help
.PHONY: help run token bench-tracing watch-events consume audit schemas schema-sql sbom containers conformance faults relay-faults simulate mutants mutation nightly races drills runbook bench-gateway bench-history bench-overload bench-auth bench bench-quick bench-profile bench-relay bench-outbox test test-unit test-integration test-system check format lock clean environment environment-dev environment-profile environment-dbos environment-mutation environment-conformance environment-sbom

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
# What is installed in images, and for tests and tools.
LOCKS = $(wildcard services/*/requirements.lock deploy/*/requirements.lock tests/requirements.lock tests/*/requirements.lock)

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-17s %s\n", $$1, $$2 }' Makefile

run: environment ## start everything on this machine: database, broker, five services and demo data; AUTH=jwt asks callers for tokens
	@exec .venv/bin/python -m deploy.local

token: environment ## print a token for `make run AUTH=jwt`; SUB=alice SCOPES="catalog:write ops"
	@exec .venv/bin/python -m deploy.local.token "$(or $(SUB),alice)" "$(SCOPES)"

watch-events: environment ## print the events of the topic as they arrive
	@exec .venv/bin/python -m deploy.local.watch_events

consume: environment ## run the reference consumer beside `make run`, and prove that it has every event
	@exec .venv/bin/python -m deploy.local.consume

audit: environment ## compare every order with the books of all participants, beside `make run`
	@exec .venv/bin/python -m deploy.local.audit

schemas: environment-dev ## regenerate the events' schemas under docs/ from their models
	@.venv-dev/bin/python -m services.relay.schemas docs/schemas

schema-sql: environment-dev ## regenerate every service's schema.sql from its migrations; needs Postgres 15
	@.venv-dev/bin/python -m tests.infrastructure.schema_dump

sbom: environment-sbom ## write the packages of each image to .local/sbom, as CycloneDX files that fit its schema
	@mkdir -p .local/sbom
	@for folder in deploy/consumer deploy/issuer $(SERVICES:%=services/%); do name=$$(basename $$folder); \
	  printf '[project]\nname = "order-platform-%s"\n' $$name >.local/sbom/pyproject.toml; \
	  .venv-sbom/bin/python -W ignore -m cyclonedx_py requirements --output-reproducible \
	    --pyproject .local/sbom/pyproject.toml --output-file .local/sbom/$$name.cdx.json \
	    $$folder/requirements.lock || exit 1; done; rm .local/sbom/pyproject.toml

.PHONY: dependency-audit environment-advisories
# Strict: where the advisories can't be reached, every package is "not found", and the target fails.
dependency-audit: environment-advisories ## compare every locked package with PyPI's advisories; needs PyPI's JSON API
	@.venv-advisories/bin/python -m pip_audit --disable-pip --require-hashes --strict --progress-spinner off \
	  $(LOCKS:%=--requirement %) || { echo 'A package has a known vulnerability, or PyPI does not answer for it.'; exit 1; }

# Files are given out in the order of testpaths, the longest first: one that came last would keep one worker busy alone.
# A separate folder: other runs of pytest remove the access to the common one for the user of the embedded Postgres.
test: environment-dev ## run every test, against real Postgres and the best broker available here
	@exec $(PYTEST) --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder --basetemp="$$(mktemp -d)/tests"

test-unit: environment-dev ## run the pure tests: no database, no broker, no process
	@exec $(PYTEST) tests/unit

test-integration: environment-dev ## run the tests of single parts against Postgres or a broker
	@exec $(PYTEST) tests/integration tests/contract

test-system: environment-dev ## run the tests that start the services as processes
	@exec $(PYTEST) tests/system

conformance: environment-dev environment-conformance ## call every API with what its OpenAPI document allows and forbids; CALLS=2000, SEED=…
	@CALLS=$(CALLS) FAULTS_SEED=$(SEED) $(PYTEST) -s tests/conformance

.PHONY: manifests manifest-rules environment-manifests
manifests: environment-dev environment-manifests ## render and check the manifests in deploy/kubernetes; needs Go 1.24
	@.venv-dev/bin/python -m tests.manifests.tools
	@exec $(PYTEST) --numprocesses $(WORKERS) --basetemp="$$(mktemp -d)/tests" tests/manifests

containers: environment-dev environment-sbom ## build the images, run deploy/compose.yaml from them, and compare docs/reach.md; needs Docker
	@exec tests/infrastructure/engine/run $(PYTEST) -s tests/containers

.PHONY: alerts alert-faults dashboards
dashboards: environment-grafana ## write deploy/grafana's dashboards again, from their description
	@.venv-grafana/bin/python -m deploy.grafana deploy/grafana/dashboards

alerts: environment-dev environment-grafana ## check the rules for Prometheus with promtool, and Grafana's dashboards; needs Debian's package prometheus
	@exec $(PYTEST) tests/alerts --ignore tests/alerts/faults

alert-faults: environment-dev ## fire each alert once by a real fault, in a Prometheus with scaled windows; needs prometheus, Postgres, Java and Maven
	@exec $(PYTEST) -s tests/alerts/faults

.PHONY: versions
versions: environment-dev ## replace services by their previous version and back, in every combination, while customers buy
	@VERSIONS_ALL=yes exec $(PYTEST) -s tests/compatibility

.PHONY: rolling
rolling: environment-dev ## replace every replica behind HAProxy and nginx while customers make 10,000 calls; CALLS=…
	@ROLLING_CALLS=$(or $(CALLS),10000) exec $(PYTEST) -s tests/faults/test_rolling.py

faults: environment-dev ## place orders while every component fails; SECONDS=300, SEED=… to repeat a run
	@FAULTS_SECONDS=$(or $(SECONDS),300) FAULTS_SEED=$(SEED) $(PYTEST) -s tests/faults/test_faults.py

relay-faults: environment-dev ## publish 100,000 events while relays and broker are killed 50 times; EVENTS=…, STRIKES=…, SEED=…
	@RELAY_FAULTS_EVENTS=$(or $(EVENTS),100000) RELAY_FAULTS_STRIKES=$(or $(STRIKES),50) FAULTS_SEED=$(SEED) \
	  $(PYTEST) -s tests/faults/test_relay_faults.py

simulate: environment-dev ## simulate a million steps with faults; STEPS=…, SEED=… to replay one history
	@.venv-dev/bin/python -m tests.simulation $(if $(SEED),--seed $(SEED)) $(if $(STEPS),--steps $(STEPS))

mutants: environment-dev ## remove each rule and guard of a fixed set in turn; a test must fail
	@exec $(PYTEST) --numprocesses $(WORKERS) --basetemp="$$(mktemp -d)/tests" tests/mutation

mutation: environment-dev environment-mutation ## search at random for conditions whose removal no test notices; SECONDS=1200, SEED=…, ONLY=services/relay
	@exec .venv-dev/bin/python -m tests.mutation.sample --seconds $(or $(SECONDS),1200) $(if $(SEED),--seed $(SEED)) \
	  $(if $(ONLY),--only $(ONLY))

nightly: environment-dev ## run all long targets, and print a table; SEED=…, ARGS="faults races" for some of them
	@exec .venv-dev/bin/python -m tests.nightly $(if $(SEED),--seed $(SEED)) $(ARGS)

runbook: environment-dev ## execute every command of docs/runbook.md and docs/runbook/ against a running platform
	@exec $(PYTEST) -s tests/runbook

drills: environment-dev ## break everything in turn while customers buy, and print the table of docs/drills.md; SHORT=1; make drill-NAME runs one
	@exec .venv-dev/bin/python -m tests.drills $(if $(SHORT),--short) $(if $(WRITE),--write)

drill-%: environment-dev
	@exec .venv-dev/bin/python -m tests.drills $(if $(SHORT),--short) $*

races: environment-dev ## race payment, cancellation and expiry 10,000 times, and drop as many connections
	@RACES=$(or $(RACES),10000) DROPPED=$(or $(DROPPED),10000) FAULTS_SEED=$(SEED) \
	  $(PYTEST) -s tests/faults/test_replicas.py

check: environment-dev ## check format, lint, types, import rules and migrations
	@.venv-dev/bin/ruff format --check --quiet . || { echo 'make format fixes this'; exit 1; }
	@.venv-dev/bin/ruff check --quiet .
	@.venv-dev/bin/mypy
	@.venv-dev/bin/lint-imports --no-logo
	@.venv-dev/bin/squawk --config deploy/sql/squawk.toml services/*/migrations/*.sql

format: environment-dev ## format the code, and fix what the linter can fix
	@.venv-dev/bin/ruff check --fix --quiet . ; .venv-dev/bin/ruff format .

lock: environment-dev ## resolve every requirements.in again; UPGRADE=1 takes newer versions
	@$(LOCK) tests/requirements.in --output-file tests/requirements.lock
	@for folder in deploy/local deploy/consumer deploy/issuer $(SERVICES:%=services/%); do \
	  echo $$folder && $(LOCK) --constraints tests/requirements.lock $$folder/requirements.in \
	    --output-file $$folder/requirements.lock || exit 1; done
	@for folder in profiler peer_program; do \
	  $(LOCK) tests/bench/checkout/$$folder/requirements.in \
	    --output-file tests/bench/checkout/$$folder/requirements.lock || exit 1; done
	@$(LOCK) deploy/sbom/requirements.in --output-file deploy/sbom/requirements.lock
	@$(LOCK) deploy/grafana/requirements.in --output-file deploy/grafana/requirements.lock
	@$(LOCK) deploy/advisories/requirements.in --output-file deploy/advisories/requirements.lock
	@$(LOCK) tests/conformance/requirements.in --output-file tests/conformance/requirements.lock
	@$(LOCK) tests/manifests/requirements.in --output-file tests/manifests/requirements.lock
	@# Without yattag: it has no wheel, and only the tool's HTML report needs it.
	@$(LOCK) --no-emit-package yattag tests/mutation/generator/requirements.in \
	  --output-file tests/mutation/generator/requirements.lock

bench-outbox: environment-dev ## measure whether a million published events make the outbox grow or claims slower; ARGS="--only held"
	@exec .venv-dev/bin/python -m tests.bench.outbox $(ARGS)

bench-relay: environment-dev ## measure the relay beside a plain loop, against a real broker; run it alone
	@exec .venv-dev/bin/python -m tests.bench.relay $(if $(ONLY),--only $(ONLY))

bench: environment-dev environment-profile environment-dbos ## measure checkouts beside pgbench and dbos; fails if one of the promised ratios is missed
	@exec .venv-dev/bin/python -m tests.bench.checkout

bench-quick: environment-dev environment-profile environment-dbos ## run `make bench` with fewer and shorter rounds
	@exec .venv-dev/bin/python -m tests.bench.checkout --quick

bench-tracing: environment-dev ## measure the CPU of a checkout's spans, and of their export
	@exec .venv-dev/bin/python -m tests.bench.tracing $(ARGS)

bench-gateway: environment-dev ## measure whether 1,000 slow connections delay others at the gateway; ARGS="--rounds 20"
	@exec .venv-dev/bin/python -m tests.bench.gateway $(ARGS)

bench-history: environment-dev ## measure whether checkouts cost the same after a million orders; ARGS="--orders 100000" and others
	@exec .venv-dev/bin/python -m tests.bench.history $(ARGS)

bench-overload: environment-dev ## measure what is served at two and four times the capacity; ARGS="--seconds 5"
	@exec .venv-dev/bin/python -m tests.bench.overload $(ARGS)

bench-auth: environment-dev ## measure the CPU of a checkout in jwt mode against open mode; ARGS="--pairs 100"
	@exec .venv-dev/bin/python -m tests.bench.checkout.auth $(ARGS)

bench-profile: environment-dev environment-profile ## show where a checkout's time is spent; ARGS="--clients 64 --scenario cold" and others
	@exec .venv-dev/bin/python -m tests.bench.checkout.profile $(ARGS)

clean: ## remove the data, logs and environments that the other targets made
	@if test -f .venv/installed.lock; then .venv/bin/python -m deploy.local.clean; fi
	rm -rf .local .venv .venv-* .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
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

environment-conformance:
	@$(PYTHON) deploy/environment.py .venv-conformance tests/conformance/requirements.lock

manifest-rules: environment-dev ## write deploy/prometheus's rules again as a resource for Kubernetes
	@.venv-dev/bin/python -m tests.manifests.alert_rules

environment-manifests:
	@$(PYTHON) deploy/environment.py .venv-manifests tests/manifests/requirements.lock

environment-sbom:
	@$(PYTHON) deploy/environment.py .venv-sbom deploy/sbom/requirements.lock

environment-grafana:
	@$(PYTHON) deploy/environment.py .venv-grafana deploy/grafana/requirements.lock

environment-advisories:
	@$(PYTHON) deploy/environment.py .venv-advisories deploy/advisories/requirements.lock
