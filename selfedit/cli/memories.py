"""The commands of memory and models: learn, ask, memory …, models …."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

from selfedit.cli.options import BAD_INPUT, NOTHING_KEPT, number_settings, open_model, open_store
from selfedit.config import ConsolidateConfig, LearnConfig, with_settings
from selfedit.errors import SelfeditError
from selfedit.types import as_utf8


def add(commands, common: argparse.ArgumentParser, with_model: argparse.ArgumentParser) -> None:
    learn = commands.add_parser("learn", parents=[common, with_model], help="turn documents into tested memories")
    learn.add_argument(
        "sources", nargs="+", metavar="DOCS", help="files, folders or URLs: text, Markdown, code, HTML, PDF"
    )
    learn.add_argument(
        "--quiz", type=Path, metavar="FILE", help="your own judging questions: JSONL of question, answer"
    )
    learn.add_argument(
        "--styles", metavar="A,B", help=f"how the model writes study material (default: {','.join(LearnConfig.styles)})"
    )
    learn.add_argument("--each-alone", action="store_true", help="also try each style by itself, to see which one pays")
    learn.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting that is a number, e.g. epochs=8 (all: selfedit/config.py)",
    )
    learn.add_argument("--again", action="store_true", help="also redo passages that kept nothing before")
    learn.set_defaults(run=_learn)

    ask = commands.add_parser("ask", parents=[common, with_model], help="ask; answered from the weights")
    ask.add_argument("question", nargs="?", help="one question")
    ask.add_argument("--file", type=Path, help='many at once: JSONL of {"question"} or {"prompt"} lines')
    ask.add_argument("--why", action="store_true", help="show which memory, edit, source and hash answered")
    ask.add_argument("--tokens", type=int, default=48, help="longest answer, in tokens (default: %(default)s)")
    ask.add_argument(
        "--tries",
        type=int,
        default=1,
        metavar="N",
        help="memories that answer, if as many fit nearly alike; the most certain answer is taken (default: %(default)s)",
    )
    ask.set_defaults(run=_ask)

    memory = commands.add_parser("memory", help="what is kept: list, show, forget, roll back, verify, export")
    actions = memory.add_subparsers(title="actions", required=True, metavar="ACTION")
    listing = actions.add_parser("list", parents=[common], help="the memories in force")
    listing.add_argument("--all", action="store_true", help="also those not in force, and the history")
    listing.set_defaults(run=_memory_list)
    show = actions.add_parser(
        "show", parents=[common], help="where a memory comes from, what was studied, how it scored"
    )
    show.add_argument("id")
    show.set_defaults(run=_memory_show)
    which = "the start of an id, a source (its path or name), or a day (2026-11-23)"
    forget = actions.add_parser("forget", parents=[common], help="delete memories from the disk, for good")
    forget.add_argument("memories", metavar="WHICH", help=which)
    forget.add_argument(
        "--model", help="the model of the memories that shared an adapter with it (default: as they name it)"
    )
    forget.add_argument(
        "--apart", action="store_true", help="do not consolidate anew the memories that shared an adapter with it"
    )
    forget.set_defaults(run=_memory_forget)
    for name, run, what in (
        ("disable", _memory_disable, "take memories out of force; they stay on disk"),
        ("approve", _memory_approve, "put memories in force that are on disk only"),
    ):
        action = actions.add_parser(name, parents=[common], help=what)
        action.add_argument("memories", metavar="WHICH", help=which)
        action.set_defaults(run=run)
    test = actions.add_parser(
        "test", parents=[common, with_model], help="every memory's judging questions again: what still holds?"
    )
    test.add_argument("memories", metavar="WHICH", nargs="?", help=f"{which}; all in force if none is given")
    test.set_defaults(run=_memory_test)
    consolidate = actions.add_parser(
        "consolidate", parents=[common, with_model], help="many memories into one adapter, of those that still hold"
    )
    consolidate.add_argument("memories", metavar="WHICH", nargs="*", help=f"{which}; all in force if none is given")
    consolidate.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting that is a number, e.g. epochs=4 (all: selfedit/config.py)",
    )
    consolidate.set_defaults(run=_memory_consolidate)
    verify = actions.add_parser("verify", parents=[common], help="recompute every hash")
    verify.set_defaults(run=_memory_verify)
    rollback = actions.add_parser(
        "rollback", parents=[common], help="undo the last change, or go back to a version or memory"
    )
    rollback.add_argument("id", nargs="?", help="a version (v3), or a memory: the state right after it was kept")
    rollback.set_defaults(run=_memory_rollback)
    export = actions.add_parser("export", parents=[common], help="copy a memory out as a PEFT adapter folder")
    export.add_argument("id")
    export.add_argument("--to", type=Path, required=True, metavar="DIR")
    export.set_defaults(run=_memory_export)

    models = commands.add_parser("models", help="the models that are known by name")
    model_actions = models.add_subparsers(title="actions", required=True, metavar="ACTION")
    model_list = model_actions.add_parser("list", help="names, sizes, licences")
    model_list.add_argument("--json", action="store_true")
    model_list.set_defaults(run=_models_list)
    pull = model_actions.add_parser("pull", help="fetch and convert a model now")
    pull.add_argument("name")
    pull.set_defaults(run=_models_pull)


# learn


def _learn(arguments) -> int:
    from selfedit.learn import learn
    from selfedit.tasks.documents import read_documents
    from selfedit.tasks.questions import load_quiz
    from selfedit.terminal import Progress, report_table

    config = _learn_config(arguments)
    quiz = load_quiz(arguments.quiz) if arguments.quiz else []
    with Progress(quiet=arguments.json) as progress:
        passages = read_documents(arguments.sources, passage_words=config.passage_words, on_skip=progress.note)
        store, model = open_store(arguments), open_model(arguments, progress.note)
        report = learn(
            model,
            passages,
            store,
            config,
            quiz=quiz,
            again=arguments.again,
            progress=progress.stage,
            notify=progress.note,
            on_report=progress.report,
        )
    summary = report.summary()
    if arguments.json:
        print(json.dumps(summary))
    else:
        report_table(report)
    if summary["memories"]:
        return 0
    if not arguments.json:
        print(
            "what earned its place waits for approval"
            if summary["quarantined"]
            else "nothing earned its place; the reasons stand above",
            file=sys.stderr,
        )
    return NOTHING_KEPT


def _learn_config(arguments) -> LearnConfig:
    config = LearnConfig()
    if arguments.styles:
        config = replace(config, styles=tuple(arguments.styles.split(",")))
    config = replace(config, each_alone=arguments.each_alone)
    return with_settings(config, number_settings(arguments.set))


# ask


def _ask(arguments) -> int:
    from selfedit.ask import ask
    from selfedit.tasks.questions import load_prompts
    from selfedit.terminal import Progress
    from selfedit.types import Question

    if (arguments.question is None) == (arguments.file is None):
        raise SelfeditError("give one question, or --file with many")
    if arguments.question is not None and not arguments.question.strip():
        raise SelfeditError("the question is empty")
    if arguments.tokens < 1:
        raise SelfeditError(f"--tokens {arguments.tokens}: at least 1")
    if arguments.tries < 1:
        raise SelfeditError(f"--tries {arguments.tries}: at least 1")
    questions = load_prompts(arguments.file) if arguments.file else [Question(arguments.question, ())]
    store = open_store(arguments)
    with Progress(quiet=arguments.json or not arguments.file) as progress:
        model = open_model(arguments, progress.note)
        on_token = lambda done, total: progress.stage("answer", done, total)  # noqa: E731
        answers = ask(
            model, store, questions, max_new_tokens=arguments.tokens, tries=arguments.tries, on_token=on_token
        )
    if not any(answer.memory for answer in answers):
        _note_other_models(arguments, store, model)
    for question, answer in zip(questions, answers):
        why = _why(store, question.question, answer) if arguments.why else {}
        if arguments.json:
            print(json.dumps(answer.record() | why, ensure_ascii=False))
            continue
        print(answer.answer if not arguments.file else f"{question.question}\n  → {answer.answer}")
        for one in answer.disagrees:
            print(f"  {one['source']} says otherwise: {one['there']}", file=sys.stderr)
        for name, value in why.items():
            print(f"  {name}: {value}", file=sys.stderr)
    return 0


def _note_other_models(arguments, store, model) -> None:
    """One line for people where every memory in force is of another model, so that none can answer."""
    if not arguments.json and store.active_ids() and not store.router(model.fingerprint).ids:
        names = sorted({entry.model for entry in store.active()})
        print(
            f"no memory in force is of these weights of {model.name}: they are of {', '.join(names)}; give --model",
            file=sys.stderr,
        )


def _why(store, question: str, answer) -> dict:
    from selfedit.ask import nearest_example, nearest_sentence
    from selfedit.disk import file_hash
    from selfedit.memory.folders import WEIGHTS

    if answer.memory is None:
        return {"why": f"no memory fits (best score {answer.score:.2f}); the untouched model answered"}
    entry = answer.memory
    nearest = nearest_example(question, store.edits(entry.id))
    adapter = store.answering_path(entry.id)
    shared = "" if adapter.name == entry.id else f"; it answers from the adapter {adapter.name}, which it shares"
    return {
        "why": f"memory {entry.id} fits (score {answer.score:.2f}){shared}",
        "edit": f"{nearest[0]}: {nearest[1]}" if nearest else "the passage itself",
        "passage": nearest_sentence(question, entry.passage),
        "source_hash": entry.passage.source_hash,
        "adapter_hash": file_hash(adapter / WEIGHTS),
    }


# memory


def _memory_list(arguments) -> int:
    from selfedit.terminal import memory_table

    store = open_store(arguments)
    active = store.active()
    entries = store.all() if arguments.all else active
    in_force = {entry.id for entry in active}
    if arguments.json:
        records = [_entry_record(entry) | {"active": entry.id in in_force} for entry in entries]
        print(
            json.dumps(
                {"memories": records, "history": store.history()} if arguments.all else records, ensure_ascii=False
            )
        )
    else:
        memory_table(entries, in_force, store.history() if arguments.all else [])
    return 0


def _entry_record(entry) -> dict:
    scores = entry.scores
    return {
        "id": entry.id,
        "title": entry.passage.title,
        "source": entry.passage.source,
        "source_hash": entry.passage.source_hash,
        "model": entry.model,
        "adapter_hash": entry.adapter_hash,
        "created": entry.created,
        "size_bytes": entry.size_bytes,
        "accuracy_before": scores.get("before", {}).get("accuracy"),
        "accuracy_after": scores.get("after", {}).get("accuracy"),
        "questions": len(scores.get("questions", [])),
        "general_change": scores.get("general_change"),
    }


def _memory_show(arguments) -> int:
    from selfedit.terminal import memory_page

    store = open_store(arguments)
    entry = store.get(arguments.id)
    edits = store.edits(entry.id)
    if arguments.json:
        studied = [{"style": e.style, "prompt": x.prompt, "text": x.text} for e in edits for x in e.examples]
        print(
            json.dumps(
                _entry_record(entry) | {"passage": entry.passage.text, "studied": studied, "scores": entry.scores},
                ensure_ascii=False,
            )
        )
    else:
        memory_page(entry, edits)
    return 0


def _memory_forget(arguments) -> int:
    """What shared an adapter with it answers from its own first, so that a stop or a fault meanwhile loses nothing."""
    from selfedit.memory.consolidate import consolidate
    from selfedit.terminal import Progress, consolidation_table

    store = open_store(arguments)
    line = store.forget(arguments.memories)
    if arguments.apart or len(line.get("apart", ())) < 2:
        return _changed(arguments, line)
    if not arguments.json:
        _changed(arguments, line)
    report = None
    with Progress(quiet=arguments.json) as progress:
        try:
            left = [store.get(id) for id in line["apart"]]
            arguments.model = arguments.model or left[0].model
            why = f"of another model than {arguments.model}"
            model = open_model(arguments, progress.note)
            entries = [entry for entry in left if entry.model_hash == model.fingerprint]
            report = (
                consolidate(model, store, entries, ConsolidateConfig(), progress=progress.stage)
                if len(entries) > 1
                else None
            )
        except SelfeditError as error:  # what was asked for is done
            why = str(error)
    if arguments.json:
        return _changed(arguments, line | {"consolidated": report and report.record()})
    if report:
        consolidation_table(report)
    else:
        print(f"not consolidated anew: {why}")
    return 0


def _memory_disable(arguments) -> int:
    return _changed(arguments, open_store(arguments).disable(arguments.memories))


def _memory_approve(arguments) -> int:
    return _changed(arguments, open_store(arguments).approve(arguments.memories))


def _memory_test(arguments) -> int:
    from selfedit.retest import retest
    from selfedit.terminal import Progress, retest_table

    store = open_store(arguments)
    with Progress(quiet=arguments.json) as progress:
        model = open_model(arguments, progress.note)
        entries = store.active(model.fingerprint)
        if not entries:
            _note_other_models(arguments, store, model)
        if arguments.memories:
            chosen = store.find(arguments.memories)
            entries = [entry for entry in entries if entry.id in chosen]
        found = retest(model, store, entries, on_token=lambda done, total: progress.stage("answer", done, total))
    if arguments.json:
        print(json.dumps([one.record() for one in found], ensure_ascii=False))
    else:
        retest_table(found)
    return 0


def _memory_consolidate(arguments) -> int:
    from selfedit.memory.consolidate import consolidate
    from selfedit.terminal import Progress, consolidation_table

    config = with_settings(ConsolidateConfig(), number_settings(arguments.set))
    store = open_store(arguments)
    with Progress(quiet=arguments.json) as progress:
        model = open_model(arguments, progress.note)
        chosen = {id for which in arguments.memories for id in store.find(which)}
        entries = [entry for entry in store.active(model.fingerprint) if entry.id in chosen or not arguments.memories]
        report = consolidate(model, store, entries, config, progress=progress.stage)
    print(json.dumps(report.record())) if arguments.json else consolidation_table(report)
    return 0 if report.shared else NOTHING_KEPT


def _memory_verify(arguments) -> int:
    found = open_store(arguments).verify()
    if arguments.json:
        print(json.dumps(found))
    elif found["faults"]:
        raise SelfeditError("; ".join(found["faults"]))
    else:
        print(
            f"{_count(found['memories'], 'memory', 'memories')}, {_count(found['versions'], 'version', 'versions')}: every hash is right"
        )
    return BAD_INPUT if found["faults"] else 0


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"


def _memory_rollback(arguments) -> int:
    return _changed(arguments, open_store(arguments).rollback(arguments.id))


def _changed(arguments, line: dict) -> int:
    if arguments.json:
        print(json.dumps(line))
    else:
        print(f"version {line['version']}: {line['action']}; in force: {', '.join(line['active']) or 'nothing'}")
        if line.get("note"):
            print(line["note"])
        if line.get("apart"):
            print(
                f"{len(line['apart'])} that shared an adapter with it answer from their own; `selfedit memory consolidate` joins them anew"
            )
    return 0


def _memory_export(arguments) -> int:
    open_store(arguments).export(arguments.id, arguments.to)
    if arguments.json:
        print(json.dumps({"exported": arguments.id, "to": str(arguments.to)}))
    else:
        print(f"exported to {as_utf8(str(arguments.to))} (a PEFT adapter folder)")
    return 0


# models


def _models_list(arguments) -> int:
    from selfedit.model.catalog import CATALOG, HUB_IDS, is_cached
    from selfedit.terminal import model_table

    rows = [
        {"name": name, "megabytes": m.megabytes, "licence": m.licence, "from": m.requirement, "here": is_cached(name), "about": m.about}
        for name, m in CATALOG.items()
    ] + [
        {"name": name, "megabytes": None, "licence": "Apache-2.0", "from": f"hub: {hub}", "here": None, "about": "better writer; needs a hub"}
        for name, hub in HUB_IDS.items()
    ]  # fmt: skip
    if arguments.json:
        print(json.dumps(rows))
    else:
        model_table(rows)
    return 0


def _models_pull(arguments) -> int:
    from selfedit.model.catalog import resolve

    print(resolve(arguments.name, notify=lambda message: print(message, file=sys.stderr)))
    return 0
