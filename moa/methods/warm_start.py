"""The warm-started reference: the base itself with the preference in its prompt, untrained by any reward.

It shows what the conditional warm start alone gives (docs/papers.md 1.3; Rewards-in-Context's offline stage, arXiv
2402.10207), and so what a conditioned method's training adds. Without `conditioning.warm_start` the base has never seen
a preference.
"""

from moa import method
from moa.experiment.preferences import Preference


class Method(method.Method):
    """Trains nothing; the preference stands in the prompt."""

    conditioned = True

    def policies(self, evaluation: list[Preference]) -> list[method.Policy]:
        return []
