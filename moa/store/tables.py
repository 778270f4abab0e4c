"""The data contract: every table's columns in one place.

A column's metadata carry its unit and meaning; docs/tables.md and the warehouse's comments come from them. Stages write
and read with `tables.write` and `tables.read` (moa/store/parquet.py).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from moa.store.parquet import BOOL, FLOAT, INT, SCORE, STRING, VECTOR, Column, Table
from moa.store.parquet import VERSION as VERSION
from moa.store.parquet import from_rows as from_rows
from moa.store.parquet import read as read
from moa.store.parquet import validate as validate
from moa.store.parquet import write as write

Row = dict[str, Any]  # one row of a table, by column

TASK = {"task": Column(STRING, "name of the experiment's task")}
METHOD = {
    **TASK,
    "method": Column(STRING, "row of the benchmark: a method of the config"),
    "seed": Column(INT, "seed of training and generation"),
}
PREFERENCE = {
    "point": Column(INT, "index of the preference within the evaluation grid; 0 for a preference-free policy"),
    "preference": Column(
        VECTOR, "weights over the objectives in the config's order, sum 1", null="the policy takes no preference"
    ),
}
PROMPT = {"prompt_id": Column(STRING, "hash of the prompt's content")}
RESPONSE = {"sample": Column(INT, "number of the response to this prompt and preference, from 0")}
OBJECTIVE = {"objective": Column(STRING, "name of the objective in the config")}
SCORED = {
    "role": Column(STRING, "'reward' (used in training) or 'judge' (independent, evaluation only)"),
    "score": Column(SCORE, "raw, unrounded score, higher is better, in the reward's own unit"),
    "truncated": Column(
        BOOL, "the response was longer than the reward could read, even without its prompt, and was cut"
    ),
}
INTERVAL = {
    "low": Column(FLOAT, "lower end of the 95 % bootstrap interval over prompts", null="not defined"),
    "high": Column(FLOAT, "upper end of the 95 % bootstrap interval over prompts", null="not defined"),
}


def _table(name: str, meaning: str, key: Sequence[str], *columns: Mapping[str, Column]) -> Table:
    merged: dict[str, Column] = {}
    for part in columns:
        merged.update(part)
    return Table(name, meaning, tuple(key), merged)


PROMPTS = _table(
    "prompts",
    "prompts with disjoint splits",
    ["prompt_id"],
    TASK,
    PROMPT,
    {
        "split": Column(STRING, "'train' or 'evaluation'"),
        "prompt": Column(STRING, "text that the policy continues or answers"),
    },
)
TEXTS = _table(
    "texts",
    "texts for supervised fine-tuning, split into prompt and response",
    ["text_id"],
    TASK,
    {
        "text_id": Column(STRING, "hash of prompt and response"),
        "split": Column(STRING, "'train' or 'heldout' (never trained on; bounds of fluency come from it)"),
        "prompt": Column(STRING, "opening or question"),
        "response": Column(STRING, "continuation or answer"),
    },
)
TEXT_SCORES = _table(
    "text_scores",
    "rewards of the fine-tuning texts",
    ["text_id", "objective", "role"],
    TASK,
    {"text_id": TEXTS.columns["text_id"]},
    OBJECTIVE,
    SCORED,
)
NORMALISER = _table(
    "normaliser",
    "scale of every objective, fitted once on responses of the reference policy to training prompts",
    ["objective"],
    TASK,
    OBJECTIVE,
    {
        "low": Column(FLOAT, "1 % quantile of the scores, or the formula's lower bound: 0 on the normalised scale"),
        "high": Column(FLOAT, "99 % quantile of the scores, or the formula's upper bound: 1 on the normalised scale"),
        "mean": Column(FLOAT, "mean score"),
        "std": Column(FLOAT, "standard deviation of the scores"),
        "floor": Column(FLOAT, "score of an empty response: the formula's lower bound, or the smallest score seen"),
        "reference_point": Column(FLOAT, "this objective's coordinate of the hypervolume reference point, raw scale"),
        "n": Column(INT, "number of responses"),
        "hash": Column(STRING, "identifies the responses, scores and settings that the scale was fitted on"),
    },
)
FLUENCY = _table(
    "fluency",
    "central 98 % of held-out text under the reference policy, by length",
    ["task", "tokens"],
    TASK,
    {
        "tokens": Column(
            INT,
            "the texts are cut to so many tokens; shorter ones count as a whole, the largest number has all texts"
            " whole",
        ),
        "low": Column(FLOAT, "1 % quantile of the mean negative log-likelihood, nats per token"),
        "high": Column(FLOAT, "99 % quantile, nats per token"),
        "median": Column(FLOAT, "median, nats per token"),
        "n": Column(INT, "number of held-out texts"),
    },
)
CURVES = _table(
    "curves",
    "training curves in long form",
    ["task", "method", "policy", "seed", "step", "quantity", "objective"],
    METHOD,
    {
        "policy": Column(STRING, "name of the policy within the method"),
        "step": Column(INT, "optimisation step, from 0"),
        "quantity": Column(
            STRING,
            "reward | normalised_reward | weight | value_loss | kl | kl_coefficient | control_error | clip_fraction |"
            " entropy | grad_norm | ...",
        ),
        "objective": Column(STRING, "objective or 'control'; 'all' where the quantity is not per objective"),
        "value": Column(FLOAT, "value in the quantity's unit (docs/curves.md)"),
    },
)
GENERATIONS = _table(
    "generations",
    "responses on the evaluation prompts over the preference grid",
    ["task", "method", "seed", "point", "prompt_id", "sample"],
    METHOD,
    PREFERENCE,
    PROMPT,
    RESPONSE,
    {
        "policy": Column(STRING, "policy that answered, or the mixture of policies"),
        "response": Column(STRING, "decoded response without special tokens; hostile input wherever it is shown"),
        "tokens": Column(INT, "length of the response in tokens, end token excluded"),
        "finished": Column(BOOL, "ended with the end token before the limit of new tokens"),
        "nll": Column(
            FLOAT, "negative log-likelihood under the reference policy, nats per token", null="empty response"
        ),
    },
)
SCORES = _table(
    "scores",
    "scores of the responses",
    ["task", "method", "seed", "point", "prompt_id", "sample", "objective", "role"],
    METHOD,
    {"point": PREFERENCE["point"]},
    PROMPT,
    RESPONSE,
    OBJECTIVE,
    SCORED,
)
REFERENCE_RESPONSES = _table(
    "reference_responses", "responses of the reference policy to training prompts", GENERATIONS.key, GENERATIONS.columns
)
REFERENCE_SCORES = _table(
    "reference_scores", "their scores; the normaliser is fitted on them", SCORES.key, SCORES.columns
)
POINTS = _table(
    "points",
    "mean reward per preference and objective",
    ["task", "method", "seed", "point", "objective", "role"],
    METHOD,
    PREFERENCE,
    OBJECTIVE,
    {
        "role": SCORED["role"],
        "mean": Column(FLOAT, "mean raw score over prompts and samples"),
        **INTERVAL,
        "normalised": Column(
            FLOAT,
            "mean on the normalised scale (0 and 1 as in the normaliser; not clipped)",
            null="judges have no scale",
        ),
        "n": Column(INT, "number of responses"),
    },
)
QUALITY = _table(
    "quality",
    "text quality of each point: does the number come from readable text?",
    ["task", "method", "seed", "point"],
    METHOD,
    PREFERENCE,
    {
        "policy": GENERATIONS.columns["policy"],
        "non_dominated": Column(
            BOOL,
            "on the front of this method and seed: neither another point nor the reference point is as good everywhere"
            " and better somewhere",
        ),
        "below_reference": Column(
            BOOL, "not above the reference point on every objective: adds nothing to the hypervolume"
        ),
        "degenerate": Column(BOOL, "unreadable by rule: see reason"),
        "reason": Column(STRING, "why the point is degenerate", null="it is not"),
        "distinct_1": Column(FLOAT, "distinct words over words, all responses of the point"),
        "distinct_2": Column(FLOAT, "distinct word pairs over word pairs"),
        "distinct_responses": Column(FLOAT, "distinct responses over responses"),
        "tokens": Column(FLOAT, "mean length in tokens"),
        "characters": Column(FLOAT, "mean length in characters"),
        "empty_rate": Column(FLOAT, "share of blank responses"),
        "unfinished_rate": Column(FLOAT, "share of responses cut at the limit of new tokens"),
        "repetition_rate": Column(
            FLOAT, "share of responses that hold some word 4-gram at least three times, or a word three times in a row"
        ),
        "nll": Column(
            FLOAT, "mean over responses of the reference policy's NLL, nats per token", null="all responses are empty"
        ),
        "nll_low": Column(
            FLOAT,
            "mean over the same responses of the 1 % quantile of held-out text cut to the response's length",
            null="all responses are empty",
        ),
        "nll_high": Column(
            FLOAT,
            "the same of the 99 % quantile; the point is degenerate where nll is outside",
            null="all responses are empty",
        ),
        "n": Column(INT, "number of responses"),
    },
)
METRICS = _table(
    "metrics",
    "metrics of a method: hypervolume, tau, ...",
    ["task", "method", "seed", "metric", "objective"],
    METHOD,
    {
        "metric": Column(
            STRING,
            "hypervolume | hypervolume_readable (degenerate points left out) | tau | tau_bound (the largest tau that"
            " the preferences' ties allow) | order_rate | control_error | numbers of points: non_dominated,"
            " below_reference, degenerate; where there are any, shares of responses that a reward could not read whole:"
            " truncated, truncated_judge",
        ),
        "objective": Column(STRING, "objective, or 'all'"),
        "value": Column(
            FLOAT,
            "value; hypervolume is on the normalised scale against the declared reference point",
            null="not defined, e.g. tau of a policy that cannot be steered",
        ),
        "low": Column(
            FLOAT,
            "lower end of the 95 % bootstrap interval over prompts: of a hypervolume with its bias taken off, else"
            " percentiles",
            null="not defined",
        ),
        "high": Column(FLOAT, "upper end of that interval", null="not defined"),
        "points": Column(INT, "number of points (preferences) behind the value"),
        "n": Column(INT, "number of prompts behind the value"),
    },
)
PAYOFF = _table(
    "payoff",
    "payoff table: what each single-objective policy gets on every objective",
    ["task", "seed", "policy", "objective"],
    TASK,
    {
        "seed": METHOD["seed"],
        "policy": Column(STRING, "objective that the policy was trained on, or 'reference'"),
        **OBJECTIVE,
        "mean": POINTS.columns["mean"],
        "normalised": Column(FLOAT, "mean on the normalised scale"),
        "loss": Column(FLOAT, "normalised score of this objective's own policy less this policy's"),
        "n": POINTS.columns["n"],
    },
)
COSTS = _table(
    "costs",
    "what each job cost",
    ["task", "stage", "method", "seed", "job"],
    TASK,
    {
        "stage": Column(STRING, "prompts | rewards | text_scores | base | reference_scores | train | generate | score"),
        "method": Column(STRING, "row of the benchmark, or 'all' for shared stages"),
        "seed": METHOD["seed"],
        "job": Column(STRING, "policy or reward that the job made; 'all' where there is one job"),
        "seconds": Column(FLOAT, "wall-clock seconds of the job's own work, resumed parts included"),
        "cpu_seconds": Column(FLOAT, "processor seconds, user and system"),
        "tokens": Column(INT, "tokens generated or read by a language model"),
        "models": Column(INT, "models trained by the job: 0 or 1"),
        "batch": Column(
            INT,
            "responses sampled at a time: generation.batch_size, halved as often as memory ran out",
            null="the job samples none, or its curve records it",
        ),
        "peak_memory": Column(FLOAT, "peak memory in MiB: of the GPU where there is one, else resident"),
        "device": Column(STRING, "'cpu' or the GPU's name"),
    },
)
RUNS = _table(
    "runs",
    "provenance of each task's run",
    ["task"],
    TASK,
    {
        "config": Column(STRING, "the complete experiment as JSON, defaults filled in"),
        "objectives": Column(pa.list_(pa.field("element", STRING, nullable=False)), "objectives in order"),
        "code": Column(STRING, "hash of the package's logic"),
        "git": Column(STRING, "commit, '+dirty' where the tree differs"),
        "versions": Column(STRING, "package versions as JSON"),
        "hardware": Column(STRING, "processor, cores, memory, GPU"),
        "files": Column(
            STRING,
            "sha256 of every table and model of the run as JSON: path relative to the folder of run.parquet -> hash",
        ),
        "policies": Column(STRING, "policies that each row answers with as JSON: row -> list of {owner, policy}"),
    },
)
POLICIES = _table(
    "policies",
    "policies that each row answers with, trained by itself or borrowed from another row",
    ["task", "method", "owner", "policy"],
    TASK,
    {
        "method": METHOD["method"],
        "owner": Column(STRING, "row whose job trained the policy"),
        "policy": Column(STRING, "name of the policy within its owner; one is trained for every seed"),
    },
)
LEADERBOARD = _table(
    "leaderboard",
    "one row per method: means over seeds, and what one seed costs",
    ["task", "method"],
    TASK,
    {
        "method": METHOD["method"],
        "hypervolume": Column(
            FLOAT, "mean over seeds of the hypervolume, normalised scale, against the declared reference point"
        ),
        "low": Column(
            FLOAT,
            "lower end of the hypervolume's 95 % bootstrap interval over prompts, its bias taken off, mean over seeds",
        ),
        "high": Column(FLOAT, "upper end of that interval, mean over seeds"),
        "seed_sd": Column(FLOAT, "standard deviation of the hypervolume between seeds", null="one seed"),
        "hypervolume_readable": Column(FLOAT, "mean over seeds of the hypervolume without degenerate points"),
        "tau": Column(FLOAT, "mean over seeds and objectives of Kendall's tau-b", null="not steerable"),
        "tau_bound": Column(
            FLOAT,
            "the largest tau that these preferences allow; below 1 where weights have ties, as with three objectives",
            null="not steerable",
        ),
        "control_error": Column(
            FLOAT,
            "mean over seeds of the squared distance between normalised reward and preference",
            null="not steerable",
        ),
        "kl": Column(
            FLOAT,
            "KL to the reference, nats per token: mean over last ten steps, policies used and seeds (GRPO, GDPO: an"
            " estimate)",
            null="not measured in training",
        ),
        "points": Column(INT, "points (preferences) behind the hypervolume of one seed"),
        "non_dominated": Column(FLOAT, "points on the front, mean over seeds"),
        "degenerate": Column(FLOAT, "unreadable points, mean over seeds"),
        "below_reference": Column(
            FLOAT,
            "points that add nothing to the hypervolume because they are not above the reference point, mean over"
            " seeds",
        ),
        "prompts": Column(INT, "evaluation prompts"),
        "seeds": Column(INT, "seeds"),
        "seconds": Column(
            FLOAT, "wall-clock seconds of training every policy that the row uses, borrowed ones included, per seed"
        ),
        "tokens": Column(FLOAT, "tokens that this training generated or read, per seed"),
        "models": Column(FLOAT, "models that this training made, per seed"),
        "generation_seconds": Column(
            FLOAT, "wall-clock seconds of answering the evaluation prompts over the whole grid, per seed"
        ),
    },
)
ALL = (
    *(
        PROMPTS,
        TEXTS,
        TEXT_SCORES,
        NORMALISER,
        FLUENCY,
        REFERENCE_RESPONSES,
        REFERENCE_SCORES,
        CURVES,
        GENERATIONS,
        SCORES,
    ),
    *(POINTS, QUALITY, METRICS, PAYOFF, COSTS, RUNS, POLICIES, LEADERBOARD),
)
