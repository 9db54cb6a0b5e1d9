"""What a person sees in a terminal: progress with time left, and tables. Built on rich; nothing here decides anything."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table

STAGES = {
    "passage": "passages",
    "write": "writing self-edits",
    "questions": "writing questions",
    "check": "checking questions",
    "train": "training candidates",
    "test": "testing candidates",
    "answer": "answering",
    "judge": "judging",
    "rounds": "rounds",
    "contexts": "contexts",
    "trials": "trials",
    "finetune": "finetuning the editor",
    "tasks": "tasks",
}


WHOLES = ("passage", "rounds", "contexts", "trials", "methods", "documents", "tasks")
"""Stages that others are part of."""


class Progress:
    """A bar a stage on standard error, if that is a terminal; quiet: nothing but notes."""

    def __init__(self, quiet: bool):
        self.console = Console(stderr=True)
        self.quiet = quiet
        columns = (
            TextColumn("{task.description:<20}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        self.bars = Bars(*columns, console=self.console, disable=quiet or not self.console.is_terminal, transient=True)
        self._tasks: dict[str, int] = {}

    def __enter__(self):
        self.bars.__enter__()
        return self

    def __exit__(self, *rest):
        return self.bars.__exit__(*rest)

    def note(self, message: str) -> None:
        self.console.print(message, style="dim", highlight=False, markup=False)

    def stage(self, stage: str, done: int, total: int) -> None:
        if self.quiet:
            return
        if stage in WHOLES:  # a new piece: its own stages start anew
            for name in [name for name in self._tasks if name not in WHOLES]:
                self.bars.remove_task(self._tasks.pop(name))
        if stage not in self._tasks:
            self._tasks[stage] = self.bars.add_task(STAGES.get(stage, stage), total=total)
        self.bars.update(self._tasks[stage], completed=done, total=total)

    def report(self, report) -> None:
        if self.quiet:
            return
        mark, outcome = ("[green]kept[/]", report.memory) if report.memory else ("[yellow]dropped[/]", "")
        if report.quarantined:
            mark, outcome = "[yellow]quarantined[/]", report.quarantined
        accuracy = (
            f"{report.correct_before}/{report.questions} → {report.correct_after}/{report.questions}"
            if report.questions
            else "no questions"
        )
        self.console.print(
            f"{mark} {outcome} {_escape(report.title)!s}: {accuracy}; {_escape(report.reason)}", highlight=False
        )
        for other in report.disagrees:
            self.console.print(
                f"  [yellow]disagrees[/] with {_escape(other['source'])}: “{_escape(other['here'])}” there: “{_escape(other['there'])}”",
                highlight=False,
            )


def after(seconds: float, stage: Callable[[str, int, int], None]) -> Callable[[str, int, int], None]:
    """The same, silent for so long: what is soon over needs no bar."""
    start = monotonic()
    return lambda name, done, total: stage(name, done, total) if monotonic() - start > seconds else None


def report_table(report) -> None:
    summary = report.summary()
    table = Table(title="learned", show_header=False, title_justify="left")
    size = sum(r.size_bytes for r in report.reports)
    kept, count = len(summary["memories"]), summary["passages"]
    rows = [
        ("passages", f"{count}, {kept} kept as memories"),
        ("self-edits", f"{summary['edits_tried']} tried, {summary['edits_kept']} kept"),
        ("questions not trained on", str(summary["questions"])),
        ("closed-book accuracy", f"{_percent(summary['accuracy_before'])} → {_percent(summary['accuracy_after'])}"),
        (
            "general change (KL)",
            "–" if summary["general_change"] is None else f"at most {summary['general_change']:.2f} nats a token",
        ),
        ("time", f"{summary['seconds']:.0f} s"),
        ("adapters on disk", f"{size / 1e6:.1f} MB"),
        ("memories", ", ".join(summary["memories"]) or "none"),
        ("superseded", ", ".join(summary["superseded"])),
        ("quarantined", ", ".join(summary["quarantined"])),
    ]
    for name, value in rows:
        if value:
            table.add_row(name, value)
    Console().print(table)


def memory_table(entries, in_force: set[str], history: list[dict]) -> None:
    console = Console()
    if not entries:
        console.print("no memories yet; `selfedit learn DOCS` makes some")
        return
    table = Table()
    for column in ("id", "title and source", "accuracy", "general\nchange", "MB", "learned"):
        table.add_column(column, overflow="fold", no_wrap=column != "title and source")
    for entry in entries:
        before, after = (entry.scores.get(side, {}).get("accuracy") for side in ("before", "after"))
        change = entry.scores.get("general_change")
        table.add_row(
            entry.id if entry.id in in_force else f"[dim]{entry.id}\n(not in force)[/]",
            f"{_escape(entry.passage.title)}\n[dim]{_escape(entry.passage.source)}[/]",
            f"{_percent(before)} → {_percent(after)}",
            "–" if change is None else f"{change:.2f}",
            f"{entry.size_bytes / 1e6:.1f}",
            entry.created[:10],
        )
    console.print(table)
    for line in history:
        console.print(
            f"v{line['version']}  {line['time'][:19]}  {line['action']}  {' '.join(line['memories'])}", highlight=False
        )


def retest_table(found) -> None:
    console = Console()
    if not found:
        console.print("nothing to test: no such memory of this model is in force")
        return
    table = Table()
    for column in ("id", "title and source", "questions", "found", "right\nthen", "right\nnow"):
        table.add_column(column, overflow="fold", no_wrap=column != "title and source")
    for one in found:
        passage = one.memory.passage
        table.add_row(
            one.memory.id,
            f"{_escape(passage.title)}\n[dim]{_escape(passage.source)}[/]",
            *map(str, (one.questions, one.routed, one.right_then, one.right_now)),
        )
    console.print(table)
    sums = [sum(getattr(one, name) for one in found) for name in ("questions", "routed", "right_then", "right_now")]
    console.print(
        "{:,} questions, {:,} find their memory; right when kept {:,}, right now {:,}".format(*sums), highlight=False
    )


def consolidation_table(report) -> None:
    table = Table()
    for column in ("memory", "questions", "right\nthen", "right\nnow", ""):
        table.add_column(column)
    for one in report.rehearsed:
        table.add_row(
            one.memory,
            str(one.questions),
            str(one.right_then),
            str(one.right_now),
            "shares" if one.holds and report.shared else "apart",
        )
    console = Console()
    console.print(table)
    console.print(
        f"{report.shared or 'nothing shared'}: {report.reason}; general change {report.general_change:.2f} nats a token; {report.tokens:,} tokens, {report.seconds:.0f} s",
        highlight=False,
    )


def memory_page(entry, edits) -> None:
    console = Console()
    before, after = (entry.scores.get(side, {}).get("accuracy") for side in ("before", "after"))
    console.print(f"[bold]{entry.id}[/]  {_escape(entry.passage.title)}")
    console.print(
        f"source   {_escape(entry.passage.source)}  (passage {entry.passage.index + 1}; document {entry.passage.source_hash[:12]})",
        highlight=False,
    )
    console.print(
        f"model    {entry.model}  adapter {entry.adapter_hash[:12]}  {entry.size_bytes / 1e6:.1f} MB  {entry.created}",
        highlight=False,
    )
    console.print(
        f"accuracy {_percent(before)} → {_percent(after)} on {len(entry.scores.get('questions', []))} questions",
        highlight=False,
    )
    for reason in entry.scores.get("quarantined", ()):
        console.print(f"[yellow]quarantined[/]: {_escape(reason)}", highlight=False)
    console.print(f"\n{_escape(entry.passage.text)}\n", highlight=False)
    for edit in edits:
        console.print(f"[bold]{edit.style}[/]")
        for example in edit.examples:
            console.print(
                "  " + _escape(f"{example.prompt} → {example.text}" if example.prompt else example.text),
                highlight=False,
            )


def model_table(rows: list[dict]) -> None:
    table = Table()
    for column in ("name", "MB", "licence", "from", "here", "about"):
        table.add_column(column)
    for row in rows:
        here = {True: "yes", False: "no", None: "–"}[row["here"]]
        table.add_row(row["name"], str(row["megabytes"] or "–"), row["licence"], row["from"], here, row["about"])
    Console().print(table)


def calibration_table(result: dict) -> None:
    table = Table(title="agreement with the verdicts", show_header=False, title_justify="left")
    kappa, interval, accuracy = result["kappa"], result["ci95"], result["accuracy"]
    rows = [
        ("answers", f"{result['n']:,} on {result['titles']:,} titles"),
        ("left out", f"{result['left_out']:,}, on titles that the grader was fitted on (--all scores them too)"),
        ("unscored", f"{result['unscored']:,}"),
        (
            "Cohen's kappa",
            ("–" if kappa is None else f"{kappa:.3f}")
            + (f"  [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else ""),
        ),
        ("accuracy", f"{accuracy:.3f}"),
        ("time", f"{result['seconds']:.1f} s"),
    ]
    for name, value in rows:
        if name != "left out" or result["left_out"]:
            table.add_row(name, value)
    cells = {name: f"{count:,}" for name, count in result["confusion"].items()}
    confusion = Table()
    for column in ("", "verdict: right", "verdict: wrong"):
        confusion.add_column(column, justify="right" if column else "left")
    confusion.add_row("judge: right", cells["true_positive"], cells["false_positive"])
    confusion.add_row("judge: wrong", cells["false_negative"], cells["true_negative"])
    Console().print(table, confusion)


def rounds_table(summaries: list[dict]) -> None:
    table = Table(title="the outer loop", title_justify="left")
    for column in (
        "round",
        "edits\nusable",
        "kept",
        "dense: untouched,\npassage, best edit",
        "reliability:\none run, mean",
        "best style\n(gain)",
        "editor",
        "min",
    ):
        table.add_column(column)
    for s in summaries:
        trust, best = s["reliability"]["first"], s["styles"][0]
        table.add_row(
            str(s["round"]),
            f"{s['usable']} of {s['edits']}",
            str(s["kept"]),
            ", ".join(f"{side['gold_logprob']:.2f}" for side in (s["untouched"], s["controls"]["passage"], s["best"])),
            ", ".join("–" if v is None else f"{v:.2f}" for v in (trust["one_run"], trust["mean_of_seeds"])),
            f"{best['style']}\n({best['gain']:+.2f})",
            s["editor"]["id"] if s["finetuned"] else f"as before:\n{_escape(s['guard'].get('why', ''))}",
            f"{s['seconds'] / 60:.1f}",
        )
    Console().print(table)


def recipe_rounds_table(summaries: list[dict]) -> None:
    table = Table(title="the outer loop: recipes", title_justify="left")
    for column in (
        "round",
        "tasks solved",
        "recipes that solve",
        "gain of a recipe,\nnats a token",
        "kept",
        "editor",
        "min",
    ):
        table.add_column(column)
    for s in summaries:
        solved = f"{s['solved']} of {s['recipes']}"
        table.add_row(
            str(s["round"]),
            f"{s['tasks_solved']} of {s['tasks']}",
            solved,
            "–" if s["gain"] is None else f"{s['gain']:+.2f}",
            str(s["kept"]),
            s["editor"]["id"],
            f"{s['seconds'] / 60:.1f}",
        )
    Console().print(table)


def show_grids(task, found) -> None:
    """Each question with its answers, side by side."""
    from rich.columns import Columns
    from rich.panel import Panel
    from rich.text import Text

    from selfedit.tasks.arc import PALETTE

    def drawn(title: str, grid) -> Panel:
        text = Text()
        for row in grid:
            for cell in row:
                text.append(f"{cell} ", style=f"{'black' if cell in (4, 5, 8) else 'white'} on {PALETTE[cell]}")
            text.append("\n")
        text.right_crop(1)
        return Panel(text, title=title, expand=False)

    console = Console()
    for i, pair in enumerate(task.train):
        console.print(Columns([drawn(f"example {i + 1}", pair.input), drawn("", pair.output)]))
    for pair, answer in zip(task.test, found.answers):
        said = [
            drawn(f"{'answer' if n == 0 else 'second'} ({votes} of {answer.asked})", grid)
            for n, (grid, votes) in enumerate(zip(answer.attempts, answer.votes))
        ]
        console.print(Columns([drawn("question", pair.input), *said]))
        if not said:
            console.print("no answer was a grid")
    for recipe in found.recipes:
        console.print(f"studied {recipe.brief()}", style="dim")
    console.print(
        f"{len(found.recipes)} recipe{'s' if len(found.recipes) > 1 else ''}, {found.tokens:,} tokens, {found.seconds:.0f} s",
        style="dim",
    )


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.0%}"


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)
