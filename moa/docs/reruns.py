"""What reruns when a key changes, found by changing it: the plan's sections of every job before and after.

A job's only parameter that a key can change is its section (its code and files follow from what the section names), so
two experiments that differ in one key differ in the jobs whose sections do. What follows reruns because its input does.
"""

from functools import cache

from moa.plan import Plan

# Jobs in the order in which they run: the rules that make them, and what each waits for (workflow/rules/).
RULES = {
    "prompts": ("prepare_prompts",),
    "rewards": ("train_reward",),
    "texts": ("score_texts",),
    "base": ("train_base",),
    "reference": ("score_reference",),
    "train": ("train_policy",),
    "generate": ("generate_responses",),
    "score": ("score_responses",),
    "evaluate": ("evaluate_task",),
    "report": ("describe_run", "build_warehouse", "build_report"),
}
AFTER = {
    "prompts": (),
    "rewards": (),
    "texts": ("prompts", "rewards"),
    "base": ("prompts", "texts"),
    "reference": ("prompts", "rewards", "base"),
    "train": ("prompts", "rewards", "texts", "base", "reference"),
    "generate": ("prompts", "rewards", "base", "reference", "train"),
    "score": ("prompts", "rewards", "reference", "generate"),
    "evaluate": ("prompts", "reference", "generate", "score"),
    "report": ("prompts", "rewards", "texts", "base", "reference", "train", "generate", "score", "evaluate"),
}
Job = tuple[str, str, str]  # kind of job, row, what else tells it from others


@cache
def jobs(plan: Plan) -> dict[Job, object]:
    """Return what every job of a run receives."""
    experiment = plan.experiment
    warm = experiment.conditioning.warm_start is not None and experiment.model.sft is not None
    found: dict[Job, object] = {
        ("prompts", "", ""): plan.prompts(),
        ("base", "", ""): plan.base(),
        ("reference", "", ""): plan.reference(),
        ("evaluate", "", ""): plan.evaluate(),
        ("report", "", ""): experiment,
    }
    found |= {("rewards", "", name): plan.reward(name) for name in plan.trained_rewards(judges=True)}
    if warm or any(row.reads_texts for row in plan.rows.values()):
        found["texts", "", ""] = plan.scoring(judges=False)
    for seed in map(str, experiment.run.seeds):
        for row, policy in plan.policies:
            found["train", row, f"{policy} {seed}"] = (plan.train(row), plan.weights(row, policy))
        for row in experiment.run.methods:
            found["generate", row, seed] = plan.generate(row)
            found["score", row, seed] = plan.scoring(judges=True)
    return found


def before(job: str) -> set[str]:
    """Return every kind of job that `job` waits for, directly or not."""
    return {name for parent in AFTER[job] for name in {parent, *before(parent)}}


def effect(old: Plan, new: Plan) -> str:
    """Return what reruns between two experiments of the same task, in words: where it starts, and for which rows."""
    left, right = jobs(old), jobs(new)
    moved = {job[0] for job in left.keys() ^ right.keys()}
    changed = {job for job in left.keys() & right.keys() if left[job] != right[job]}
    kinds = {kind for kind, _, _ in changed}
    starts = [kind for kind in RULES if kind in kinds and not before(kind) & kinds]
    words = [f"{kind} →{_rows(kind, changed, old)}" for kind in starts]
    first = next((kind for kind in RULES if kind in moved), None)
    if first is not None:
        words.insert(0, f"{first} jobs come or go")
    return "; ".join(words)


def _rows(kind: str, changed: set[Job], plan: Plan) -> str:
    """Return ' of ...' where not every row's jobs of a kind changed."""
    some = {row for found, row, _ in changed if found == kind}
    every = {row for found, row, _ in jobs(plan) if found == kind}
    if some == every:
        return ""
    if some == every & {row for row, found in plan.rows.items() if found.conditioned and found.answers == "policy"}:
        return " of rows that read preferences"
    if some == every & {row for row, found in plan.rows.items() if found.steerable}:
        return " of rows that follow preferences"
    return " of this row" if len(some) == 1 else f" of {', '.join(sorted(some))}"
