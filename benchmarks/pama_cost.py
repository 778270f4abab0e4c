"""What weights cost: PAMA's closed form, Frank-Wolfe on a Gram matrix, and MGDA on per-objective gradients.

    snakemake --cores all base
    python -m benchmarks.pama_cost --run results/reviews --out pama_cost.parquet --machine "two shared x86 cores"

Times are CPU seconds of one thread (cores may be shared): the median of the repeats, beside the fastest and the
slowest. The policy is the default experiment's base with a LoRA adapter, a mini-batch its own responses to the run's
prompts, n objectives the shares of n letters, standardised in groups of four. Without --run: the same architecture with
random weights, tokens and advantages. Every repeat of a step measures every way of weighing once, so that slow minutes
hit all alike.
"""

import argparse
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from peft import PeftModel
from tokenizers import Tokenizer, models
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from moa.experiment.keys import Lora, Scratch
from moa.experiment.schema import Experiment, load
from moa.lm.generation import Decoding, Sampler
from moa.lm.models import add_adapter, context_length, forward, load_base, load_tokenizer
from moa.lm.reader import PolicyReader
from moa.lm.scratch import new_model
from moa.methods.pama import closed_form
from moa.rl.advantages import group_relative
from moa.rl.losses import Tokens, logprobs_and_entropy, policy_loss
from moa.rl.weights import Solution, min_norm

LLAMA_FLOATS = 32 * 2 * 2 * 64 * 4096  # layers, maps, factors, rank, width
Row = dict[str, Any]
LEAST_SECONDS = 2e-3  # a repeat calls its function until about this much has passed
LARGE = 1_000
LETTERS = "etaoinshrdlucmfw"  # the most frequent first: objectives of the steps
LIMIT = 5_000  # iterations of Frank-Wolfe, as in moa/rl/weights.py


def share_of(letter: str) -> Callable[[Sequence[str], Sequence[str]], list[float]]:
    """Return a reward: the share of one letter among a response's letters; a response without letters scores 0.

    It is synthetic, cheap, and in conflict by construction: shares sum to at most 1.
    """

    def score(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        letters = [[c for c in response.lower() if c.isalpha()] for response in responses]
        return [found.count(letter) / len(found) if found else 0.0 for found in letters]

    return score


def seconds(function: Callable[[], object]) -> float:
    """Return CPU seconds per call, over as many calls as fill LEAST_SECONDS."""
    calls, spent = 0, 0.0
    began = time.process_time()
    while spent < LEAST_SECONDS:
        function()
        calls += 1
        spent = time.process_time() - began
    return spent / calls


def summarise(times: Sequence[float]) -> Row:
    """Return median, fastest, slowest and number of repeats."""
    return {"median": statistics.median(times), "fastest": min(times), "slowest": max(times), "repeats": len(times)}


def slope(sizes: Sequence[float], times: Sequence[float]) -> float:
    """Return the least-squares slope of log time over log size: the exponent of growth."""
    return float(np.polyfit(np.log(sizes), np.log(times), 1)[0])


def closed_form_rows(sizes: Sequence[int], repeats: int) -> list[Row]:
    """Time Theorem 1 on n batch means of mixed sign."""
    torch.manual_seed(0)
    rows = []
    for n in sizes:
        a = torch.randn(n)
        rows.append(
            {
                "part": "solve",
                "way": "closed form",
                "n": n,
                "iterations": 1,
                **summarise([seconds(partial(closed_form, a)) for _ in range(repeats)]),
            }
        )
    return rows


def solve(matrix: NDArray[np.float64], found: list[Solution]) -> None:
    """Keep the solution: the largest matrices take up to a minute, and are solved once."""
    found.append(min_norm(matrix, limit=LIMIT))


def min_norm_rows(sizes: Sequence[int], repeats: int) -> list[Row]:
    """Time Frank-Wolfe on ready n x n Gram matrices of full rank, and on PAMA's own, which have rank one.

    Those of full rank belong to n vectors of length 2 n.
    """
    rng, rows = np.random.default_rng(0), []
    for n in sizes:
        vectors, a = rng.normal(size=(n, 2 * n)), rng.normal(size=n)
        for name, m in (("full rank", vectors @ vectors.T), ("rank one", np.outer(a, a))):
            found: list[Solution] = []
            few = 1 if n >= LARGE and name == "full rank" else repeats  # a solve takes up to a minute
            times = [seconds(partial(solve, m, found)) for _ in range(few)]
            way = f"away-step Frank-Wolfe, {name}"
            rows.append({"part": "solve", "way": way, "n": n, "iterations": found[0].iterations, **summarise(times)})
    return rows


class Work(NamedTuple):
    """A policy and one mini-batch of rollouts; tokens are (B, P + T), the rest (B, T)."""

    model: PeftModel
    ids: Tensor
    mask: Tensor
    response_mask: Tensor
    old: Tensor


def work(scratch: Scratch, lora: Lora, batch: int, prompt: int, response: int) -> Work:
    """Return a random policy of the given architecture, and rollouts that it gave itself (so the ratio u is 1)."""
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2, **{f"t{i}": i for i in range(3, scratch.vocabulary)}}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(vocabulary)), pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )
    policy = moved(add_adapter(new_model(scratch, tokenizer, 0).eval(), lora, 0))
    ids = torch.randint(3, scratch.vocabulary, (batch, prompt + response))
    mask, response_mask = torch.ones_like(ids), torch.ones(batch, response)
    with torch.no_grad():
        old = logprobs(Work(policy, ids, mask, response_mask, response_mask))
    return Work(policy, ids, mask, response_mask, old)


def moved(policy: PeftModel) -> PeftModel:
    """Give B random weights: it is zero at the start of a run, where the gradient of A is zero too."""
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    return policy


def rollouts(run: Path, experiment: Experiment) -> tuple[Work, Callable[[int], Tensor]]:
    """Return a mini-batch of a finished base's own responses, groups of four to a prompt, and a function of n.

    It returns the advantages (n, B, T) of n letters' shares.
    """
    torch.manual_seed(0)
    tokenizer = load_tokenizer(run / "base")
    model = load_base(run / "base", experiment.model)
    policy = moved(add_adapter(model, experiment.model.lora, 0))
    size, group = experiment.ppo.mini_batch_size, experiment.ppo.group_size
    found = [r["prompt"] for r in pq.read_table(run / "prompts.parquet").to_pylist() if r["split"] == "train"]
    prompts = [prompt for prompt in found[: size // group] for _ in range(group)]
    sampler = Sampler(tokenizer, Decoding(experiment.generation.max_new_tokens, 1.0, 1.0), context_length(model))
    drawn = sampler.draw(PolicyReader(policy), prompts, [str(i) for i in range(size)])
    with torch.no_grad():
        old = logprobs(Work(policy, drawn.ids, drawn.mask, drawn.response_mask, drawn.response_mask))
    shares = torch.tensor([share_of(letter)(prompts, drawn.texts) for letter in LETTERS])
    relative = group_relative(shares.T, torch.arange(size) // group).T[:, :, None] * drawn.response_mask
    return Work(policy, drawn.ids, drawn.mask, drawn.response_mask, old), lambda n: relative[:n]


def logprobs(w: Work) -> Tensor:
    t = w.response_mask.shape[1]
    return logprobs_and_entropy(forward(w.model, w.ids, w.mask, t)[0], w.ids[:, -t:], 1.0)[0]


def trainable(w: Work) -> list[Tensor]:
    return [p for p in w.model.parameters() if p.requires_grad]


def flat_gradient(w: Work, new: Tensor, advantages: Tensor, keep: bool) -> Tensor:
    """Return the gradient (d,) of PPO's loss under (B, T) advantages; `keep` the graph for another objective."""
    loss, _ = policy_loss(new, w.old, advantages, Tokens(w.response_mask, w.response_mask.sum()), 0.2)
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, trainable(w), retain_graph=keep)])


def by_gradients(w: Work, advantages: Tensor) -> tuple[Tensor, Tensor]:
    """MGDA: n backward passes, the n x n Gram matrix of the gradients, min-norm weights.

    Returns gradient (d,), weights (n,).
    """
    new = logprobs(w)
    rows = torch.stack([flat_gradient(w, new, a, keep=k + 1 < len(advantages)) for k, a in enumerate(advantages)])
    c = torch.from_numpy(min_norm((rows.double() @ rows.double().T).numpy()).weights).float()
    return c @ rows, c


def by_advantages(w: Work, advantages: Tensor) -> tuple[Tensor, Tensor]:
    """MOC's bound: the Gram matrix of the advantages, min-norm weights, one backward pass."""
    rows = (advantages * w.response_mask).flatten(1).double()
    c = torch.from_numpy(min_norm((rows @ rows.T / w.response_mask.sum()).numpy()).weights).float()
    return flat_gradient(w, logprobs(w), torch.einsum("h,hbt->bt", c, advantages), keep=False), c


def by_closed_form(w: Work, advantages: Tensor) -> tuple[Tensor, Tensor]:
    """PAMA: the batch means' closed form, one backward pass."""
    c = closed_form((advantages * w.response_mask).sum((1, 2)) / w.response_mask.sum())
    return flat_gradient(w, logprobs(w), torch.einsum("h,hbt->bt", c, advantages), keep=False), c


WAYS = {
    "MGDA: n backward passes": by_gradients,
    "MOC: advantage Gram, one backward pass": by_advantages,
    "PAMA: closed form, one backward pass": by_closed_form,
}


def step_rows(w: Work, counts: Sequence[int], repeats: int, advantages_of: Callable[[int], Tensor]) -> list[Row]:
    """Time one mini-batch's forward pass, weights and gradient for n objectives, each way.

    `floats` counts the numbers that a way stores as gradients.
    """
    d = sum(p.numel() for p in trainable(w))
    rows = []
    for n in counts:
        advantages = advantages_of(n)
        times: dict[str, list[float]] = {way: [] for way in WAYS}
        for way in WAYS:
            WAYS[way](w, advantages)  # warms up
        for _ in range(repeats):
            for way in WAYS:
                times[way].append(seconds(partial(WAYS[way], w, advantages)))
        rows += [
            {"part": "step", "way": way, "n": n, "floats": d * (n if way.startswith("MGDA") else 1), **summarise(taken)}
            for way, taken in times.items()
        ]
    return rows


def random_advantages(w: Work, n: int) -> Tensor:
    torch.manual_seed(n)
    return torch.randn(n, *w.response_mask.shape)


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [" | ".join(map(str, row)) for row in (head, ["---", *["---:"] * (len(head) - 1)], *rows)]
    return "\n".join(f"| {line} |" for line in lines)


def milliseconds(row: Row) -> str:
    median, fastest, slowest = (
        f"{1e3 * row[key]:,.0f}" if row[key] >= 0.1 else f"{1e3 * row[key]:.3g}"
        for key in ("median", "fastest", "slowest")
    )
    return f"{median} ({fastest} to {slowest})"


def page(rows: list[Row], command: str, machine: str) -> str:
    """Return the measurement as a Markdown page."""
    solve = sorted((r for r in rows if r["part"] == "solve"), key=lambda r: str(r["way"]))
    step = [r for r in rows if r["part"] == "step"]
    growth = []
    for way in dict.fromkeys(r["way"] for r in solve):
        large = [r for r in solve if r["way"] == way][-3:]
        growth.append(
            (
                way,
                f"{large[0]['n']:,} to {large[-1]['n']:,}",
                f"{slope([r['n'] for r in large], [r['median'] for r in large]):.2f}",
            )
        )
    base = {r["n"]: r["median"] for r in step if r["way"].startswith("PAMA")}
    shares = [
        (
            r["way"],
            r["n"],
            milliseconds(r),
            f"{r['median'] / base[r['n']]:.2f}",
            f"{r['floats']:,}",
            f"{r['floats'] * 4 / 2**20:.1f}",
        )
        for r in step
    ]
    for way in WAYS:
        mine = [r for r in step if r["way"] == way]
        growth.append(
            (
                way + " (whole step)",
                f"{mine[0]['n']} to {mine[-1]['n']}",
                f"{slope([r['n'] for r in mine], [r['median'] for r in mine]):.2f}",
            )
        )
    parts = [
        "# Cost of the weights",
        (
            f"Command: `{command}`. Machine: {machine}.\nTimes are CPU milliseconds of one thread: median (fastest to"
            " slowest) of the repeats."
        ),
        "## Weights alone, given the n values or the n x n matrix",
        (
            f"Frank-Wolfe stops at {LIMIT:,} iterations.\n"
            "The rank-one matrix is PAMA's own problem, which one exact line search solves."
        ),
        table(
            ["way", "n", "ms", "iterations", "repeats"],
            [(r["way"], f"{r['n']:,}", milliseconds(r), r["iterations"], r["repeats"]) for r in solve],
        ),
        "## One mini-batch: forward pass, weights, gradient",
        (
            f"{step[0]['repeats']} repeats. Llama-2-7B with LoRA rank 64 on q and v has 32 x 2 x 2 x 64 x 4096 ="
            f" {LLAMA_FLOATS:,} trainable floats,\n{LLAMA_FLOATS * 4 / 2**20:.0f} MiB in single precision, per stored"
            " gradient."
        ),
        table(["way", "n", "ms", "times PAMA", "gradient floats stored", "MiB"], shares),
        "## Growth: exponent of n over the range",
        table(["way", "n from", "slope on log-log axes"], growth),
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="Parquet file of all rows")
    parser.add_argument("--run", type=Path, help="results/<task> of a run of config.yaml that has trained its base")
    parser.add_argument("--machine", default="not stated", help="one line for the page")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--largest", type=int, default=7, help="the closed form is timed up to 10 to this power")
    parser.add_argument("--matrices", type=int, nargs="+", default=[10, 100, 500, 1000, 2000])
    parser.add_argument("--objectives", type=int, nargs="+", default=[2, 4, 8, 16])
    args = parser.parse_args()
    torch.set_num_threads(1)
    experiment = load(Path("config.yaml"))
    assert experiment.model.scratch is not None
    if args.run is not None:
        w, advantages_of = rollouts(args.run, experiment)
    else:
        w = work(
            experiment.model.scratch,
            experiment.model.lora,
            experiment.ppo.mini_batch_size,
            16,
            experiment.generation.max_new_tokens,
        )
        advantages_of = partial(random_advantages, w)
    rows = closed_form_rows([10**k for k in range(1, args.largest + 1)], args.repeats)
    rows += min_norm_rows(args.matrices, args.repeats)
    rows += step_rows(w, args.objectives, args.repeats, advantages_of)
    pq.write_table(pa.Table.from_pylist([{"iterations": None, "floats": None, **row} for row in rows]), args.out)
    command = shlex.join(["python", "-m", "benchmarks.pama_cost", *sys.argv[1:]])
    print(page(rows, command, args.machine), end="")


if __name__ == "__main__":
    main()
