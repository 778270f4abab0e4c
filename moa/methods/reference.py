"""The reference: the SFT policy itself, untrained. Every other row is judged against it."""

from moa.methods import base
from moa.preferences import Preference


class Method(base.Method):
    """Trains nothing and takes no preference."""

    steerable = False

    def policies(self, evaluation: list[Preference]) -> list[base.Policy]:
        return []
