"""The reference: the SFT policy itself, untrained. Every other row is judged against it."""

from moa import method
from moa.experiment.preferences import Preference


class Method(method.Method):
    """Trains nothing and takes no preference."""

    steerable = False

    def policies(self, evaluation: list[Preference]) -> list[method.Policy]:
        return []
