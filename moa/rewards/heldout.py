"""How well a trained reward does on rows that it never saw."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from moa.experiment.rewards import Labelled
from moa.rewards.labelled import Example

Score = Callable[[list[str], list[str]], NDArray[np.float32]]


def metrics(score: Score, heldout: list[Example], data: Labelled) -> dict[str, float]:
    """Return n, and how well held-out rows are told apart by `score`, a function of prompts and texts.

    The measures are AUC and accuracy of labels, Spearman's correlation with targets, or accuracy of pairs.
    """
    prompts, values = [e.prompt for e in heldout], np.array([e.value for e in heldout])
    scores, n = score(prompts, [e.text for e in heldout]), float(len(heldout))
    if data.target is not None:
        return {"n": n, "spearman": float(spearmanr(scores, values).statistic)}
    if data.chosen is not None:
        return {"n": n, "accuracy": float(np.mean(scores > score(prompts, [e.rejected for e in heldout])))}
    return {
        "n": n,
        "auc": float(roc_auc_score(values, scores)),
        "accuracy": float(np.mean((scores > 0) == (values > 0))),
    }
