"""Best of n: the reference policy answers n times, and the rewards choose for each preference.

A sanity ceiling without training.

y*(x, p) = argmax over j = 1..n of  sum_k p_k r~_k(x, y_j),    y_j ~ pi_ref(. | x),   r~ on the normaliser's scale
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from moa import method
from moa.experiment.preferences import Preference

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Settings(method.Settings):
    n: int = Field(16, ge=1, le=10_000)
    """Responses of the reference policy to each prompt, of which the rewards choose one."""


class Method(method.Method):
    """Trains nothing; the rewards choose among the reference policy's responses."""

    schema = Settings
    settings: Settings
    generator = "best_of_n"
    reads_rewards = True

    def policies(self, evaluation: list[Preference]) -> list[method.Policy]:
        return []


def choose(rewards: NDArray[np.float64], preference: Preference) -> list[int]:
    """Return which candidate is best by sum_k p_k r_k for each of W requests; the first one on a tie.

    Args:
        rewards: (W, n, K) on the normaliser's scale.
        preference: K weights.
    """
    # Not a matrix product: its blocked kernels may round equal candidates differently, and a tie would go astray.
    return [int(best) for best in (rewards * list(preference)).sum(2).argmax(1)]
