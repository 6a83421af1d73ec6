# make setup   .venv with everything in it (minutes the first time, seconds after)
# make run     the demonstration; AGENTS SLOTS MODEL TURNS POLICY QUANTUM SEED REPORT change it
# make test    the test suite
# make bench   the benchmarks
# make prove   the property every figure rests on: the schedule never changes an agent's tokens
# make fuzz    a million cases against the channel: ZMTP, msgpack, the schema; CASES changes the number
# make lint    ruff
# make clean   removes .venv and whatever tools left in this tree

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SETUP_SOURCES := $(addprefix kernel/engine/,install.py build.py buildgpu.py buildlog.py buildrun.py hostcpu.py)

.DEFAULT_GOAL := setup
.PHONY: setup run test bench prove fuzz lint clean

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

test: setup
	@$(BIN)/python -m pytest -q

bench: setup
	@$(BIN)/python -m benchmarks

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
