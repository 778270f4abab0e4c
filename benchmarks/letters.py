"""Eight rewards for benchmarks of many objectives: the share of one letter among a response's letters.

Synthetic, cheap, and in conflict by construction: shares sum to at most 1.
"""

from collections.abc import Callable, Sequence


def share_of(letter: str) -> Callable[[Sequence[str], Sequence[str]], list[float]]:
    """Return the reward function of one letter; a response without letters scores 0."""

    def score(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        scores = []
        for response in responses:
            letters = [c for c in response.lower() if c.isalpha()]
            scores.append(letters.count(letter) / len(letters) if letters else 0.0)
        return scores

    return score


e, t, a, o, i, n, s, r = (share_of(letter) for letter in "etaoinsr")
