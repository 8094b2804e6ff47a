PYTHON ?= python3
BIN := .venv/bin

.PHONY: install demo test peers lint

install: .venv/installed  ## .venv with the pinned dependencies

.venv/installed: requirements.lock
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	touch $@

demo: install  ## learn the sample document and ask it six questions
	$(BIN)/python -m bot demo

test: install  ## the test suite
	$(BIN)/python -m pytest -q

peers:  ## another project's model of Slack, which tests/bot/test_slack_emulate.py runs on
	npm ci --silent --no-audit --no-fund --prefix tests/bot/emulate

lint: install
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
