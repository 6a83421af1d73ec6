# make setup   .venv with everything in it (minutes the first time, seconds after)
# make run     the demonstration; AGENTS SLOTS MODEL TURNS POLICY QUANTUM SEED REPORT change it
# make test    the test suite
# make bench   the benchmarks
# make bench-peers   agentix beside llama-server and others, on the same load: an hour; PEERS=--quick
# make prove   the property every figure rests on: the schedule never changes an agent's tokens
# make fuzz    a million cases against the channel: ZMTP, msgpack, the schema; CASES changes the number
# make lint    ruff
# make clean   removes .venv and whatever tools left in this tree

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SETUP_SOURCES := $(addprefix kernel/engine/,install.py build.py buildgpu.py buildlog.py buildrun.py hostcpu.py)

.DEFAULT_GOAL := setup
.PHONY: setup run test bench bench-peers prove fuzz lint clean

setup: $(VENV)/.ready

# Only modification times decide: an up-to-date set-up starts no Python at all.
$(VENV)/.ready: setup.cfg pyproject.toml $(SETUP_SOURCES)
	@$(PYTHON) kernel/engine/install.py $(VENV)
	@touch $@

# `agentix demo` has its own defaults, so an option is passed on only if its variable is set.
DEMO := AGENTS=agents SLOTS=slots MODEL=model TURNS=turns POLICY=policy QUANTUM=quantum SEED=seed REPORT=report
variable = $(word 1,$(subst =, ,$(1)))
option = --$(word 2,$(subst =, ,$(1)))
demo_options = $(foreach pair,$(DEMO),$(if $($(call variable,$(pair))),$(call option,$(pair)) '$($(call variable,$(pair)))'))

run: setup
	@$(BIN)/agentix demo $(demo_options)

test: $(VENV)/.clients
	@$(BIN)/python -m pytest -q

# The programs of others that the gateway is tested with.
$(VENV)/.clients: $(VENV)/.ready
	@$(PYTHON) kernel/engine/install.py $(VENV) clients
	@touch $@

bench: setup
	@$(BIN)/python -m benchmarks

# llama-cpp-python's own server needs more than agentix does.
bench-peers: setup
	@$(PYTHON) kernel/engine/install.py $(VENV) peers
	@$(BIN)/python -m benchmarks.peers $(PEERS)

prove: setup
	@$(BIN)/python -m benchmarks.prove

CASES ?= 1000000
fuzz: setup
	@$(BIN)/python -m tests.fuzz --cases $(CASES)

lint: $(BIN)/ruff
	@$(BIN)/ruff check .

$(BIN)/ruff: $(VENV)/.ready
	@$(BIN)/python -m pip install --quiet 'ruff>=0.6'
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
