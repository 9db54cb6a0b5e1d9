"""Everything that a person sees: lines, questions, progress with the time left, and tables. Nothing is decided here.

Documents, file names, models and their answers can carry escape sequences, which a terminal would obey. So every text
goes through `plain` on its way out, and none is read as markup. JSON for programs is exact: it has escapes for these
characters. `rich` is imported where it is needed, because `--help` and an error message do without it.
"""

from __future__ import annotations

import io
import json
import os
import re
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from time import monotonic

from selfedit.errors import SelfeditError
from selfedit.text import duration

SEQUENCES = re.compile(
    "(?:\x1b\\[|\x9b)[0-?]*[ -/]*[@-~]"  # colours, cursor movements
    "|(?:\x1b[]PX^_]|[\x90\x98\x9d\x9e\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\\\|\x9c)"  # titles, links, the clipboard
    "|\x1b[ -/]*[0-~]"  # character sets, resets
)
UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters other than tab and newline, changes of the writing direction, and halves of surrogate pairs."""


def plain(text: str) -> str:
    """The text without escape sequences, and with a replacement character for every other unsafe one."""
    return UNSAFE.sub("\N{REPLACEMENT CHARACTER}", SEQUENCES.sub("", text.replace("\r\n", "\n").replace("\r", "\n")))


def one_line(text: str) -> str:
    """As `plain`, in one line: a title, a name or a message must not look like several."""
    return " ".join(plain(text).split())


# Lines


def say(text: str) -> None:
    """Prints a result."""
    _write(plain(text) + "\n")


def _write(text: str) -> None:
    try:
        sys.stdout.write(text)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise SelfeditError(f"cannot write the output: {error.strerror}") from error


def note(text: str) -> None:
    """Prints to standard error. That is never worth a failure: nobody may be there to read it."""
    with suppress(OSError):  # a fault of the output is told by whoever writes there next, or at the end
        sys.stdout.flush()  # results that come before the note are seen before it
    with suppress(OSError):
        print(plain(text), file=sys.stderr)


def show_json(value: object) -> None:
    """Prints JSON: readable where the output has the characters, escaped where it lacks them or they are unsafe."""
    text = UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(value, ensure_ascii=False))
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value)
    _write(text + "\n")


def can_ask() -> bool:
    return sys.stdin is not None and not sys.stdin.closed and sys.stdin.isatty()


def confirmed(question: str) -> bool:
    """Asks on standard error; anything but `y` or `yes` means no."""
    print(f"{plain(question)} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


# The standard streams


def prepare_streams() -> None:
    """Characters that the output does not have become `?`, and a closed output is like /dev/null."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))
        elif hasattr(stream, "reconfigure"):
            # Argparse hides what fails before the flush.
            stream.reconfigure(errors="replace", write_through=False, line_buffering=name == "stderr")


def flush(stream) -> OSError | None:
    """Writes what is left. What cannot be written is dropped and the reason returned, so that Python exits quietly."""
    try:
        stream.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return error
    return None


# Progress

STAGES = {
    "read": "reading documents",
    "passage": "passages",
    "write": "writing self-edits",
    "questions": "writing questions",
    "check": "checking questions",
    "pairs": "writing pairs of old and new code",
    "recite": "reciting",
    "train": "training candidates",
    "test": "testing candidates",
    "answer": "answering",
    "judge": "judging",
    "finetune": "finetuning the editor",
}
OUTER_STAGES = ("passage", "pairs", "rounds", "contexts", "trials", "methods", "documents", "tasks")
"""Stages that contain other stages."""


LINE_EVERY_S = 60.0
"""Interval of the lines of progress where standard error is no terminal."""


class Progress:
    """Progress on standard error: one bar per stage on a terminal, else a line per minute. Quiet: notes only."""

    def __init__(self, quiet: bool):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        self.quiet = quiet
        console = Console(stderr=True, markup=False, highlight=False, emoji=False)
        columns = (
            TextColumn("{task.description:<21}", markup=False),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        self.bars = Bars(*columns, console=console, disable=quiet or not console.is_terminal, transient=True)
        self._tasks: dict[str, int] = {}
        self._line_due = monotonic() + LINE_EVERY_S

    def __enter__(self):
        self.bars.__enter__()
        return self

    def __exit__(self, *rest):
        return self.bars.__exit__(*rest)

    def note(self, message: str) -> None:
        self._print((one_line(message), "dim"))

    def stage(self, stage: str, done: int, total: int) -> None:
        if self.quiet:
            return
        if self.bars.disable and monotonic() >= self._line_due:
            self._line_due = monotonic() + LINE_EVERY_S
            self.note(f"{STAGES.get(stage, stage)} {done:,}/{total:,}")
        if stage in OUTER_STAGES:  # a new piece of work: the stages inside it start again
            for name in [name for name in self._tasks if name not in OUTER_STAGES]:
                self.bars.remove_task(self._tasks.pop(name))
        if stage not in self._tasks:
            self._tasks[stage] = self.bars.add_task(STAGES.get(stage, stage), total=total)
        self.bars.update(self._tasks[stage], completed=done, total=total)

    def report(self, report) -> None:
        if self.quiet:
            return
        mark = ("kept", "green") if report.memory else ("text only" if report.text else "dropped", "yellow")
        if report.quarantined:
            mark = ("quarantined", "yellow")
        accuracy = (
            f"{report.correct_before}/{report.questions} → {report.correct_after}/{report.questions}"
            if report.questions
            else "no questions"
        )
        ids = " ".join(filter(None, (report.quarantined or report.memory or report.text, one_line(report.title))))
        self._print(mark, f" {ids}: {accuracy}; {one_line(report.reason)}")
        for other in report.disagrees:
            here, there, source = (one_line(other[key]) for key in ("here", "there", "source"))
            self._print(("  disagrees", "yellow"), f" with {source}, which states “{there}”; here: “{here}”")

    def _print(self, *parts: str | tuple[str, str]) -> None:
        with suppress(OSError):
            if self.bars.disable:
                print(_rendered(sys.stderr, _text(*parts)), end="", file=sys.stderr)
            else:  # above the bars
                self.bars.console.print(_text(*parts))


def after(seconds: float, stage: Callable[[str, int, int], None]) -> Callable[[str, int, int], None]:
    """The same callback, silent for the first seconds: short work needs no bar."""
    start = monotonic()
    return lambda name, done, total: stage(name, done, total) if monotonic() - start > seconds else None


# Tables

EXAMPLES = 5
"""Study examples on the page of a memory."""
FIRST_WORDS = 66
"""Width of a passage's beginning in the list of memories, in cells of the terminal."""
WHOLE_COLUMNS = ("id", "memory", "name", "accuracy", "MB", "learned", "licence", "here", "editor", "min")
"""Columns that stay in one piece where the terminal is narrow."""


def learned_table(report) -> None:
    """A LearnReport or a ReleaseReport."""
    (release_table if hasattr(report, "shared") else report_table)(report)


def report_table(report) -> None:
    summary = report.summary()
    change = summary["general_change"]
    known = f"; {summary['known']} of them known before" if summary["known"] else ""
    recited = [t["share_recited"] for r in report.reports for t in r.trials if t["kept"] and t.get("share_recited")]
    rows = [
        ("passages", f"{summary['passages']}, {len(summary['memories'])} kept as memories{known}"),
        ("recited of the text", f"{_percent(sum(recited) / len(recited))}, at least {_percent(min(recited))}")
        if recited
        else ("self-edits", f"{summary['edits_tried']} tried, {summary['edits_kept']} kept"),
        ("questions made of it", str(summary["questions"])),
        (
            "answered from what it recites" if recited else "answered closed book",
            f"{_percent(summary['accuracy_before'])} → {_percent(summary['accuracy_after'])}",
        ),
        ("general change (KL)", "–" if change is None else f"at most {change:.2f} nats per token"),
        ("time", f"{summary['seconds']:.0f} s"),
        ("adapters on disk", f"{sum(r.size_bytes for r in report.reports) / 1e6:.1f} MB"),
        ("memories", ", ".join(summary["memories"]) or "none"),
        ("known by their text", ", ".join(summary["texts"])),
        ("superseded", ", ".join(summary["superseded"])),
        ("quarantined", ", ".join(summary["quarantined"])),
    ]
    _print_table(("", ""), [row for row in rows if row[1]], title="learned", show_header=False)


def release_table(report) -> None:
    """What `learn` of a library's release did."""

    def share(before: float | None, after: float | None) -> str:
        return "" if before is None else f"{before:.0%} → {after:.0%} of {report.judged} held-back pairs"

    dropped = ", ".join(f"{count} {reason}" for reason, count in sorted(report.dropped.items(), key=lambda d: -d[1]))
    rows = [
        ("library", report.library),
        ("passages", f"{report.passages}, which state {report.changes} changes"),
        ("pairs of old and new code", f"{report.written} written, {report.studied + report.judged} kept"),
        ("dropped", dropped),
        ("run with", f"{report.library.partition('@')[0]} {report.ran}" if report.ran else "not run"),
        ("prefers the new code", share(report.prefers_new_before, report.prefers_new_after)),
        ("general change (KL)", "" if report.general_change is None else f"{report.general_change:.2f} nats per token"),
        ("adapter", report.shared or f"none: {report.reason}"),
        ("shared by", f"{len(report.memories)} memories" if report.memories else ""),
        ("known by their text", str(len(report.texts)) if report.texts else ""),
        ("quarantined", ", ".join(report.quarantined)),
        ("time", ", ".join(f"{stage} {seconds:,.0f} s" for stage, seconds in report.seconds.items())),
    ]
    _print_table(("", ""), [row for row in rows if row[1]], title="learned", show_header=False)


def reading_tables(reading: dict) -> None:
    """What `learn --dry-run` found: the passages, what is left out, and the sums."""
    rows = [
        (one_line(p["title"]), one_line(_from_here(p["source"])), str(p["words"]), str(len(p["units"])))
        for p in reading["passages"]
    ]
    _print_table(("passage", "source", "words", "units"), rows, title="would be learned")
    if reading["skipped"]:
        say("")
        rows = [(one_line(_from_here(s["source"])), one_line(s["reason"])) for s in reading["skipped"]]
        _print_table(("source", "why"), rows, title="left out")
    seconds, words = reading["seconds_expected"], sum(p["words"] for p in reading["passages"])
    takes = "time unknown for this model" if seconds is None else f"about {duration(seconds)} to learn"
    if reading["changes"] is not None:
        takes = f"{reading['changes']:,} changes, {takes} as code"
    count = len(reading["passages"])
    if tags := dict.fromkeys(p["library"] for p in reading["passages"] if p["library"]):
        say(f"\nabout {', '.join(tags)}")
    say(f"\n{count:,} passage{'s' * (count != 1)}, {words:,} words, {takes}; {len(reading['skipped']):,} left out")


def _from_here(source: str) -> str:
    """A path as it is seen from the present folder, if that is shorter."""
    if not os.path.isabs(source):
        return source
    return min(source, os.path.relpath(source), key=len)


def memory_table(entries, in_force: Mapping[str, str | None], history: list[dict]) -> None:
    """The source above its memories, as a long path does not fit a column; of each the scores, and its first words.
    `in_force`: as `MemoryStore.in_force`."""
    form = "{:<12}  {:<12}  {:>6}  {:>6}  {:<10}  "
    if entries:
        _print(_text((form.format("id", "accuracy", "change", "MB", "learned") + "title and text", "bold")))
    above = None
    for entry in entries:
        before, after = (entry.scores.get(side, {}).get("accuracy") for side in ("before", "after"))
        shared = in_force.get(entry.id)
        accuracy = "shared" if shared else "text only"
        if entry.recites:
            accuracy = f"recites {_percent(entry.scores['share_recited'])}"
        elif entry.has_adapter:
            accuracy = f"{_percent(before)} → {_percent(after)}"
        change = _shown(entry.scores.get("general_change"), ".2f")
        source = "  ".join(filter(None, (entry.passage.library, one_line(entry.passage.source))))
        if source != above:
            _print(_text((source, "dim")))
            above = source
        line = form.format(entry.id, accuracy, change, f"{entry.size_bytes / 1e6:.1f}", entry.created[:10])
        _print(_text(line, one_line(entry.passage.title), ("" if entry.id in in_force else "  (not in force)", "dim")))
        text = (f"shares adapter {shared}  " if shared else "") + one_line(entry.passage.text)
        _print(_text((f"{'':<14}{_beginning(text, FIRST_WORDS)}", "dim")))
    for line in history:
        say(f"v{line['version']}  {line['time'][:19]}  {line['action']}  {' '.join(line['memories'])}")


def _beginning(text: str, most: int) -> str:
    """The text, or so many cells of its beginning, up to a word if it has any."""
    from rich.cells import cell_len, set_cell_size

    if cell_len(text) <= most:
        return text
    cut = set_cell_size(text, most - 2)
    return f"{cut.rpartition(' ')[0] or cut} …"


def versions_difference(value: dict) -> None:
    """The memories that came, went and were replaced between two versions."""
    actions = ", ".join(f"v{line['version']} {line['action']} {line['time'][:19]}" for line in value["changes"])
    say(f"v{value['from']} → v{value['to']}{f': {actions}' if actions else ''}")
    rows = [("+", record) for record in value["added"]] + [("-", record) for record in value["removed"]]
    rows += [(sign, pair[side]) for pair in value["replaced"] for sign, side in (("-", "before"), ("+", "after"))]
    for sign, record in rows:
        if "forgotten" in record:
            say(f"{sign} {record['id']}  forgotten")
            continue
        origin = [one_line(record["source"]), *(f"session {one_line(name)}" for name in record["sessions"])]
        say(f"{sign} {record['id']}  {record['created'][:10]}  {one_line(record['title'])}  ({', '.join(origin)})")
    for pair in value["replaced"]:
        before, after = pair["before"]["id"], pair["after"]["id"]
        say(f"{before} is replaced by {after}; `selfedit memory diff {before} {after}` shows the texts")
    if value["other_adapter"]:
        say(f"answer from another adapter: {', '.join(value['other_adapter'])}")
    elif not rows:
        say("the same memories are in force")


def memories_difference(value: dict) -> None:
    """Two memories side by side. What changed is coloured, and its line is marked: < only left, > only right, |."""
    heads = [
        f"{record['id']}  {record['created'][:10]}\n{one_line(record['title'])}\n{one_line(record['source'])}"
        for record in value["memories"]
    ]
    for name, title in (("passage", "text"), ("studied", "studied")):
        rows = []
        for left, right in value[name]:
            mark = "" if left == right else "<" if not right else ">" if not left else "|"
            cells = [
                _text(*((part["text"], style) if part["changed"] else part["text"] for part in side))
                for side, style in ((left, "red"), (right, "green"))
            ]
            rows.append((cells[0], mark, cells[1]))
        _print_table((heads[0], "", heads[1]), rows, title=title)


def retest_table(results, releases=()) -> None:
    if not results and not releases:
        say("nothing to test: no such memory of this model is in force")
    for one in releases:
        then, now = _percent(one.prefers_new_then), _percent(one.prefers_new_now)
        say(f"{one.library}: prefers the new side of {one.pairs} held-back pairs: {then} when kept, {now} now")
    if not results:
        return
    counts = [(one.questions, one.routed, one.right_then, one.right_now) for one in results]
    rows = [(one.memory.id, _named(one.memory.passage), *map(str, row)) for one, row in zip(results, counts)]
    _print_table(("id", "title and source", "questions", "routed", "right\nthen", "right\nnow"), rows)
    totals = [sum(column) for column in zip(*counts)]
    say("{:,} questions, {:,} find their memory; right when kept {:,}, right now {:,}".format(*totals))
    if failed := sum(one.failed for one in results):
        say(f"{failed:,} of them could not be asked (too long, or a damaged adapter: `selfedit memory verify`)")


def consolidation_table(report) -> None:
    rows = [
        {
            "memory": one.memory,
            "questions": str(one.questions),
            "right\nthen": str(one.right_then),
            "right\nnow": str(one.right_now),
            "": "shares" if one.holds and report.shared else "apart",
        }
        for one in report.rehearsed
    ]
    _print_rows(rows)
    for id, reason in report.left_out.items():
        say(f"{id} is left out: {reason}")
    say(
        f"{report.shared or 'nothing shared'}: {report.reason}; general change {report.general_change:.2f} nats per "
        f"token; {report.tokens:,} tokens, {report.seconds:.0f} s"
    )


def memory_page(entry, edits, everything: bool, shared: str | None, shared_scores: dict) -> None:
    """A memory with its questions, and the first EXAMPLES study examples or all. `shared`: the adapter that it shares;
    `shared_scores`: how that scored."""
    passage, scores = entry.passage, entry.scores
    before, after = (scores.get(side, {}).get("accuracy") for side in ("before", "after"))
    _print(_text((entry.id, "bold"), f"  {one_line(passage.title)}"))
    adapter = f"adapter {entry.adapter_hash[:12]}  {entry.size_bytes / 1e6:.1f} MB"
    accuracy = f"{_percent(before)} → {_percent(after)} on {len(scores.get('questions', []))} questions"
    if not entry.has_adapter:
        accuracy = "nothing was learned; questions are answered from the text"
    if shared:
        adapter = f"shares adapter {shared}"
    elif not entry.has_adapter:
        adapter = "no adapter"
    if shared and "prefers_new_after" in shared_scores:
        before, after = (_percent(shared_scores[f"prefers_new_{side}"]) for side in ("before", "after"))
        accuracy = f"prefers the new side of {before} → {after} of {shared_scores['judged']} held-back pairs"
    _print(
        f"source   {one_line(passage.source)}",
        f"document {passage.source_hash[:12]}  passage {passage.index + 1}",
        *([f"about    {passage.library}"] if passage.library else []),
        *([f"recites  {_percent(scores['share_recited'])}, asked: {passage.request}"] if entry.recites else []),
        f"model    {one_line(entry.model)}  {adapter}  {entry.created}",
        f"accuracy {accuracy}",
    )
    for reason in scores.get("quarantined", ()):
        _print(_text(("quarantined", "yellow"), f": {one_line(reason)}"))
    _print(f"\n{passage.text}\n")
    verdicts = scores.get("after", {}).get("correct", ())
    for question, correct in zip(entry.questions, verdicts):
        say(f"{'right' if correct else 'wrong'}  {one_line(question.question)} → {one_line(question.answers[0])}")
    examples = [(edit.style, x) for edit in edits for x in edit.examples]
    shown = examples if everything else examples[:EXAMPLES]
    more = "" if len(shown) == len(examples) else f"; the first {EXAMPLES} (--all shows all)"
    if not examples:
        return
    say(f"\n{len(examples):,} study examples{more}")
    for style, x in shown:
        say(f"  {style}: {x.prompt} → {x.text}" if x.prompt else f"  {style}: {x.text}")


def model_table(models: list[dict]) -> None:
    cached = {True: "yes", False: "no", None: "–"}
    rows = [(m["name"], str(m["megabytes"] or "–"), m["licence"], cached[m["here"]], m["about"]) for m in models]
    _print_table(("name", "MB", "licence", "here", "about"), rows)


def cost_table(record: dict) -> None:
    from selfedit.estimate import GUIDE_WORDS

    rows = [
        (
            m["name"],
            f"{m['megabytes']:,} MB",
            _shown(m["memory_gb"], ".1f"),
            _shown(m["hours"], ".1f"),
            "" if m["fits"] else f"needs more than the {record['memory_gb']:.0f} GB here",
        )
        for m in record["models"]
    ]
    _print_table(("model", "to fetch", "GB to learn", f"hours for {GUIDE_WORDS:,} words", ""), rows)
    best = record["recommended"]
    say(f"recommended for this machine: {best} (selfedit learn … --model {best})")


def calibration_table(result: dict) -> None:
    kappa, interval = result["kappa"], result["ci95"]
    rows = [
        ("answers", f"{result['n']:,} on {result['titles']:,} titles"),
        ("unscored", f"{result['unscored']:,}"),
        ("Cohen's kappa", _shown(kappa, ".3f") + (f"  [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")),
        ("accuracy", f"{result['accuracy']:.3f}"),
        ("time", f"{result['seconds']:.1f} s"),
    ]
    if result["left_out"]:
        left_out = f"{result['left_out']:,}, on titles that the grader was fitted on (--all scores them too)"
        rows.insert(1, ("left out", left_out))
    _print_table(("", ""), rows, title="agreement with the verdicts", show_header=False)
    cells = {name: f"{count:,}" for name, count in result["confusion"].items()}
    rows = [
        ("judge: right", cells["true_positive"], cells["false_positive"]),
        ("judge: wrong", cells["false_negative"], cells["true_negative"]),
    ]
    say("")
    _print_table(("", "verdict: right", "verdict: wrong"), rows)


def rounds_table(summaries: list[dict]) -> None:
    rows, notes = [], []
    for s in summaries:
        trust, best, why = s["reliability"]["first"], s["styles"][0], s["guard"].get("why", "")
        row = {
            "round": str(s["round"]),
            "edits\nusable": f"{s['usable']}/{s['edits']}",
            "kept": str(s["kept"]),
            "untouched": f"{s['untouched']['gold_logprob']:.2f}",
            "passage": f"{s['controls']['passage']['gold_logprob']:.2f}",
            "best edit": f"{s['best']['gold_logprob']:.2f}",
            "reliability:\none run, mean": ", ".join(_shown(trust[key], ".2f") for key in ("one_run", "mean_of_seeds")),
            "min": f"{s['seconds'] / 60:.1f}",
        }
        rows.append(row)
        editor = f"editor {s['editor']['id']}" if s["finetuned"] else f"the editor stays as before: {why}"
        notes.append(f"round {s['round']}: best style {best['style']} ({best['gain']:+.2f}); {editor}")
    _print_rows(rows, title="the outer loop (scores: gold log-probability, nats per token)")
    for line in notes:
        say(line)


def recipe_rounds_table(summaries: list[dict]) -> None:
    rows = [
        {
            "round": str(s["round"]),
            "tasks solved": f"{s['tasks_solved']} of {s['tasks']}",
            "recipes that solve": f"{s['solved']} of {s['recipes']}",
            "gain per recipe,\nnats per token": _shown(s["gain"], "+.2f"),
            "kept": str(s["kept"]),
            "editor": s["editor"]["id"],
            "min": f"{s['seconds'] / 60:.1f}",
        }
        for s in summaries
    ]
    _print_rows(rows, title="the outer loop: recipes")


def show_grids(task, found) -> None:
    """Each question with its answers, side by side."""
    from rich.columns import Columns
    from rich.panel import Panel
    from rich.text import Text

    from selfedit.tasks.arc import PALETTE

    def panel(title: str, grid) -> Panel:
        text = Text()
        for row in grid:
            for cell in row:
                text.append(f"{cell} ", style=f"{'black' if cell in (4, 5, 8) else 'white'} on {PALETTE[cell]}")
            text.append("\n")
        text.right_crop(1)
        return Panel(text, title=title, expand=False)

    for i, pair in enumerate(task.train):
        _print(Columns([panel(f"example {i + 1}", pair.input), panel("", pair.output)]))
    for pair, answer in zip(task.test, found.answers):
        answers = [
            panel(f"{'answer' if n == 0 else 'second'} ({votes} of {answer.num_asked})", grid)
            for n, (grid, votes) in enumerate(zip(answer.attempts, answer.votes))
        ]
        _print(Columns([panel("question", pair.input), *answers]))
        if not answers:
            say("no answer was a grid")
    for recipe in found.recipes:
        _print(_text((f"studied {recipe.brief()}", "dim")))
    recipes = f"{len(found.recipes)} recipe{'s' if len(found.recipes) > 1 else ''}"
    _print(_text((f"{recipes}, {found.tokens:,} tokens, {found.seconds:.0f} s", "dim")))


def _shown(value: float | None, form: str) -> str:
    return "–" if value is None else f"{value:{form}}"


def _percent(share: float | None) -> str:
    return _shown(share, ".0%")


def _named(passage):
    return _text(f"{one_line(passage.title)}\n", (one_line(passage.source), "dim"))


# rich


def _text(*parts: str | tuple[str, str]):
    """Plain text, of which some parts have a style: (text, style)."""
    from rich.text import Text

    return Text.assemble(*(plain(part) if isinstance(part, str) else (plain(part[0]), part[1]) for part in parts))


class _Page(io.StringIO):
    """Text for a stream. rich writes here, as to the stream itself, so that what goes wrong there is handled here."""

    def __init__(self, stream):
        super().__init__()
        self.stream = stream

    @property
    def encoding(self):
        return self.stream.encoding

    def isatty(self) -> bool:
        return self.stream.isatty()


def _rendered(stream, *renderables) -> str:
    """Text is wrapped at words for a terminal, and stays in one line in a file."""
    from rich.console import Console

    console = Console(file=_Page(stream), markup=False, highlight=False, emoji=False)
    for one in renderables:
        is_text = isinstance(one, str) or type(one).__name__ == "Text"
        console.print(_text(one) if isinstance(one, str) else one, soft_wrap=is_text and not console.is_terminal)
    return console.file.getvalue()


def _print(*renderables) -> None:
    _write(_rendered(sys.stdout, *renderables))


def _print_rows(rows: Sequence[dict], **options) -> None:
    """A table of dicts with the same keys, which are the titles of the columns."""
    _print_table(list(rows[0]) if rows else [], (row.values() for row in rows), **options)


def _print_table(columns: Collection[str], rows: Iterable[Iterable], **options) -> None:
    """Cells are plain strings, or Text from `_text`."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(
        title_justify="left", box=SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True, **options
    )
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column in WHOLE_COLUMNS)
    for row in rows:
        table.add_row(*(_text(cell) if isinstance(cell, str) else cell for cell in row))
    _print(table)
