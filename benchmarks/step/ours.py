"""(a) This project's loop; lengths are forced where tokens are picked."""

import tempfile
from pathlib import Path
from typing import Literal
from unittest.mock import patch

import numpy as np
import torch

from benchmarks.step.world import END, Phases, World
from moa.experiment.keys import Ppo
from moa.experiment.preferences import lattice
from moa.lm import draws, generation
from moa.lm.generation import Decoding
from moa.lm.models import ValueHeads, device, hidden_size
from moa.methods import catalogue
from moa.rl import estimation, experience, loop
from moa.rl.actor import Actor
from moa.rl.experience import Task

FORCED = 10.0  # added to the random number of a response's last token


class Ours:
    """The loop with one of its methods, by default the cheapest."""

    def __init__(
        self,
        world: World,
        objectives: int = 2,
        advantages: Literal["group", "gae"] = "group",
        method: str = "linear",
    ) -> None:
        self.world, self.phases = world, Phases()
        names = [f"o{k}" for k in range(objectives)]
        asked = catalogue.load(method, {}, names)
        policy = world.policy()
        heads = ValueHeads(hidden_size(policy), len(asked.streams)).to(device())
        actor = Actor(policy, heads, world.tokenizer(), Decoding(world.limit, 1.0, 1.0), 2048)
        scale = estimation.Scale(*(torch.full((objectives,), x, device=device()) for x in (0.0, 1.0)))
        reward = world.score()
        score = self.phases.around("scoring", lambda p, r: np.resize(reward(p, r).T, (objectives, len(r))).T)
        task = Task(world.prompts, lambda p, _: p, score, scale, lattice(objectives, 2), None)
        ppo = Ppo(
            steps=10**6,
            batch_size=len(world.texts),
            group_size=world.group,
            mini_batch_size=world.mini,
            epochs=1,
            early_stop=None,
            advantages=advantages,
            learning_rate=1e-5,
            checkpoint_every=10**6,
        )
        run = loop.Loop(actor, asked, ppo, task, 0, Path(tempfile.mkdtemp()))
        run.updater.run = self.phases.around("update", run.updater.run)  # type: ignore[method-assign]
        self.steps = run.run()

    def step(self) -> None:
        """Do one step."""
        around = self.phases.around
        with (
            patch.object(generation, "uniforms", self._numbers),
            patch.object(generation, "pick", self._pick),
            patch.object(experience, "read_all", around("reading", experience.read_all)),
            patch.object(experience, "mismatch", around("reading", experience.mismatch)),
            patch.object(experience, "sample_in_parts", around("rollout", experience.sample_in_parts)),
        ):
            around("other", next)(self.steps)

    def _numbers(self, keys: list[str], length: int) -> torch.Tensor:
        numbers = draws.uniforms(keys, length)
        numbers[torch.arange(len(keys)), torch.tensor(self.world.lengths) - 1] += FORCED
        return numbers

    @staticmethod
    def _pick(logits: torch.Tensor, numbers: torch.Tensor, temperature: float, top_p: float) -> torch.Tensor:
        last = numbers >= FORCED
        open_ended = logits.clone()
        open_ended[:, END] = -torch.inf
        drawn = draws.pick(open_ended, numbers % FORCED, temperature, top_p)
        return torch.where(last, END, drawn)
