"""Target rewards: what Rewards-in-Context's prompt shows instead of a preference.

With a preference w and a range [low_i, high_i] per objective the prompt asks for the rewards (arXiv 2402.10207;
docs/papers.md 3.3)

    t_i = f_i(w) (high_i - low_i) + low_i

    l2: f = w / ||w||_2     linf: f = w / max_j w_j     linear: f = w

so a weight of 0 asks for the smallest reward. Notation: K objectives; rewards are z-scores, higher is better.
"""

from collections.abc import Sequence
from math import hypot
from typing import Literal

from pydantic import model_validator

from moa.experiment.preferences import Preference
from moa.experiment.rewards import Strict
from moa.lm.conditioning import preference_text

Map = Literal["l2", "linf", "linear"]
Format = Literal["names", "tags", "bars"]


def direction(preference: Preference, form: Map) -> list[float]:
    """Return f(w) (K,), each between 0 and 1."""
    norms = {"l2": hypot(*preference), "linf": max(preference), "linear": 1.0}
    return [w / norms[form] for w in preference]


class Targets(Strict):
    """From preference to prompt; a policy's card holds it.

    Attributes:
        low: (K,) z-scores that a weight of 0 asks for.
        high: (K,) z-scores that the largest f asks for.
        map: f.
        format: how rewards are written; bars shows tenths of the way from low to high.
        step: targets are rounded to multiples of it before they are written; None writes them as they are.
        mean: (K,) of the rewards that 0 stands for, raw.
        std: (K,) of the rewards' unit, raw.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    map: Map = "l2"
    format: Format = "names"
    step: float | None = None

    @model_validator(mode="after")
    def _columns(self) -> "Targets":
        if len({len(column) for column in (self.low, self.high, self.mean, self.std)}) != 1:
            raise ValueError("low, high, mean and std need one number per objective")
        return self

    def rewards(self, preference: Preference) -> list[float]:
        """Return the target z-scores (K,) of a preference (K,)."""
        parts = zip(direction(preference, self.map), self.low, self.high, strict=True)
        wanted = [f * (high - low) + low for f, low, high in parts]
        return wanted if self.step is None else [round(round(t / self.step) * self.step, 9) for t in wanted]

    def rewards_text(self, rewards: Sequence[float], objectives: Sequence[str]) -> str:
        """Return z-scores (K,) as text.

        With one decimal: 'sentiment 1.2 conciseness -0.4' (names), '<rm1_score> 1.2 <rm2_score> -0.4' (tags). As bars,
        'sentiment + + + conciseness +': a mark per tenth of the range from `low` to `high`; rewards beyond its ends
        have none, or ten.
        """
        if self.format == "bars":
            ranges = zip(rewards, self.low, self.high, strict=True)
            return preference_text(
                [min(1.0, max(0.0, (reward - low) / (high - low))) for reward, low, high in ranges], objectives, "bars"
            )
        names = objectives if self.format == "names" else [f"<rm{i}_score>" for i in range(1, len(objectives) + 1)]
        # Adding 0 turns the -0.0 of a small negative number into 0.0: one way to write each number.
        return " ".join(f"{name} {round(reward, 1) + 0.0:.1f}" for name, reward in zip(names, rewards, strict=True))

    def text(self, preference: Preference, objectives: Sequence[str]) -> str:
        """Return what the prompt shows for a preference (K,)."""
        return self.rewards_text(self.rewards(preference), objectives)
