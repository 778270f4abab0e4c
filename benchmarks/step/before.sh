#!/usr/bin/env bash
# The loop of version 0.3.0 on the work of benchmarks.step, for docs/speed.md's "before".
#
#     bash benchmarks/step/before.sh [SHAPE] [TURNS]
#
# It checks commit 302a0fe out beside, and gives its sampling the same forced lengths.
set -euo pipefail
cd "$(dirname "$0")/../.."
old=$(mktemp -d)
trap 'git worktree remove --force "$old"' EXIT
git worktree add --quiet --detach "$old" 302a0fe
PYTHONSAFEPATH=1 PYTHONPATH=$old:$PWD/benchmarks/step python - "${1:-embedded}" "${2:-9}" <<'PYTHON'
import statistics, sys, tempfile
from pathlib import Path

import torch
import world
from transformers import LogitsProcessor, LogitsProcessorList

from moa.experiment.keys import Ppo
from moa.experiment.preferences import lattice
from moa.lm.generation import Decoding
from moa.lm.models import ValueHeads, hidden_size
from moa.methods import catalogue
from moa.rl import estimation, experience, loop

assert not Path(loop.__file__).is_relative_to(Path.cwd()), loop.__file__

torch.set_num_threads(1)
given, phases = world.make(sys.argv[1]), world.Phases()


class Forced(LogitsProcessor):
    """Ends every response at its length, and no sooner."""

    def __init__(self, prompt):
        self.last, self.prompt = torch.tensor(given.lengths) - 1, prompt

    def __call__(self, ids, logits):
        now = (self.last == ids.shape[1] - self.prompt)[:, None]
        end = torch.zeros_like(logits, dtype=torch.bool)
        end[:, world.END] = True
        return torch.where(now == end, logits, torch.finfo(logits.dtype).min)


policy = given.policy()
inner = policy.get_base_model()
generate = inner.generate


def forced(*args, logits_processor=(), **kwargs):
    both = LogitsProcessorList([*logits_processor, Forced(kwargs["input_ids"].shape[1])])
    return generate(*args, **kwargs, logits_processor=both)


inner.generate = forced
heads = ValueHeads(hidden_size(policy), 2)
actor = experience.Actor(policy, heads, given.tokenizer(), Decoding(given.limit, 1.0, 1.0), 2048)
scale = estimation.Scale(torch.zeros(2), torch.ones(2))
task = loop.Task(given.prompts, lambda p, _: p, given.score(), scale, lattice(2, 2), None)
ppo = Ppo(steps=10**6, batch_size=len(given.texts), group_size=given.group, mini_batch_size=given.mini, epochs=1,
          early_stop=None, advantages="group", learning_rate=1e-5, checkpoint_every=10**6)
run = loop.Loop(actor, catalogue.load("linear", {}, ["a", "b"]), ppo, task, 0, Path(tempfile.mkdtemp()))
run.updater.run = phases.around("update", run.updater.run)
experience.read_all = phases.around("reading", experience.read_all)
experience.sample_in_parts = phases.around("rollout", experience.sample_in_parts)
steps, one = run.run(), phases.around("other", next)
one(steps)
turns = []
for _ in range(int(sys.argv[2])):
    phases.spent.clear()
    one(steps)
    turns.append({name: seconds for name, (seconds, _) in phases.spent.items()})
for name in turns[0]:
    print(f"{name:>8} {statistics.median(turn[name] for turn in turns):6.2f} s")
whole = [sum(turn.values()) for turn in turns]
print(f"    step {statistics.median(whole):6.2f} s ({min(whole):.2f} to {max(whole):.2f}), {len(turns)} turns")
PYTHON
