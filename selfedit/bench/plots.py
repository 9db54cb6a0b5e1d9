"""Results → PNG files, with matplotlib; nothing here measures anything."""

from __future__ import annotations

from pathlib import Path

from selfedit.errors import SelfeditError


def knowledge_plots(result: dict, folder: Path) -> list[Path]:
    """`accuracy.png`: a bar a condition with its interval; `budget.png`: accuracy against the tokens trained on."""
    plt = pyplot()
    rows = [r for r in result["rows"] if r["accuracy"] is not None]
    names = [_name(r) for r in rows]
    figure, axes = plt.subplots(figsize=(8, 1.2 + 0.36 * len(rows)), layout="constrained")
    axes.barh(
        names,
        [r["accuracy"] for r in rows],
        xerr=_errors(rows, "accuracy", "ci95"),
        color="#4878a8",
        ecolor="#222222",
        capsize=3,
    )
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("accuracy, 95 % interval over passages")
    axes.set_title(
        f"{Path(result['model']).name}: {rows[0]['passages']} passages, {rows[0]['questions']} questions"
        if rows
        else Path(result["model"]).name,
        fontsize=10,
    )
    made = [_save(figure, folder / "accuracy.png")]
    trained = [r for r in rows if r["train_tokens"]]
    if trained:
        figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
        for r in trained:
            tokens = r["train_tokens"] / (r["passages"] * result["seeds"])
            axes.errorbar(
                tokens, r["accuracy"], yerr=_errors([r], "accuracy", "ci95"), fmt="o", capsize=3, label=_name(r)
            )
        axes.set_xlabel("tokens trained on, a passage")
        axes.set_ylabel("accuracy, closed book")
        axes.set_ylim(0, 1)
        axes.legend(fontsize=8)
        made.append(_save(figure, folder / "budget.png"))
    return made


def _errors(rows: list[dict], value: str, interval: str) -> list[list[float]]:
    """How far each row's interval reaches below and above its value; 0 where it has none."""
    bounds = [row[interval] or [row[value]] * 2 for row in rows]
    return [
        [row[value] - low for row, (low, _) in zip(rows, bounds)],
        [high - row[value] for row, (_, high) in zip(rows, bounds)],
    ]


def round_plots(summaries: list[dict], folder: Path) -> list[Path]:
    """`rounds.png`: what each round's edits are worth, what each style gained, and how far the reward can be trusted."""
    plt = pyplot()
    rounds = [s["round"] for s in summaries]
    figure, (levels, gained, trust) = plt.subplots(1, 3, figsize=(13.5, 3.8), layout="constrained")
    for name, side in (("untouched", lambda s: s["untouched"]), ("best edit of each context", lambda s: s["best"])):
        levels.plot(
            rounds,
            [side(s)["gold_logprob"] - s["controls"]["passage"]["gold_logprob"] for s in summaries],
            marker="o",
            label=name,
        )
    levels.axhline(0, color="#888888", linestyle=":", label="passage alone")
    levels.set_ylabel("log-probability of the gold answers,\nover the passage alone, nats a token")
    for style in dict.fromkeys(row["style"] for s in summaries for row in s["styles"]):
        own = [
            (s["round"], row["gain"], row["error"] or 0.0)
            for s in summaries
            for row in s["styles"]
            if row["style"] == style
        ]
        gained.errorbar(
            *zip(*((r, gain) for r, gain, _ in own)),
            yerr=[error for *_, error in own],
            marker="o",
            capsize=3,
            label=style,
        )
    gained.axhline(0, color="#888888", linestyle=":")
    gained.set_ylabel("gain over the passage alone,\nnats a token (± s.e.)")
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
    """`stream.png`: a heat map a method, right answers of each document after each; with several sizes, `consolidation.png`."""
    import numpy as np

    plt = pyplot()
    matrices = result["matrices"]
    figure, axes = plt.subplots(
        1, len(matrices), figsize=(3.4 * len(matrices) + 0.8, 3.9), layout="constrained", squeeze=False
    )
    for own, (method, matrix) in zip(axes[0], matrices.items()):
        rows, columns = len(matrix), len(matrix[0])
        shown = own.imshow(
            np.array([[np.nan if v is None else v for v in row] for row in matrix]),
            vmin=0, vmax=1, cmap="viridis", aspect="auto", interpolation="nearest", extent=(0.5, columns + 0.5, rows - 0.5, -0.5),
        )  # fmt: skip
        row = next(r for r in result["rows"] if r["method"] == method)
        ratio = "" if row["ratio"] is None else f": {row['just_learned']:.2f} → {row['retained']:.2f}"
        own.set_title(f"{method}{ratio}", fontsize=10)
        own.set_xlabel("document")
    axes[0][0].set_ylabel("documents learned")
    figure.colorbar(shown, ax=axes[0].tolist(), label="right answers, closed book", shrink=0.85)
    made = [_save(figure, folder / "stream.png")]
    return made + ([_consolidation_plot(result["consolidation"], folder)] if len(result["consolidation"]) > 1 else [])


def _consolidation_plot(curve: list[dict], folder: Path) -> Path:
    """What one adapter for so many documents keeps of what each of theirs answers, and what it costs."""
    figure, (kept, ratio, cost) = pyplot().subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    sizes = [row["documents"] for row in curve]
    for name, label in (("just_learned", "an adapter each, just learned"), ("retained", "one adapter for all")):
        kept.plot(sizes, [row[name] for row in curve], marker="o", label=label)
    kept.set_title("right answers, closed book", fontsize=10)
    kept.legend(fontsize=8)
    known = [row for row in curve if row["ci95"]]
    errors = [
        [max(0, row["ratio"] - row["ci95"][0]) for row in known],
        [max(0, row["ci95"][1] - row["ratio"]) for row in known],
    ]
    ratio.errorbar(
        [row["documents"] for row in known], [row["ratio"] for row in known], yerr=errors, marker="o", capsize=3
    )
    ratio.set_title("their ratio, 95 %", fontsize=10)
    cost.plot(sizes, [row["seconds"] for row in curve], marker="o")
    cost.set_title("seconds of training", fontsize=10)
    for axes, top in ((kept, 1), (ratio, 1.5), (cost, None)):
        axes.set_xlabel("documents in one adapter")
        axes.set_ylim(0, top)
    return _save(figure, folder / "consolidation.png")


def routing_plots(result: dict, folder: Path) -> list[Path]:
    """`routing.png`: recall against the number of memories, a line a way."""
    plt = pyplot()
    figure, panels = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained", sharey=True)
    for axes, (name, title) in zip(
        panels, (("recall_at_1", "recall@1"), ("recall_at_3", "recall@3"), ("accepted", "first, and accepted"))
    ):
        for method in dict.fromkeys(r["method"] for r in result["rows"]):
            own = [r for r in result["rows"] if r["method"] == method]
            axes.errorbar(
                [r["memories"] for r in own],
                [r[name] for r in own],
                yerr=_errors(own, name, f"{name}_ci95"),
                marker="o",
                capsize=3,
                label=method,
            )
        axes.set_xscale("log")
        axes.set_ylim(0, 1)
        axes.set_xlabel("memories")
        axes.set_title(title, fontsize=10)
    panels[0].legend(fontsize=8)
    return [_save(figure, folder / "routing.png")]


def arc_pages(tasks, attempts: dict, folder: Path) -> list[Path]:
    """`tasks/ID.png`: a task's examples; then, for each test input, the truth if it is known and each condition's attempts.

    `attempts`: (condition, task id) → what it is called there, and the attempts at each test pair, best first."""
    from matplotlib.colors import ListedColormap

    from selfedit.tasks.arc import PALETTE

    plt, made = pyplot(), []
    colours = ListedColormap(PALETTE)
    (folder / "tasks").mkdir(exist_ok=True)
    for task in tasks:
        own = [found for (_, id), found in attempts.items() if id == task.id]
        rows = [[(f"example {i + 1}", p.input), ("", p.output)] for i, p in enumerate(task.train)]
        for j, pair in enumerate(task.test):
            said = [
                (
                    f"{title if n == 0 else 'second'}{': right' if pair.output and grid == pair.output else ': no grid' if grid is None else ''}",
                    grid,
                )
                for title, answers in own
                for n, grid in enumerate(answers[j] or [None])
            ]
            rows.append([("test", pair.input), *([("truth", pair.output)] if pair.output else []), *said])
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
    """Raises SelfeditError without the library: to be called before the work that is to be drawn."""
    try:
        import matplotlib
    except ImportError as error:
        raise SelfeditError(f"the plots need {error.name}; pip install 'selfedit[bench]'") from error
    matplotlib.use("Agg")
    import matplotlib.pyplot

    return matplotlib.pyplot
