"""The commands of memory and models: learn, ask, memory …, models …."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

from selfedit.cli.code import add_release, learn_passages, work_expected
from selfedit.cli.options import (
    BAD_INPUT,
    NOTHING_KEPT,
    STOPPED,
    add_backend,
    add_for,
    add_intake,
    add_json,
    add_settings,
    add_versions,
    add_writer,
    check_writer,
    intake,
    library,
    open_local_writer,
    open_model,
    open_remote_writer,
    open_store,
    path,
    project_versions,
    show,
    whole,
)
from selfedit.config import ConsolidateConfig, LearnConfig, ReleaseConfig, with_settings
from selfedit.errors import SelfeditError
from selfedit.terminal import can_ask, confirmed, note, one_line, say, show_json


def add(commands, common: argparse.ArgumentParser, with_backend: argparse.ArgumentParser) -> None:
    learn = commands.add_parser("learn", parents=[common, with_backend], help="turn documents into tested memories")
    learn.add_argument(
        "sources", nargs="+", metavar="DOCS", help="files, folders, URLs, or published packages (package:NAME@VERSION)"
    )
    add_intake(learn)
    learn.add_argument(
        "--for",
        dest="library",
        type=library,
        metavar="LIBRARY@VERSION",
        help="the library and the versions that the documents describe: polars@2.0 (until the next major version), "
        "polars==2.0.1, 'polars>=1.5,<2' (default: that of a package, else none)",
    )
    learn.add_argument(
        "--dry-run",
        action="store_true",
        help="show what would be read, how it would be split, what is left out and why, and how long it would take",
    )
    learn.add_argument(
        "--quiz", type=path, metavar="FILE", help="your own judging questions: JSONL of question, answer"
    )
    learn.add_argument(
        "--styles",
        metavar="A,B",
        help="study questions, and what the model writes in these styles, e.g. "
        f"{','.join(LearnConfig.styles)} (default: it learns to recite each passage)",
    )
    add_writer(learn, "that writes about the documents (default: the model that learns)")
    learn.add_argument("--each-alone", action="store_true", help="with --styles: also try each one by itself")
    add_settings(learn, "learning", "epochs=8")
    add_release(learn)
    learn.add_argument("--again", action="store_true", help="also redo passages that kept nothing before")
    learn.set_defaults(run=_learn)

    ask = commands.add_parser("ask", parents=[common, with_backend], help="ask; answered from what was learned")
    ask.add_argument("question", nargs="?", help="one question")
    ask.add_argument("--file", type=path, help='many questions: JSONL of {"question"} or {"prompt"} lines')
    ask.add_argument(
        "--from",
        dest="arm",
        choices=("auto", "weights", "text", "both"),
        default="auto",
        help="weights: from what is in the adapters, without the document; text: from the passages that fit best; "
        "both: the adapter answers with them in the prompt; auto: what is most probably right of these (default)",
    )
    add_versions(ask)
    ask.add_argument(
        "--strict", action="store_true", help='"I don\'t know." where no memory fits or no answer is probably right'
    )
    ask.add_argument(
        "--why", action="store_true", help="show every answer that was tried, which was taken, and from which source"
    )
    ask.add_argument(
        "--tokens",
        type=whole(1, 100_000),
        default=64,
        help="longest answer that is written, in tokens; a quotation is whole (default: %(default)s)",
    )
    ask.set_defaults(run=_ask)

    memory = commands.add_parser("memory", help="the memories: list, show, forget, roll back, verify, export")
    actions = memory.add_subparsers(title="actions", required=True, metavar="ACTION")
    listing = actions.add_parser("list", parents=[common], help="the memories in force")
    listing.add_argument("--all", action="store_true", help="also those not in force, and the history")
    add_for(listing, "those that are about a library (polars) or that answer for a version of it (polars@2)")
    listing.add_argument(
        "--session", metavar="NAME", help="what came from this conversation: statements, and memories that have them"
    )
    listing.add_argument(
        "--page", type=whole(1), metavar="N", help="the N-th page of 50; without it JSON has all, a table the first"
    )
    listing.set_defaults(run=_memory_list)
    which = "the start of an id, a source (its path or name), a day (2026-11-23), or a tag (polars@1.0)"
    page = actions.add_parser(
        "show", parents=[common], help="where a memory comes from, what was studied, how it scored"
    )
    page.add_argument("memory", metavar="WHICH", help=f"{which}; several memories are listed")
    page.add_argument("--all", action="store_true", help="also all that was studied")
    page.set_defaults(run=_memory_show)
    difference = actions.add_parser(
        "diff", parents=[common], help="what a change did, or the texts of two memories side by side"
    )
    difference.add_argument(
        "which",
        nargs="*",
        metavar="A B",
        help="two versions (v3 v5), one (from it to the present one), or two memories; default: the last change",
    )
    difference.set_defaults(run=_memory_diff)
    forget = actions.add_parser("forget", parents=[common], help="delete memories from the disk, for good")
    forget.add_argument("memories", metavar="WHICH", help=which)
    forget.add_argument("--yes", action="store_true", help="delete without a question")
    forget.add_argument(
        "--model", help="the model of the memories that shared an adapter with it (default: the one that they name)"
    )
    add_backend(forget)
    forget.add_argument(
        "--apart", action="store_true", help="do not consolidate again the memories that shared an adapter with it"
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
        "test", parents=[common, with_backend], help="ask the judging questions of memories again: what still holds?"
    )
    test.add_argument("memories", metavar="WHICH", nargs="?", help=f"{which}; default: all in force")
    test.set_defaults(run=_memory_test)
    consolidate = actions.add_parser(
        "consolidate", parents=[common, with_backend], help="train one adapter for many memories, where they still hold"
    )
    consolidate.add_argument("memories", metavar="WHICH", nargs="*", help=f"{which}; default: all in force")
    add_settings(consolidate, "the training", "epochs=4")
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
    export.add_argument("--to", type=path, required=True, metavar="DIR", help="a new or empty folder")
    export.set_defaults(run=_memory_export)

    models = commands.add_parser("models", help="the models that are known by name")
    model_actions = models.add_subparsers(title="actions", required=True, metavar="ACTION")
    model_list = model_actions.add_parser("list", help="names, sizes, licences")
    add_json(model_list)
    model_list.set_defaults(run=_models_list)
    advice = "the best model for this machine, and what it costs"
    recommended = model_actions.add_parser("recommend", parents=[common], help=advice)
    recommended.set_defaults(run=_models_recommend)
    pull = model_actions.add_parser("pull", help="fetch and convert a model now")
    pull.add_argument("name")
    pull.set_defaults(run=_models_pull)


# learn


def _learn(arguments) -> int:
    from selfedit.documents.read import load_documents, split_documents
    from selfedit.model.catalog import local_path
    from selfedit.tasks.questions import load_quiz
    from selfedit.terminal import Progress, learned_table

    config = _learn_config(arguments)
    quiz = load_quiz(arguments.quiz) if arguments.quiz else []
    store = open_store(arguments, writes=True)
    # An unknown name or a wrong address is an error before the documents are read.
    local_path(arguments.model)
    is_remote = check_writer(arguments)
    if arguments.dry_run:
        return _show_reading(arguments, store.home, config.passage_words)
    writer = open_remote_writer(arguments, store.home) if is_remote else None
    with Progress(quiet=arguments.json) as progress:
        documents, skipped = load_documents(arguments.sources, intake(arguments), progress.stage)
        if not arguments.json:
            for source, reason in skipped:
                progress.note(f"left out: {source}: {reason}")
        from selfedit.learn import passage_length

        model = open_model(arguments, progress.note)
        writer = writer or open_local_writer(arguments, progress.note)
        length = passage_length(model, config.passage_words)
        passages = split_documents(documents, config.passage_words, length, str(arguments.library or ""))
        options = {"writer": writer, "quiz": quiz, "again": arguments.again}
        report = learn_passages(arguments, model, passages, store, config, progress, **options)
    summary = report.summary() | {"skipped": [one._asdict() for one in skipped]}
    show(arguments, summary, lambda: learned_table(report))
    if summary["memories"]:
        return 0
    if not arguments.json and "edits_tried" in summary:
        if summary["quarantined"]:
            note("what passed the test waits for `selfedit memory approve`")
        elif summary["texts"]:
            note("nothing was learned, for the reasons above; questions are answered from the text")
        else:
            note("nothing was kept; the reasons are above")
    return NOTHING_KEPT


def _show_reading(arguments, home: Path, passage_words: int) -> int:
    from selfedit.documents.read import read_documents
    from selfedit.terminal import Progress, reading_tables
    from selfedit.text import count_words

    with Progress(quiet=arguments.json) as progress:
        reading = read_documents(
            arguments.sources,
            passage_words=passage_words,
            library=str(arguments.library or ""),
            intake=intake(arguments),
            progress=progress.stage,
        )
    seconds, changes = work_expected(arguments, reading.passages, home)
    passages = [
        {
            "source": passage.source,
            "title": passage.title,
            "library": passage.library or None,
            "text": passage.text,
            "words": count_words(passage.text),
            "units": [{"kind": unit.kind, "text": unit.text} for unit in passage.units],
        }
        for passage in reading.passages
    ]
    value = {"passages": passages, "skipped": [one._asdict() for one in reading.skipped], "seconds_expected": seconds}
    value |= {"study": "facts" if changes is None else "code", "changes": changes}
    show(arguments, value, lambda: reading_tables(value))
    return 0


def _learn_config(arguments) -> LearnConfig:
    from selfedit.edits.styles import STYLES

    config = replace(LearnConfig(), each_alone=arguments.each_alone)
    if arguments.styles:
        config = replace(config, recite=False, styles=tuple(arguments.styles.split(",")))
        if not STYLES.keys() >= set(config.styles):
            from selfedit.edits.propose import check_styles  # here, since it imports torch

            check_styles(config.styles)
    others = [] if arguments.study == "facts" else [ReleaseConfig()]
    return with_settings(config, dict(arguments.set), others)


# ask


def _ask(arguments) -> int:
    from selfedit.answers.answerer import BASE, Answerer, Ask
    from selfedit.answers.why import why
    from selfedit.tasks.questions import load_prompts
    from selfedit.terminal import Progress, after
    from selfedit.types import Question

    if (arguments.question is None) == (arguments.file is None):
        raise SelfeditError("give one question, or --file with many")
    if arguments.question is not None and not arguments.question.strip():
        raise SelfeditError("the question is empty")
    questions = load_prompts(arguments.file) if arguments.file else [Question(arguments.question, ())]
    store = open_store(arguments)
    with Progress(quiet=arguments.json) as progress:
        stage = progress.stage if arguments.file else after(5.0, progress.stage)
        model = open_model(arguments, progress.note)
        project = project_versions(arguments, store, model.fingerprint, progress.note)
        on_token = lambda done, total: stage("answer", done, total)  # noqa: E731  (a callback of one line)
        answers = Answerer(model, store).answer(
            [
                Ask(
                    question,
                    arguments.arm,
                    library=arguments.library,
                    project=project,
                    strict=arguments.strict,
                    max_new_tokens=arguments.tokens,
                )
                for question in questions
            ],
            on_token=on_token,
        )
    explained = not any(answer.memory for answer in answers) and _note_other_models(arguments, store, model)
    for question, answer in zip(questions, answers):
        reasons = why(store, question.question, answer) if arguments.why and not answer.error else {}
        if arguments.json:
            show_json(answer.record() | reasons)
            continue
        shown = f"no answer: {one_line(answer.error)}" if answer.error else answer.answer
        say(shown if not arguments.file else f"{question.question[:1000]}\n  → {shown}")
        is_own = answer.arm == BASE and not answer.error and not explained
        if not reasons and (answer.note or is_own):
            note(f"  {one_line(answer.note or 'no memory fits: this is what the model itself says')}")
        for other in answer.disagrees:
            note(f"  {one_line(other['source'])} disagrees: {one_line(other['there'])}")
        for candidate in reasons.pop("candidates", ()):
            if "probability" in candidate:
                note(f"  {candidate['arm']} ({candidate['probability']:.0%}): {one_line(candidate['answer'])}")
        for name, value in reasons.items():
            note(f"  {name}: {one_line(value)}")
    return 0


def _note_other_models(arguments, store, model) -> bool:
    """Notes, for people, that every memory in force is of another model, so that none can answer; whether it is so."""
    if not store.active_ids() or store.router(model.fingerprint).ids:
        return False
    if not arguments.json:
        names = ", ".join(sorted({entry.model for entry in store.active()}))
        note(one_line(f"every memory in force belongs to another model than {model.name}: give --model ({names})"))
    return True


# memory


def _memory_list(arguments) -> int:
    from selfedit.memory.store import PAGE
    from selfedit.terminal import memory_table

    store, page = open_store(arguments), arguments.page
    if arguments.session is not None:
        return _memory_list_of_session(arguments, store)
    if arguments.library:
        entries = store.about(arguments.library, arguments.all)
        count = len(entries)
        entries = entries if page is None else entries[(page - 1) * PAGE : page * PAGE]
    elif page is None and arguments.json:
        entries, count = store.all() if arguments.all else store.active(), None
    else:
        entries, count = store.page(page or 1, arguments.all)
    history = store.history() if arguments.all and page is None else []
    in_force = store.in_force()
    records = [_record(entry, in_force) for entry in entries]
    value = {"memories": records, "history": history} if arguments.all else records
    if page is not None:
        value = {"page": page, "pages": -(-count // PAGE), "memories": records}
    show(arguments, value, lambda: memory_table(entries, in_force, history))
    if arguments.json:
        return 0
    pages = max(1, -(-count // PAGE)) if page or not arguments.library else 1
    if entries and pages > 1:
        note(f"page {page or 1} of {pages}, {count:,} memories; --page N shows another")
    elif not entries and (page or 1) > 1:
        say(f"there is no page {page}; the last is {pages}")
    elif not entries and arguments.library:
        say(f"no memory is about {arguments.library}; `selfedit learn DOCS --for {arguments.library}` makes some")
    elif not entries and (stored := store.page(1, True)[1]):
        say(f"none of {stored:,} stored memories is in force; `selfedit memory list --all` shows them")
    elif not entries and not history:
        say("no memories yet; `selfedit learn DOCS` makes some")
    return 0


def _record(entry, in_force: Mapping[str, str | None]) -> dict:
    return entry.record() | {"active": entry.id in in_force, "shared_adapter": in_force.get(entry.id)}


def _memory_list_of_session(arguments, store) -> int:
    from selfedit.conversations import Conversations
    from selfedit.memory.difference import SESSION
    from selfedit.terminal import memory_table

    conversations = Conversations(store.home)
    name = conversations.checked_name(arguments.session)
    names, sources, in_force = conversations.names(), store.sources(), store.in_force()
    statements = [statement for statement in conversations.statements if statement.session == name]
    entries = [entry for entry in store.all() if SESSION + name in sources.get(entry.id, ())]
    if name not in names and not (statements or entries):
        raise SelfeditError(f"there is no session {name!r}; the sessions are: {', '.join(names[-20:]) or 'none'}")
    entries = [entry for entry in entries if arguments.all or entry.id in in_force]
    records = [_record(entry, in_force) for entry in entries]
    value = {"session": name, "statements": [asdict(statement) for statement in statements], "memories": records}
    if arguments.json:
        show_json(value)
        return 0
    for statement in statements:
        say(f"{statement.date}  {one_line(statement.text)}")
    if not (statements or entries):
        say("nothing that was said in this session is known")
    memory_table(entries, in_force, [])
    return 0


def _memory_diff(arguments) -> int:
    from selfedit.memory.difference import between_memories, between_versions
    from selfedit.terminal import memories_difference, versions_difference

    store, which = open_store(arguments), arguments.which
    versions = [int(text.removeprefix("v")) for text in which if re.fullmatch(r"v\d{1,9}|\d{1,3}", text, re.ASCII)]
    if len(which) > 2 or len(versions) not in (0, len(which)) or (len(which) == 1 and not versions):
        raise SelfeditError("give two versions (v3 v5), one version, or two memories")
    if len(which) == 2 and not versions:
        value = between_memories(store, *which)
        show(arguments, value, lambda: memories_difference(value))
        return 0
    value = between_versions(store, *(versions if len(versions) != 1 else [versions[0], store.version]))
    show(arguments, value, lambda: versions_difference(value))
    return 0


def _memory_show(arguments) -> int:
    from selfedit.terminal import memory_page, memory_table

    store = open_store(arguments)
    entry, *others = entries = [store.get(id) for id in store.find(arguments.memory)]
    in_force = store.in_force()
    if others:
        records = [_record(entry, in_force) for entry in entries]
        show(arguments, records, lambda: memory_table(entries, in_force, []))
        return 0
    edits, shared = store.edits(entry.id), in_force.get(entry.id)
    shared_scores = store.shared_scores(shared) if shared else {}
    value = entry.details(edits) | {"shared_adapter": shared, "shared_scores": shared_scores}
    show(arguments, value, lambda: memory_page(entry, edits, arguments.all, shared, shared_scores))
    return 0


def _memory_forget(arguments) -> int:
    """Memories that shared an adapter with a forgotten one answer from their own adapters before they are consolidated
    again, so that a stop or a fault in between loses nothing."""
    from selfedit.memory.consolidate import consolidate
    from selfedit.terminal import Progress, consolidation_table

    store = open_store(arguments)
    if not _may_delete(arguments, store, store.to_forget(arguments.memories)):
        note("nothing was deleted")
        return STOPPED
    line = store.forget(arguments.memories)
    if arguments.apart or len(line.get("apart", ())) < 2:
        return _changed(arguments, line)
    if not arguments.json:
        _changed(arguments, line)
    report = None
    with Progress(quiet=arguments.json) as progress:
        try:
            left = [entry for id in line["apart"] if (entry := store.get(id)).has_adapter]
            if not left:
                raise SelfeditError("they answer from their texts now; learn again to train an adapter for the release")
            arguments.model = arguments.model or left[0].model
            why = f"of another model than {arguments.model}"
            model = open_model(arguments, progress.note)
            entries = [entry for entry in left if entry.model_hash == model.fingerprint]
            if len(entries) > 1:
                report = consolidate(model, store, entries, ConsolidateConfig(), progress=progress.stage)
        except SelfeditError as error:  # the memories are forgotten all the same
            why = str(error)
    if arguments.json:
        return _changed(arguments, line | {"consolidated": report and report.record()})
    consolidation_table(report) if report else say(one_line(f"not consolidated again: {why}"))
    return 0


def _may_delete(arguments, store, ids: list[str]) -> bool:
    """True if --yes or a person at a terminal says so. Raises SelfeditError if there is nobody to ask."""
    if arguments.yes:
        return True
    if not can_ask():
        raise SelfeditError(
            f"{', '.join(ids)} would be deleted for good; give --yes, because there is no terminal to confirm it on"
        )
    lines = []
    for id in ids:
        try:
            passage = store.get(id).passage
            lines.append(f"  {id}  {one_line(passage.title)}  ({one_line(passage.source)})")
        except SelfeditError as error:  # a corrupt memory can be forgotten, too
            lines.append(f"  {one_line(str(error))}")
    return confirmed("\n".join(["these memories will be deleted for good:", *lines, "delete?"]))


def _memory_disable(arguments) -> int:
    return _changed(arguments, open_store(arguments).disable(arguments.memories))


def _memory_approve(arguments) -> int:
    return _changed(arguments, open_store(arguments).approve(arguments.memories))


def _memory_test(arguments) -> int:
    from selfedit.retest import retest, retest_releases
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
        results = retest(model, store, entries, on_token=lambda done, total: progress.stage("answer", done, total))
        releases = retest_releases(model, store, entries)
    show(arguments, [one.record() for one in (*results, *releases)], lambda: retest_table(results, releases))
    return 0


def _memory_consolidate(arguments) -> int:
    from selfedit.memory.consolidate import consolidate
    from selfedit.terminal import Progress, consolidation_table

    config = with_settings(ConsolidateConfig(), dict(arguments.set))
    store = open_store(arguments, writes=True)
    with Progress(quiet=arguments.json) as progress:
        model = open_model(arguments, progress.note)
        chosen = {id for which in arguments.memories for id in store.find(which)}
        active = [entry for entry in store.active(model.fingerprint) if entry.has_adapter]
        entries = [entry for entry in active if entry.id in chosen or not arguments.memories]
        report = consolidate(model, store, entries, config, progress=progress.stage)
    show(arguments, report.record(), lambda: consolidation_table(report))
    return 0 if report.shared else NOTHING_KEPT


def _memory_verify(arguments) -> int:
    result = open_store(arguments).verify()
    if result["faults"] and not arguments.json:
        raise SelfeditError("; ".join(result["faults"]))
    memories = _count(result["memories"], "memory", "memories")
    versions = _count(result["versions"], "version", "versions")
    show(arguments, result, lambda: f"{memories}, {versions}: every hash is right")
    return BAD_INPUT if result["faults"] else 0


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"


def _memory_rollback(arguments) -> int:
    return _changed(arguments, open_store(arguments).rollback(arguments.id))


def _changed(arguments, line: dict) -> int:
    action = line["action"] + (f" to v{line['restored']}" if "restored" in line else "")
    text = f"version {line['version']}: {action}; in force: {', '.join(line['active']) or 'nothing'}"
    if line["action"] == "forget":
        text += f"\ndeleted for good: {', '.join(line['memories'])}"
    if line.get("note"):
        text += f"\n{line['note']}"
    if line.get("apart"):
        text += (
            f"\n{_count(len(line['apart']), 'memory', 'memories')} that shared an adapter with it now use their own; "
            "`selfedit memory consolidate` trains a shared one again"
        )
    show(arguments, line, lambda: text)
    return 0


def _memory_export(arguments) -> int:
    open_store(arguments).export(arguments.id, arguments.to)
    text = f"exported to {one_line(str(arguments.to))} (a PEFT adapter folder)"
    show(arguments, {"exported": arguments.id, "to": str(arguments.to)}, lambda: text)
    return 0


# models


def _models_list(arguments) -> int:
    from selfedit.model.catalog import CATALOG, is_cached
    from selfedit.terminal import model_table

    columns = ("name", "megabytes", "licence", "from", "here", "about")
    rows = [(name, m.megabytes, m.licence, m.origin, is_cached(name), m.about) for name, m in CATALOG.items()]
    models = [dict(zip(columns, row)) for row in rows]
    show(arguments, models, lambda: model_table(models))
    return 0


def _models_recommend(arguments) -> int:
    from selfedit import estimate
    from selfedit.terminal import cost_table

    memory_gb, gflops = estimate.machine_gb(), estimate.machine_gflops()
    costs = estimate.costs(open_store(arguments).home, memory_gb, gflops)
    best, models = estimate.recommend(costs), [asdict(cost) for cost in costs]
    record = {"recommended": best, "memory_gb": round(memory_gb, 1), "gflops": round(gflops), "models": models}
    show(arguments, record, lambda: cost_table(record))
    return 0


def _models_pull(arguments) -> int:
    from selfedit.model.catalog import resolve

    say(str(resolve(arguments.name, notify=lambda message: note(one_line(message)))))
    return 0
