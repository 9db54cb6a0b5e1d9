"""The command watch: a dependency of a project has moved; what its release notes say is learned, or would be."""

from __future__ import annotations

import argparse
import re
import sys
import time
from pathlib import Path

from selfedit.cli.code import add_release, learn_passages, work_expected
from selfedit.cli.options import NOTHING_KEPT, open_model, open_store, path, show, whole
from selfedit.config import LearnConfig
from selfedit.errors import SelfeditError
from selfedit.terminal import note, one_line, say

SHOWN = 4
"""Files that a line names."""


def add(commands, common: argparse.ArgumentParser, with_backend: argparse.ArgumentParser) -> None:
    about = "a dependency has moved: learn what its release notes say, or show what would be learned"
    watch = commands.add_parser("watch", parents=[common, with_backend], help=about)
    watch.add_argument(
        "lock",
        nargs="?",
        type=path,
        metavar="FILE",
        help="a lock file, a file of requirements, or their folder (default: the lock file of the current folder)",
    )
    watch.add_argument("--learn", action="store_true", help="learn it, tagged library@version")
    watch.add_argument(
        "--all", action="store_true", help="begin with every dependency, not only with those that memories are about"
    )
    watch.add_argument(
        "--every",
        type=whole(1, 100_000),
        metavar="MINUTES",
        help="go on watching, and look again after so many minutes",
    )
    watch.add_argument(
        "--allow-private", action="store_true", help="also read packages from private networks and this machine"
    )
    add_release(watch)
    watch.set_defaults(run=_watch)


def _watch(arguments) -> int:
    from selfedit.watch import Watch

    store = open_store(arguments, writes=arguments.learn)
    watch = Watch(store.home, arguments.lock or Path.cwd())
    if not arguments.every:
        return _look(arguments, store, watch, {})
    told: dict = {}
    fault = ""
    while True:
        try:
            _look(arguments, store, watch, told)
            fault = ""
        except SelfeditError as error:  # e.g. a lock file that is being written
            if fault != (fault := str(error)):
                note(f"selfedit: {one_line(fault)}")
        sys.stdout.flush()
        time.sleep(60 * arguments.every)


def _look(arguments, store, watch, told: dict) -> int:
    """Looks once. `told`: what was told before and is not told again; with the fault of what failed, which is tried
    again."""
    moved = watch.moved(store.libraries(), arguments.all)
    news = [one for one in moved if told.get(one) != ""]
    if not moved and not arguments.json and not arguments.every:
        say(f"nothing has moved in {one_line(str(watch.lock))}")
    if not news:
        if arguments.json and not arguments.every:
            show(arguments, {"lock": str(watch.lock), "moved": []}, lambda: None)
        return 0
    return _tell(arguments, store, watch, news, told)


def _tell(arguments, store, watch, moved: list, told: dict) -> int:
    from selfedit.documents.read import split_documents
    from selfedit.errors import DocumentError
    from selfedit.terminal import Progress, learned_table
    from selfedit.text import count_words, duration
    from selfedit.watch import release_notes

    records, kept, config, model, length = [], False, LearnConfig(), None, count_words
    with Progress(quiet=arguments.json) as progress:
        if arguments.learn:
            from selfedit.learn import passage_length

            model = open_model(arguments, progress.note)
            length = passage_length(model, config.passage_words)
        for one in moved:
            record = one.record() | {"files": [], "words": 0, "seconds_expected": None}
            came = f"{one.library} {one.before or 'unknown'} → {one.now}"
            try:
                documents, skipped = release_notes(one, arguments.allow_private)
            except DocumentError as error:
                record["error"] = str(error)
                if told.get(one) != (fault := str(error)):
                    records.append(record)
                    if not arguments.json:
                        progress.note(f"{came}: {fault}")
                told[one] = fault
                continue
            records.append(record)
            passages = split_documents(documents, config.passage_words, length, one.tag)
            record["files"] = [document.source for document in documents]
            record["skipped"] = [left._asdict() for left in skipped]
            record["words"] = sum(count_words(passage.text) for passage in passages)
            seconds, _ = work_expected(arguments, passages, store.home)
            record["seconds_expected"] = seconds
            paths = [re.sub("^package:.*?@[^/]+/", "", document.source) for document in documents]
            names = ", ".join(paths[:SHOWN]) + (f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else "")
            takes = "" if seconds is None else f", about {duration(seconds)} to learn"
            if not arguments.json:
                say(one_line(f"{came}: {record['words']:,} words of {names}{takes}"))
            if model:
                report = learn_passages(arguments, model, passages, store, config, progress)
                record["learned"] = summary = report.summary()
                kept = kept or bool(summary["memories"])
                if not summary["failed"]:
                    watch.note({one.library: one.now})
                if not arguments.json:
                    learned_table(report)
            told[one] = ""
    if not arguments.learn and not arguments.json and any(record["files"] for record in records):
        note("--learn learns it")
    if records or not arguments.every:
        show(arguments, {"lock": str(watch.lock), "moved": records}, lambda: None)
    return NOTHING_KEPT if arguments.learn and not kept else 0
