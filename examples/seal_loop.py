"""SEAL from end to end on three invented passages: python -m examples.seal_loop (about two minutes on two cores).

The model writes self-edits about each passage (in a style of its own choice of two), every edit is studied by an
adapter of its own, all in one stack; what each adapter answers without the passage is the reward; the editor is
finetuned on the best edits, and writes again. `selfedit train-editor` is this loop with all that a study needs: noise,
resume, early stops, a guard against collapse (selfedit/loop/restem.py).
"""

from dataclasses import replace

from selfedit.bench.inner_loop import PASSAGES, read_entries
from selfedit.config import RestemConfig, TrainConfig
from selfedit.edits.parse import copied
from selfedit.edits.propose import write_edits, writing_sequences
from selfedit.judge.evaluate import gold_logprobs
from selfedit.loop.trial import job, seal_examples, study_sequences
from selfedit.model.backend import Job
from selfedit.model.load import load_model
from selfedit.types import Passage, SelfEdit, Task

CONTEXTS, EDITS, ROUNDS = 3, 4, 2
STYLES = ("paraphrase", "key-points")
INNER = RestemConfig().trial
OUTER = TrainConfig(rank=32, alpha=64.0, learning_rate=3e-4, epochs=2, batch_size=10, steps_per_epoch=1)


def main() -> None:
    model = load_model("smollm2-135m")
    tasks = [
        Task(Passage(e.title, e.context, source="", source_hash=""), e.questions)
        for e in read_entries(PASSAGES, CONTEXTS)
    ]
    editor = None  # the untouched model writes at first
    for round_number in range(1, ROUNDS + 1):
        kept, rewards = [], []
        for task in tasks:
            edits, (alone, *others) = inner_loop(model, task, editor, round_number)
            best = max(range(len(edits)), key=lambda k: others[k])
            rewards.append(others[best] - alone)
            print(
                f"  {task.passage.title}: passage alone {alone:.2f}; "
                + ", ".join(f"{e.style} {r:.2f}" for e, r in zip(edits, others))
            )
            if others[best] > alone and edits[best].examples:  # an edit that does not beat the passage teaches nothing
                kept.append((task, edits[best]))
        print(
            f"round {round_number}: {len(kept)} of {len(tasks)} contexts reinforced, mean gain of the best edit "
            f"{sum(rewards) / len(rewards):+.2f}"
        )
        if kept:
            editor = outer_loop(model, kept, editor, round_number)
    print("\nwhat the editor writes now:\n" + write_edits(model, [(tasks[0].passage, STYLES[0], 0)], editor)[0].text)


def inner_loop(model, task, editor, round_number):
    """Returns the log-probability of the gold answers (nats per token) per edit, the passage alone first."""
    asked = [(task.passage, STYLES[k % len(STYLES)], 100 * round_number + k) for k in range(EDITS)]
    edits = write_edits(model, asked, editor)
    jobs = []
    for edit in [SelfEdit("passage", ""), *edits]:
        examples = seal_examples(task.passage, [edit])
        jobs.append(job(study_sequences(model, task.passage, examples), examples, seed=round_number))
    stack, _ = model.backend.train(jobs, INNER)
    short = [
        replace(q, sentence="") for q in task.questions
    ]  # whole sentences also pay for knowing the passage by heart
    asked = iter(gold_logprobs(model, [(q, adapter) for adapter in range(len(jobs)) for q in short], stack))
    return edits, [sum(next(asked) for _ in short) / len(short) for _ in jobs]


def outer_loop(model, kept, editor, round_number):
    """The best edits → an editor that writes more like them (ReST-EM: rejection sampling, then finetuning)."""
    sequences = []
    for task, edit in kept:
        own = tuple(
            e for e in edit.examples if copied(e.text, task.passage) <= 0.6
        )  # who studies copies ends up copying
        sequences += writing_sequences(model, task.passage, replace(edit, examples=own)) if own else []
    if not sequences:
        return editor
    stack, (log,) = model.backend.train([Job(tuple(sequences), seed=round_number)], OUTER, start=editor)
    print(f"  editor: {len(sequences)} sequences, loss {log.losses[0]:.2f} → {log.losses[-1]:.2f}")
    return stack


if __name__ == "__main__":
    main()
