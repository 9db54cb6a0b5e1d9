"""Results of the benchmarks → PNG files, drawn with matplotlib."""

from __future__ import annotations

import math
from pathlib import Path

from selfedit.errors import SelfeditError


def knowledge_plots(result: dict, folder: Path) -> list[Path]:
    """`accuracy.png`: one bar per condition with its interval; `budget.png`: accuracy over the training tokens."""
    plt = pyplot()
    rows = [r for r in result["rows"] if r["accuracy"] is not None]
    about = f": {rows[0]['passages']} passages, {rows[0]['questions']} questions" if rows else ""
    made = [_accuracy_bars(result, rows, list(map(_name, rows)), about, folder)]
    trained = [r for r in rows if r["train_tokens"]]
    if trained:
        figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
        for r in trained:
            tokens = r["train_tokens"] / (r["passages"] * result["seeds"])
            axes.errorbar(
                tokens, r["accuracy"], yerr=_errors([r], "accuracy", "ci95"), fmt="o", capsize=3, label=_name(r)
            )
        axes.set_xlabel("training tokens per passage")
        axes.set_ylabel("accuracy, closed book")
        axes.set_ylim(0, 1)
        axes.legend(fontsize=8)
        made.append(_save(figure, folder / "budget.png"))
    return made


def documents_plot(result: dict, folder: Path) -> Path:
    """`accuracy.png`: one bar per condition with its interval."""
    about = f": {result['documents']} documents, {result['rows'][0]['questions']} questions"
    return _accuracy_bars(result, result["rows"], [r["condition"] for r in result["rows"]], about, folder)


def answers_plots(result: dict, folder: Path) -> list[Path]:
    """`accuracy.png` as for documents; `calibration.png`: how probable and how right the answers of `auto` are, and
    what is answered, and wrong, if less probable answers are not given."""
    files = [documents_plot(result, folder)]
    if auto := result.get("auto"):
        figure, (left, right) = pyplot().subplots(1, 2, figsize=(9, 3.6), layout="constrained")
        left.plot([0, 1], [0, 1], color="#888888", linestyle=":")
        left.plot(*([c[key] for c in auto["calibration"]] for key in ("probability", "accuracy")), marker="o")
        left.set_xlabel("probability")
        left.set_ylabel("share right")
        shown = [t for t in auto["thresholds"] if t["wrong"] is not None]
        for key in ("answered", "wrong", "right_kept", "unknown_abstained"):
            points = [(t["threshold"], t[key]) for t in shown if t[key] is not None]
            if points:
                right.plot(*zip(*points), label=key.replace("_", " "))
        right.set_xlabel("least probability of an answer")
        right.legend(fontsize=8)
        files.append(_save(figure, folder / "calibration.png"))
    return files


def sessions_plot(result: dict, folder: Path) -> Path:
    """`accuracy.png`: for each kind of question one bar per condition."""
    rows = result["rows"]
    kinds = list(rows[0]["by_kind"])
    figure, axes = pyplot().subplots(figsize=(9, 3.6), layout="constrained")
    width = 0.8 / len(rows)
    for i, row in enumerate(rows):
        places = [k + (i - (len(rows) - 1) / 2) * width for k in range(len(kinds))]
        axes.bar(places, [row["by_kind"][kind]["accuracy"] for kind in kinds], width, label=row["condition"])
    axes.set_xticks(range(len(kinds)), kinds, fontsize=8)
    axes.set_ylim(0, 1)
    axes.set_ylabel("accuracy")
    axes.set_title(f"{Path(result['model']).name}: {result['users']} users", fontsize=10)
    axes.legend(fontsize=8, ncols=3)
    return _save(figure, folder / "accuracy.png")


def _accuracy_bars(result: dict, rows: list[dict], names: list[str], about: str, folder: Path) -> Path:
    figure, axes = pyplot().subplots(figsize=(8, 1.2 + 0.36 * len(rows)), layout="constrained")
    measured = [(name, row) for name, row in zip(names, rows) if row["accuracy"] is not None]
    names, rows = [name for name, _ in measured], [row for _, row in measured]
    values, errors = [r["accuracy"] for r in rows], _errors(rows, "accuracy", "ci95")
    axes.barh(names, values, xerr=errors, color="#4878a8", ecolor="#222222", capsize=3)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("accuracy, 95 % interval over passages")
    axes.set_title(f"{Path(result['model']).name}{about}", fontsize=10)
    return _save(figure, folder / "accuracy.png")


def _errors(rows: list[dict], value: str, interval: str) -> list[list[float]]:
    """Returns the distances from the values to their lower and upper bounds; 0 for rows without an interval."""
    bounds = [row[interval] or [row[value]] * 2 for row in rows]
    return [
        [row[value] - low for row, (low, _) in zip(rows, bounds)],
        [high - row[value] for row, (_, high) in zip(rows, bounds)],
    ]


def round_plots(summaries: list[dict], folder: Path) -> list[Path]:
    """`rounds.png`: the quality of each round's edits, the gain of each style, and the reliability of the reward."""
    plt = pyplot()
    rounds = [s["round"] for s in summaries]
    figure, (levels, gained, trust) = plt.subplots(1, 3, figsize=(13.5, 3.8), layout="constrained")
    for name, key in (("untouched", "untouched"), ("best edit of each context", "best")):
        pairs = [(s[key]["gold_logprob"], s["controls"]["passage"]["gold_logprob"]) for s in summaries]
        gains = [math.nan if None in (level, alone) else level - alone for level, alone in pairs]  # NaN is not drawn
        levels.plot(rounds, gains, marker="o", label=name)
    levels.axhline(0, color="#888888", linestyle=":", label="passage alone")
    levels.set_ylabel("log-probability of the gold answers\nminus passage alone, nats per token")
    by_style: dict[str, list[tuple]] = {}
    for summary in summaries:
        for row in summary["styles"]:
            by_style.setdefault(row["style"], []).append((summary["round"], row["gain"], row["error"] or 0.0))
    for style, points in by_style.items():
        x, y, errors = zip(*points)
        gained.errorbar(x, y, yerr=errors, marker="o", capsize=3, label=style)
    gained.axhline(0, color="#888888", linestyle=":")
    gained.set_ylabel("gain over the passage alone,\nnats per token (± standard error)")
    for key, name in (("one_run", "one run"), ("mean_of_seeds", "mean of its seeds")):
        trust.plot(
            rounds,
            [s["reliability"]["first"][key] for s in summaries],
            marker="o",
            label=f"gain in log-probability, {name}",
        )
    trust.plot(
        rounds,
        [s["reliability"]["accuracy"]["one_run"] for s in summaries],
        marker="o",
        label="accuracy, one run (audited contexts)",
    )
    trust.axhline(0.13, color="#888888", linestyle=":", label="SEAL as published, one run")
    trust.set_ylabel("reliability of the reward")
    trust.set_ylim(-0.2, 1)
    for axes in (levels, gained, trust):
        axes.set_xlabel("round")
        axes.set_xticks(rounds)
        axes.legend(fontsize=7)
    return [_save(figure, folder / "rounds.png")]


def stream_plots(result: dict, folder: Path) -> list[Path]:
    """`stream.png`: one heat map per method of the accuracy on each document after each step.

    If documents were consolidated at several sizes, also `consolidation.png`.
    """
    import numpy as np

    plt = pyplot()
    matrices = result["matrices"]
    figure, axes = plt.subplots(
        1, len(matrices), figsize=(3.4 * len(matrices) + 0.8, 3.9), layout="constrained", squeeze=False
    )
    for panel, (method, matrix) in zip(axes[0], matrices.items()):
        image = panel.imshow(
            np.array([[np.nan if v is None else v for v in row] for row in matrix]),
            vmin=0,
            vmax=1,
            cmap="viridis",
            aspect="auto",
            interpolation="nearest",
            extent=(0.5, len(matrix[0]) + 0.5, len(matrix) - 0.5, -0.5),
        )
        row = next(r for r in result["rows"] if r["method"] == method)
        change = "" if row["ratio"] is None else f": {row['just_learned']:.2f} → {row['retained']:.2f}"
        panel.set_title(f"{method}{change}", fontsize=10)
        panel.set_xlabel("document")
    axes[0][0].set_ylabel("documents learned")
    figure.colorbar(image, ax=axes[0].tolist(), label="accuracy, closed book", shrink=0.85)
    made = [_save(figure, folder / "stream.png")]
    return made + ([_consolidation_plot(result["consolidation"], folder)] if len(result["consolidation"]) > 1 else [])


def _consolidation_plot(curve: list[dict], folder: Path) -> Path:
    """Draws the accuracy of one adapter for many documents and of one adapter each, their ratio, and the cost."""
    figure, (kept, ratio, cost) = pyplot().subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    sizes = [row["documents"] for row in curve]
    for name, label in (("just_learned", "one adapter each, just learned"), ("retained", "one adapter for all")):
        kept.plot(sizes, [row[name] for row in curve], marker="o", label=label)
    kept.set_title("accuracy, closed book", fontsize=10)
    kept.legend(fontsize=8)
    rows = [row for row in curve if row["ci95"]]
    errors = [[max(0, distance) for distance in distances] for distances in _errors(rows, "ratio", "ci95")]
    x, y = ([row[name] for row in rows] for name in ("documents", "ratio"))
    ratio.errorbar(x, y, yerr=errors, marker="o", capsize=3)
    ratio.set_title("their ratio, 95 % interval", fontsize=10)
    cost.plot(sizes, [row["seconds"] for row in curve], marker="o")
    cost.set_title("seconds of training", fontsize=10)
    for axes, top in ((kept, 1), (ratio, 1.5), (cost, None)):
        axes.set_xlabel("documents in one adapter")
        axes.set_ylim(0, top)
    return _save(figure, folder / "consolidation.png")


def routing_plots(result: dict, folder: Path) -> list[Path]:
    """`routing.png`: recall over the number of memories, one line per method."""
    plt = pyplot()
    figure, panels = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained", sharey=True)
    for axes, (name, title) in zip(
        panels, (("recall_at_1", "recall@1"), ("recall_at_3", "recall@3"), ("accepted", "first and accepted"))
    ):
        for method in dict.fromkeys(r["method"] for r in result["rows"]):
            rows = [r for r in result["rows"] if r["method"] == method]
            x, y = ([r[key] for r in rows] for key in ("memories", name))
            axes.errorbar(x, y, yerr=_errors(rows, name, f"{name}_ci95"), marker="o", capsize=3, label=method)
        axes.set_xscale("log")
        axes.set_ylim(0, 1)
        axes.set_xlabel("memories")
        axes.set_title(title, fontsize=10)
    panels[0].legend(fontsize=8)
    return [_save(figure, folder / "routing.png")]


def arc_pages(tasks, attempts: dict, folder: Path) -> list[Path]:
    """`tasks/ID.png`: the examples of a task; then per test input the correct output, if known, and all attempts.

    `attempts`: (condition, task id) → a title, and the attempts at each test pair, best first.
    """
    from matplotlib.colors import ListedColormap

    from selfedit.tasks.arc import PALETTE

    plt, made = pyplot(), []
    colours = ListedColormap(PALETTE)
    (folder / "tasks").mkdir(exist_ok=True)
    for task in tasks:
        by_condition = [values for (_, id), values in attempts.items() if id == task.id]
        rows = [[(f"example {i + 1}", p.input), ("", p.output)] for i, p in enumerate(task.train)]
        for j, pair in enumerate(task.test):
            row = [("test", pair.input), *([("truth", pair.output)] if pair.output else [])]
            for title, answers in by_condition:
                for n, grid in enumerate(answers[j] or [None]):
                    verdict = ": no grid" if grid is None else ": right" if grid == pair.output else ""
                    row.append((f"{'second' if n else title}{verdict}", grid))
            rows.append(row)
        width = max(map(len, rows))
        figure, axes = plt.subplots(
            len(rows), width, figsize=(1.5 * width, 1.6 * len(rows)), layout="constrained", squeeze=False
        )
        for line, row in zip(axes, rows):
            for cell in line:
                cell.set_axis_off()
            for cell, (title, grid) in zip(line, row):
                cell.set_title(title, fontsize=7)
                if grid is None:
                    continue
                cell.set_axis_on()
                cell.pcolormesh(grid, cmap=colours, vmin=0, vmax=9, edgecolors="#555555", linewidth=0.5)
                cell.invert_yaxis()
                cell.set_aspect("equal")
                cell.set_xticks([])
                cell.set_yticks([])
        figure.suptitle(task.id, fontsize=9, parse_math=False)
        made.append(_save(figure, folder / "tasks" / f"{task.id}.png"))
    return made


def _name(row: dict) -> str:
    return row["condition"] + (f" ({row['together']} together)" if row["together"] > 1 else "")


def _save(figure, file: Path) -> Path:
    figure.savefig(file, dpi=130)
    pyplot().close(figure)
    return file


def pyplot():
    """Returns matplotlib.pyplot. Raises SelfeditError if it is not installed; call it before long work, too."""
    try:
        import matplotlib
    except ImportError as error:
        raise SelfeditError(f"the plots need {error.name}; pip install 'selfedit[bench]'") from error
    matplotlib.use("Agg")
    import matplotlib.pyplot

    return matplotlib.pyplot
