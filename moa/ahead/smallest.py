"""The smallest experiment that goes through every stage and row of a given one, with its models, rewards and data.

What a step costs stays as it is (batch and group sizes, lengths, number formats, layers), so that a trial's seconds per
step and its peak memory are those of the run. What is reduced is how often something is done.
"""

import math
from pathlib import Path
from typing import Any

from moa.experiment import keys
from moa.experiment.rewards import Reward, Transformer
from moa.experiment.schema import Experiment

STEPS = 3  # optimiser steps of fine-tuning and of rewards, steps of the loop
PROMPTS = 4  # of training and of evaluation
TEXTS = 64  # and a batch at least: the warm start and Rewards-in-Context rank texts by their rewards
HELDOUT = 16
RESPONSES = 64  # of the reference policy, whose quantiles give the scale
FEW_PAIRS = 10  # the least that the schema allows


def smallest(experiment: Experiment) -> tuple[Experiment, list[str]]:
    """Return the reduced experiment, and the rows that it leaves out.

    These answer from a file of responses, which holds the prompts and preferences of the whole run alone.
    """
    left_out = [row for row in experiment.run.methods if _answers_from_file(experiment, row)]
    rows = [row for row in experiment.run.methods if row not in left_out] or ["reference"]
    corners = keys.Grid(divisions=1)  # a preference for each objective alone
    model, evaluation, methods = experiment.model, experiment.evaluation, experiment.methods
    ppo = loop(experiment.ppo)
    reduced = experiment.model_copy(
        update={
            "run": keys.Run(methods=rows, seeds=experiment.run.seeds[:1]),
            "data": data(experiment),
            "model": model if model.sft is None else model.model_copy(update={"sft": fine_tuning(model.sft)}),
            "rewards": {name: reward(spec) for name, spec in experiment.rewards.items()},
            "preferences": experiment.preferences.model_copy(update={"training": corners, "evaluation": corners}),
            "generation": experiment.generation.model_copy(update={"samples": 1}),
            "ppo": ppo,
            "evaluation": evaluation.model_copy(
                update={
                    "bootstrap": min(evaluation.bootstrap, 50),
                    "reference_responses": min(evaluation.reference_responses, RESPONSES),
                }
            ),
            "methods": {row: method(section, ppo) for row, section in methods.items() if row not in left_out},
        }
    )
    return reduced, left_out


def data(experiment: Experiment) -> keys.Data:
    """Return `data` with a few prompts and texts."""
    given, sft = experiment.data, experiment.model.sft
    texts = max(TEXTS, sft.batch_size if sft else 0)
    counts = {"texts": texts, "heldout_texts": HELDOUT, "train_prompts": PROMPTS, "evaluation_prompts": PROMPTS}
    return given.model_copy(update={key: min(count, getattr(given, key)) for key, count in counts.items()})


def fine_tuning(sft: keys.Sft) -> keys.Sft:
    """Return `model.sft` with a few steps."""
    return sft.model_copy(update={"steps": STEPS if sft.steps is None else min(STEPS, sft.steps)})


def loop(ppo: keys.Ppo) -> keys.Ppo:
    """Return `ppo` with a few steps, after one of which a checkpoint is kept."""
    return ppo.model_copy(update={"steps": min(STEPS, ppo.steps), "checkpoint_every": min(2, ppo.checkpoint_every)})


def reward(spec: Reward) -> Reward:
    """Return a reward that takes a few steps to train.

    A linear one is trained as declared: it takes seconds, and a sample may hold one class only.
    """
    if not isinstance(spec, Transformer):
        return spec
    rows = max(FEW_PAIRS, math.ceil(STEPS * spec.batch_size / (1 - spec.heldout)))
    rows = rows if spec.data.rows is None else min(rows, spec.data.rows)
    return spec.model_copy(
        update={"data": spec.data.model_copy(update={"rows": rows}), "epochs": min(1.0, spec.epochs)}
    )


def method(section: dict[str, Any], ppo: keys.Ppo) -> dict[str, Any]:
    """Return a row's section with what a trial's few steps (`ppo`) can hold; other keys say what a step is."""
    most = {"rounds": ppo.steps, "responses": ppo.steps * ppo.batch_size}
    return {
        key: min(value, most[key]) if key in most and isinstance(value, int) else value
        for key, value in section.items()
    }


def _answers_from_file(experiment: Experiment, row: str) -> bool:
    section = experiment.methods.get(row, {})
    return (section.get("kind") or row) == "external" and section.get("responses") is not None


def absolute(value: Any, folder: Path) -> Any:
    """Return the mapping with paths that lead out of `folder` ('../data') written in full."""
    if isinstance(value, dict):
        return {key: absolute(item, folder) for key, item in value.items()}
    if isinstance(value, list):
        return [absolute(item, folder) for item in value]
    leads_out = isinstance(value, str) and value.split("/")[0] == ".." and (folder / value).exists()
    return str((folder / value).resolve()) if leads_out else value
