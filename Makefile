# The targets of this project; `make help` lists them.
.DEFAULT_GOAL := help
.PHONY: help run ha token bench-tracing watch-events consume audit repair schemas schema-sql sbom containers conformance faults relay-faults simulate mutants mutation nightly rehearsal races drills drill-failover runbook bench-gateway bench-history bench-overload bench-auth bench bench-quick bench-profile bench-relay bench-outbox test test-unit test-integration test-system test-ha check format lock clean environment environment-dev environment-ha environment-profile environment-dbos environment-mutation environment-conformance environment-sbom

# The first Python that is new enough; name another one with `make PYTHON=/path/to/python ...`.
PYTHON ?= $(or $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
  $$python -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done),python3)
PYTEST = .venv-dev/bin/python -m pytest
# Many tests wait for processes to start, stop or fail, so three workers keep two cores busy.
WORKERS ?= 3
# Services share one version of each package: the largest lock is resolved first and constrains the others.
LOCK = .venv-dev/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
  --no-emit-index-url $(if $(UPGRADE),--upgrade)
SERVICES = order product coupon balance relay
IMAGES = $(SERVICES:%=services/%) deploy/consumer deploy/issuer deploy/ops deploy/console
# What is installed in images, and for tests and tools.
LOCKS = $(wildcard services/*/requirements.lock deploy/*/requirements.lock docs/*/requirements.lock tests/requirements.lock tests/*/requirements.lock)

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-17s %s\n", $$1, $$2 }' Makefile

run: environment ## start everything on this machine: database, broker, five services, console and demo data; AUTH=jwt asks callers for tokens
	@exec .venv/bin/python -m deploy.local

ha: environment environment-ha ## start the same on a Postgres that fails over: Patroni, three etcd, HAProxy; STANDBYS=2 for strict mode
	@exec .venv/bin/python -m deploy.ha

token: environment ## print a token for `make run AUTH=jwt`; SUB=alice SCOPES="catalog:write ops"
	@exec .venv/bin/python -m deploy.local.token "$(or $(SUB),alice)" "$(SCOPES)"

watch-events: environment ## print the events of the topic as they arrive
	@exec .venv/bin/python -m deploy.local.watch_events

consume: environment ## run the reference consumer beside `make run`, and prove that it has every event
	@exec .venv/bin/python -m deploy.local.consume

.PHONY: load
load: environment ## let customers buy beside `make run`, with the client for Python; SECONDS=60 CUSTOMERS=4
	@exec .venv/bin/python -m deploy.local.load --seconds $(or $(SECONDS),60) --customers $(or $(CUSTOMERS),4)

audit: environment ## compare every order with the books of all participants, beside `make run`; ARGS=--json
	@exec .venv/bin/python -m deploy.local.audit $(ARGS)

repair: environment ## give back what `make audit` found held without an order, beside `make run`; BY=you REASON="why" DRY_RUN=1
	@exec .venv/bin/python -m deploy.local.repair $(if $(BY),--by "$(BY)") --reason "$(REASON)" $(if $(DRY_RUN),--dry-run)

.PHONY: orderctl environment-orderctl
orderctl: environment-orderctl ## install the command line for operators, and say how to call it
	@echo 'Run deploy/orderctl/orderctl --help, or make it a command of this shell: PATH="$$PWD/deploy/orderctl:$$PATH"'

schemas: environment-dev ## regenerate the events' schemas under docs/ from their models
	@.venv-dev/bin/python -m services.relay.schemas docs/schemas

.PHONY: reference
reference: environment-dev ## write the pages of docs/reference again from the code
	@.venv-dev/bin/python -m docs.site.reference docs/reference

.PHONY: docs environment-docs
docs: environment-docs ## build the site of the documents in .local/site; SERVE=1 also shows it at an address of this machine
	@exec .venv-docs/bin/python -m docs.site .local/site $(if $(SERVE),--serve $(or $(PORT),8090))

.PHONY: site-scripts
site-scripts: environment-dev ## replace the kept scripts of the documents' site by MERMAID=… and IFRAME_WORKER=…; needs npm
	@.venv-dev/bin/python -m tests.infrastructure.site_scripts $(or $(MERMAID),$(error which MERMAID?)) \
	  $(or $(IFRAME_WORKER),$(error which IFRAME_WORKER?))

.PHONY: console-assets
console-assets: environment-dev ## replace the kept scripts of the console's pages; HTMX=2.0.11 UPLOT=1.6.32; needs npm
	@.venv-dev/bin/python -m tests.infrastructure.console_assets $(or $(HTMX),$(error which HTMX?)) $(or $(UPLOT),$(error which UPLOT?))

.PHONY: swagger-ui
swagger-ui: environment-dev ## replace the kept files of Swagger UI, which /docs shows, by those of VERSION=…; needs npm
	@.venv-dev/bin/python -m tests.infrastructure.swagger_ui $(or $(VERSION),$(error which VERSION?))

.PHONY: axe
axe: environment-dev ## replace the kept file of axe-core, with which tests of pages look for barriers, by that of VERSION=…; needs npm
	@.venv-dev/bin/python -m tests.infrastructure.axe $(or $(VERSION),$(error which VERSION?))

schema-sql: environment-dev ## regenerate every service's schema.sql from its migrations; needs Postgres 15
	@.venv-dev/bin/python -m tests.infrastructure.schema_dump

sbom: environment-sbom ## write the packages of each image to .local/sbom, as CycloneDX files that fit its schema
	@exec $(MAKE) --no-print-directory --jobs=3 $(IMAGES:%=sbom/%)

sbom/%:
	@mkdir -p .local/sbom/$(notdir $*)
	@printf '[project]\nname = "order-platform-%s"\n' $(notdir $*) >.local/sbom/$(notdir $*)/pyproject.toml
	@.venv-sbom/bin/python -W ignore -m cyclonedx_py requirements --output-reproducible \
	  --pyproject .local/sbom/$(notdir $*)/pyproject.toml --output-file .local/sbom/$(notdir $*).cdx.json \
	  $*/requirements.lock
	@$(if $(filter deploy/ops deploy/console services/%,$*),.venv-sbom/bin/python -m deploy.sbom.kept \
	  .local/sbom/$(notdir $*).cdx.json $*)
	@rm -r .local/sbom/$(notdir $*)

.PHONY: dependency-audit environment-advisories
# Strict: where the advisories can't be reached, every package is "not found", and the target fails.
dependency-audit: environment-advisories ## compare every locked package with PyPI's advisories; needs PyPI's JSON API
	@.venv-advisories/bin/python -m pip_audit --disable-pip --require-hashes --strict --progress-spinner off \
	  $(LOCKS:%=--requirement %) || { echo 'A package has a known vulnerability, or PyPI does not answer for it.'; exit 1; }

# Files are given out in the order of testpaths, the longest first: one that came last would keep one worker busy alone.
# A separate folder: other runs of pytest remove the access to the common one for the user of the embedded Postgres.
# Compiled code is kept, also where the environment forbids it: else each worker would compile every test.
test: environment-dev environment-ha environment-docs ## run every test, against real Postgres and the best broker available here
	@PYTHONDONTWRITEBYTECODE= exec $(PYTEST) --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder --basetemp="$$(mktemp -d)/tests"

test-unit: environment-dev ## run the pure tests: no database, no broker, no process
	@exec $(PYTEST) tests/unit

test-integration: environment-dev environment-docs ## run the tests of single parts against Postgres or a broker
	@exec $(PYTEST) tests/integration tests/contract

test-system: environment-dev ## run the tests that start the services as processes
	@exec $(PYTEST) tests/system

test-ha: environment-dev environment-ha ## start and end `make ha` in every way, and execute every command of docs/failover.md on a cluster
	@exec $(PYTEST) tests/ha --durations=0 --basetemp="$$(mktemp -d)/tests"

conformance: environment-dev environment-conformance ## call every API with what its OpenAPI document allows and forbids; CALLS=2000, SEED=…
	@CALLS=$(CALLS) FAULTS_SEED=$(SEED) $(PYTEST) -s tests/conformance

.PHONY: pictures
pictures: environment-dev environment-browser ## take the pictures of README and docs again; needs Debian's package chromium
	@PICTURES="$$PWD/docs/pictures" exec .venv-browser/bin/python -m pytest --confcutdir tests/browser \
	  --basetemp="$$(mktemp -d)/tests" tests/browser/test_pictures.py

.PHONY: browser environment-browser
browser: environment-dev environment-browser environment-docs ## open every page in Chromium, of a platform as `make run` starts it; SHORT=1; needs Debian's package chromium
	@exec .venv-browser/bin/python -m pytest --confcutdir tests/browser --basetemp="$$(mktemp -d)/tests" \
	  $(if $(SHORT),-m "not long") tests/browser

.PHONY: manifests manifest-rules environment-manifests
manifests: environment-dev environment-manifests ## render and check the manifests in deploy/kubernetes; needs Go 1.24
	@.venv-dev/bin/python -m tests.manifests.tools
	@exec $(PYTEST) --numprocesses $(WORKERS) --basetemp="$$(mktemp -d)/tests" tests/manifests

containers: environment-dev environment-sbom ## build the images, run deploy/compose.yaml from them, and compare docs/reach.md; needs Docker; ALL=yes builds each twice
	@IMAGES_ALL=$(ALL) exec tests/infrastructure/engine/run $(PYTEST) -s tests/containers

.PHONY: alerts alert-faults dashboards
dashboards: environment-grafana ## write deploy/grafana's dashboards again, from their description
	@.venv-grafana/bin/python -m deploy.grafana deploy/grafana/dashboards

alerts: environment-dev environment-grafana ## check the rules for Prometheus with promtool, and Grafana's dashboards; needs Debian's package prometheus
	@exec $(PYTEST) tests/alerts --ignore tests/alerts/faults

alert-faults: environment-dev ## fire each alert once by a real fault, in a Prometheus with scaled windows; needs prometheus, Postgres, PgBouncer, Java and Maven
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

.PHONY: points
points: environment-dev ## end relays, consumers and order processes at every point at which they could end, also with two primaries or several product shards
	@POINTS_ALL=yes exec $(PYTEST) tests/integration/relay/test_every_point.py \
	  tests/integration/order/test_every_checkpoint.py tests/integration/consumer/test_kills.py \
	  tests/faults/test_split_views.py tests/faults/test_split_relays.py tests/simulation/test_shard_mixes.py

simulate: environment-dev ## simulate a million steps with faults; STEPS=…, SEED=… to replay one history
	@.venv-dev/bin/python -m tests.simulation $(if $(SEED),--seed $(SEED)) $(if $(STEPS),--steps $(STEPS))

mutants: environment-dev ## remove each rule and guard of a fixed set in turn; a test must fail
	@exec $(PYTEST) --numprocesses $(WORKERS) --basetemp="$$(mktemp -d)/tests" tests/mutation

mutation: environment-dev environment-mutation ## search at random for conditions whose removal no test notices; SECONDS=1200, SEED=…, ONLY=services/relay
	@exec .venv-dev/bin/python -m tests.mutation.sample --seconds $(or $(SECONDS),1200) $(if $(SEED),--seed $(SEED)) \
	  $(if $(ONLY),--only $(ONLY))

nightly: environment-dev ## run all long targets, and print a table; SEED=…, ARGS="faults races" for some of them
	@exec .venv-dev/bin/python -m tests.nightly $(if $(SEED),--seed $(SEED)) $(ARGS)

# What can't run here fails, as in CI: a rehearsal that skips something proves nothing about it.
rehearsal: environment-dev ## bring everything up in containers, run one drill of each kind and the runbook, and print a table
	@CI=true exec .venv-dev/bin/python -m tests.nightly --rehearsal $(ARGS)

runbook: environment-dev ## execute every command of docs/runbook.md and docs/runbook/ against a running platform
	@exec $(PYTEST) -s tests/runbook

drills: environment-dev ## break everything in turn while customers buy, and print the table of docs/drills.md; SHORT=1; make drill-NAME runs one
	@exec .venv-dev/bin/python -m tests.drills $(if $(SHORT),--short) $(if $(WRITE),--write)

drill-failover: environment-dev environment-ha ## lose Postgres servers while customers buy, five rounds, and print a table; SHORT=1, ROUNDS=1, WRITE=1, ONLY=FAULT
	@exec .venv-dev/bin/python -m tests.drills.failover $(if $(SHORT),--short) $(if $(ROUNDS),--rounds $(ROUNDS)) \
	  $(if $(WRITE),--write) $(ONLY)

.PHONY: drill-cells
drill-cells: environment-dev ## kill everything of two cells and two product shards while customers buy, and print a table; SHORT=1, WRITE=1, ONLY=DRILL; needs haproxy
	@exec .venv-dev/bin/python -m tests.drills.cells $(if $(SHORT),--short) $(if $(WRITE),--write) $(ONLY)

drill-%: environment-dev
	@exec .venv-dev/bin/python -m tests.drills $(if $(SHORT),--short) $*

races: environment-dev ## race payment, cancellation and expiry 10,000 times, and drop as many connections
	@RACES=$(or $(RACES),10000) DROPPED=$(or $(DROPPED),10000) FAULTS_SEED=$(SEED) \
	  $(PYTEST) -s tests/faults/test_replicas.py

check: environment-dev ## check format, lint, types, import rules, migrations and the pages of docs/reference
	@.venv-dev/bin/ruff format --check --quiet . || { echo 'make format fixes this'; exit 1; }
	@.venv-dev/bin/ruff check --quiet .
	@.venv-dev/bin/mypy
	@.venv-dev/bin/lint-imports --no-logo
	@.venv-dev/bin/python -m docs.site.reference --check docs/reference
	@.venv-dev/bin/squawk --config deploy/sql/squawk.toml services/*/migrations/*.sql deploy/consumer/migrations/*.sql

format: environment-dev ## format the code, and fix what the linter can fix
	@.venv-dev/bin/ruff check --fix --quiet . ; .venv-dev/bin/ruff format .

lock: environment-dev ## resolve every requirements.in again; UPGRADE=1 takes newer versions
	@$(LOCK) tests/requirements.in --output-file tests/requirements.lock
	@for folder in deploy/local deploy/client deploy/console deploy/orderctl deploy/consumer deploy/issuer deploy/ops $(SERVICES:%=services/%); do \
	  echo $$folder && $(LOCK) --constraints tests/requirements.lock $$folder/requirements.in \
	    --output-file $$folder/requirements.lock || exit 1; done
	@for folder in profiler peer_program; do \
	  $(LOCK) tests/bench/checkout/$$folder/requirements.in \
	    --output-file tests/bench/checkout/$$folder/requirements.lock || exit 1; done
	@# Two packages have no wheel; the lock says so to pip.
	@$(LOCK) --emit-build-options deploy/ha/requirements.in --output-file deploy/ha/requirements.lock
	@$(LOCK) deploy/sbom/requirements.in --output-file deploy/sbom/requirements.lock
	@$(LOCK) docs/site/requirements.in --output-file docs/site/requirements.lock
	@$(LOCK) deploy/grafana/requirements.in --output-file deploy/grafana/requirements.lock
	@$(LOCK) deploy/advisories/requirements.in --output-file deploy/advisories/requirements.lock
	@$(LOCK) tests/conformance/requirements.in --output-file tests/conformance/requirements.lock
	@$(LOCK) --constraints tests/requirements.lock tests/browser/requirements.in \
	  --output-file tests/browser/requirements.lock
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

.PHONY: bench-console
bench-console: environment-dev ## measure the CPU of a checkout while a browser shows the console's Live; ARGS="--pairs 100"; needs Debian's package chromium
	@exec .venv-dev/bin/python -m tests.bench.checkout.console $(ARGS)

.PHONY: bench-standby
bench-standby: environment-dev ## measure the CPU of a checkout with a synchronous standby against none; ARGS="--pairs 40"
	@exec .venv-dev/bin/python -m tests.bench.checkout.standby $(ARGS)

.PHONY: bench-cells
bench-cells: environment-dev ## measure the CPU of a checkout with two product shards, and with two cells; ARGS="--only cells --pairs 20"; needs haproxy
	@exec .venv-dev/bin/python -m tests.bench.checkout.cells $(ARGS)

bench-profile: environment-dev environment-profile ## show where a checkout's time is spent, and what idle cores wait for; ARGS="--clients 64 --only-idle" and others
	@exec .venv-dev/bin/python -m tests.bench.checkout.profile $(ARGS)

clean: ## remove the data, logs and environments that the other targets made
	@if test -f .venv/installed.lock; then .venv/bin/python -m deploy.local.clean; fi
	rm -rf .local .venv .venv-* .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

environment:
	@$(PYTHON) deploy/environment.py .venv deploy/local/requirements.lock

environment-dev:
	@$(PYTHON) deploy/environment.py .venv-dev tests/requirements.lock

environment-ha:
	@$(PYTHON) deploy/environment.py .venv-ha deploy/ha/requirements.lock

environment-orderctl:
	@$(PYTHON) deploy/environment.py .venv-orderctl deploy/orderctl/requirements.lock

environment-profile:
	@$(PYTHON) deploy/environment.py .venv-profile tests/bench/checkout/profiler/requirements.lock

environment-dbos:
	@$(PYTHON) deploy/environment.py .venv-dbos tests/bench/checkout/peer_program/requirements.lock

environment-mutation:
	@$(PYTHON) deploy/environment.py .venv-mutation tests/mutation/generator/requirements.lock

environment-browser:
	@$(PYTHON) deploy/environment.py .venv-browser tests/browser/requirements.lock

environment-conformance:
	@$(PYTHON) deploy/environment.py .venv-conformance tests/conformance/requirements.lock

manifest-rules: environment-dev ## write deploy/prometheus's rules again as a resource for Kubernetes
	@.venv-dev/bin/python -m tests.manifests.alert_rules

environment-manifests:
	@$(PYTHON) deploy/environment.py .venv-manifests tests/manifests/requirements.lock

environment-docs:
	@$(PYTHON) deploy/environment.py .venv-docs docs/site/requirements.lock

environment-sbom:
	@$(PYTHON) deploy/environment.py .venv-sbom deploy/sbom/requirements.lock

environment-grafana:
	@$(PYTHON) deploy/environment.py .venv-grafana deploy/grafana/requirements.lock

environment-advisories:
	@$(PYTHON) deploy/environment.py .venv-advisories deploy/advisories/requirements.lock
