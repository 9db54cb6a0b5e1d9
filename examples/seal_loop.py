"""SEAL from end to end on three invented passages: python -m examples.seal_loop (a few minutes on two cores).

The model writes self-edits about each passage in two competing styles; every edit is studied by an adapter of its own,
all of them trained together; the reward is what each adapter then answers without the passage; and the editor is
finetuned on the best edits and writes again. `selfedit train-editor` runs the same four steps with what a study needs:
run folders, resuming, and a guard against editors that get worse (selfedit/loop/outer.py).
"""

from dataclasses import replace

from selfedit.bench.inner_loop import PASSAGES, read_entries
from selfedit.config import RestemConfig
from selfedit.edits.propose import write_edits
from selfedit.loop.domains.knowledge import Knowledge
from selfedit.loop.editor import Editor
from selfedit.loop.outer import Block, Round
from selfedit.model.backend import Job
from selfedit.model.load import load_model
from selfedit.types import Passage, Task

ROUNDS = 2
CONFIG = RestemConfig(styles=("paraphrase", "key-points"), edits=4, min_kept=1)


def main() -> None:
    model = load_model("smollm2-135m")
    tasks = [
        Task(Passage(e.title, e.context, source="", source_hash=""), e.questions) for e in read_entries(PASSAGES, 3)
    ]
    domain = Knowledge(model, tasks, CONFIG)
    current = Round(
        1, tasks, Editor(model.name, model.fingerprint, domain.style)
    )  # the untouched model writes at first
    for number in range(1, ROUNDS + 1):
        current = replace(current, number=number)

        edits = domain.propose(current, tasks)
        block = Block(tasks, edits)
        trials = domain.reward(current, block, domain.study(current, block))
        lesson = domain.editor_examples(current, trials, edits)

        print(f"round {number}")
        for trial in trials:
            rewards = [(edit.style, mean(edit.gold_logprob)) for edit in trial.candidates if edit.gold_logprob]
            shown = ", ".join(f"{style} {reward:.2f}" for style, reward in rewards)
            print(f"  {trial.title}: passage alone {mean(trial.controls['passage'].gold_logprob):.2f}; {shown}")
        if lesson.examples:
            job = Job(tuple(lesson.examples), seed=number)
            editor, (log,) = model.backend.train([job], CONFIG.finetune, start=current.adapters)
            current = replace(current, adapters=editor, previous=lesson.report)
            print(f"  editor: {len(lesson.examples)} sequences, loss {log.losses[0]:.2f} → {log.losses[-1]:.2f}")
    (edit,) = write_edits(model, [(tasks[0].passage, lesson.style, 0)], current.adapters)
    print(f"\nwhat the editor writes now:\n{edit.text}")


def mean(values) -> float:
    return sum(values) / len(values)


if __name__ == "__main__":
    main()
