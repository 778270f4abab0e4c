"""A linear reward over hashed n-grams, trained here in seconds and stored as safetensors.

Features of a text: counts of word 1- and 2-grams and of character 3- to 5-grams within words, each hashed into
`features` columns (scikit-learn's HashingVectorizer, so that there is no vocabulary to store), damped to 1 +
log(count), weighted with the inverse document frequency log((1 + n) / (1 + df)) + 1 of the training rows, and scaled to
length 1 per kind of n-gram. Logistic regression for labels, ridge regression for targets, and for pairs the
Bradley-Terry model, which is logistic regression without intercept on the difference of the two texts' features. The
score is the logit w'x + b, or the regression value; a score does not depend on the batch. The regularisation is
scikit-learn's: C = 1 / regularisation for logistic regression, alpha = regularisation for ridge.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from scipy import sparse
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import normalize
from threadpoolctl import threadpool_limits

from moa.errors import MoaError, one_line
from moa.experiment.rewards import Linear
from moa.job.process import Job
from moa.rewards import card
from moa.rewards.heldout import metrics
from moa.rewards.labelled import Example, examples
from moa.rewards.scoring import Scorer, Scores, Trained, fill, trained_folder, whole

FILE = "model.safetensors"
Floats = NDArray[np.floating]


@dataclass
class LinearScorer(Scorer):
    """Weights of a linear reward.

    Attributes:
        template: text that is scored.
        idf: (2 F,) inverse document frequencies, word columns first.
        coefficients: (2 F,) weights.
        intercept: added to every score.
    """

    template: str
    idf: Floats
    coefficients: Floats
    intercept: float

    def score(self, prompts: list[str], responses: list[str]) -> Scores:
        """Return logits or regression values; texts are read whole."""
        texts = [fill(self.template, p, r) for p, r in zip(prompts, responses, strict=True)]
        return whole(weigh(counts(texts, len(self.idf) // 2), self.idf) @ self.coefficients + self.intercept)


def counts(texts: Sequence[str], features: int) -> sparse.csr_matrix:
    """Return (n, 2 F) counts of hashed n-grams: word columns, then character columns."""
    common = {"n_features": features, "norm": None, "alternate_sign": False, "dtype": np.float32}
    words = HashingVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b", **common)
    characters = HashingVectorizer(analyzer="char_wb", ngram_range=(3, 5), **common)
    return sparse.hstack([words.transform(texts), characters.transform(texts)], format="csr")


def inverse_document_frequencies(found: sparse.csr_matrix) -> Floats:
    """Return log((1 + n) / (1 + df)) + 1 per column of (n, 2 F) counts."""
    documents = np.bincount(found.indices, minlength=found.shape[1])
    return (np.log((1 + found.shape[0]) / (1 + documents)) + 1).astype(np.float32)


def weigh(found: sparse.csr_matrix, idf: Floats) -> sparse.csr_matrix:
    """Turn counts into features: (1 + log count) * idf, with each half of a row scaled to length 1.

    The halves are the word features and the character features.
    """
    weighed = sparse.csr_matrix(
        ((1 + np.log(found.data)) * idf[found.indices], found.indices, found.indptr), shape=found.shape
    )
    half = found.shape[1] // 2
    return sparse.hstack(
        [normalize(weighed[:, :half], copy=False), normalize(weighed[:, half:], copy=False)], format="csr"
    )


def train(name: str, spec: Linear, folder: Path, _job: Job) -> Trained:
    """Fit the reward on its data and write it, with its held-out metrics, into `folder`.

    It takes seconds and keeps no checkpoints.
    """
    training, heldout = examples(name, spec.data, spec.template, spec.heldout)
    # One thread: the order of BLAS' sums, and with it the last bits, would depend on the number of cores.
    with threadpool_limits(1):
        scorer = _fit(spec, training)
    weights = {
        "idf": scorer.idf,
        "coefficients": scorer.coefficients,
        "intercept": np.array([scorer.intercept], np.float32),
    }
    save_file({key: np.ascontiguousarray(value, np.float32) for key, value in weights.items()}, folder / FILE)
    found = metrics(lambda prompts, texts: scorer.score(prompts, texts).values, heldout, spec.data)
    trained = Trained(found, len(training))
    card.write(folder, name, spec, trained, "scikit-learn")
    return trained


def _fit(spec: Linear, training: list[Example]) -> LinearScorer:
    found = counts([fill(spec.template, e.prompt, e.text) for e in training], spec.features)
    pairs = spec.data.chosen is not None
    others = [fill(spec.template, e.prompt, e.rejected) for e in training] if pairs else []
    rejected = counts(others, spec.features) if pairs else None
    idf = inverse_document_frequencies(found if rejected is None else sparse.vstack([found, rejected], format="csr"))
    x, y = weigh(found, idf), np.array([e.value for e in training])
    if rejected is not None:
        # Every other difference is turned round, label with it: the same likelihood, and the two classes that the
        # solver asks for.
        signs = np.where(np.arange(len(y)) % 2, -1.0, 1.0)
        x, y = sparse.diags(signs) @ (x - weigh(rejected, idf)), (signs > 0).astype(float)
    if spec.data.target is not None:
        model = Ridge(alpha=spec.regularisation, solver="sparse_cg", tol=1e-6).fit(x, y)
    else:
        model = LogisticRegression(C=1 / spec.regularisation, fit_intercept=not pairs, max_iter=1000).fit(x, y)
    return LinearScorer(
        spec.template, idf, model.coef_.ravel().astype(np.float32), float(np.float32(np.ravel(model.intercept_)[0]))
    )


def load(name: str, spec: Linear, models: Sequence[Path], device: str | None) -> LinearScorer:
    """Load the trained reward `name` from the folder of `models` with that name."""
    folder = trained_folder(name, models)
    card.check(folder, name, spec)
    try:
        weights = load_file(folder / FILE)
        idf, coefficients, intercept = weights["idf"], weights["coefficients"], float(weights["intercept"][0])
    except (OSError, SafetensorError, KeyError) as error:
        raise MoaError(
            f"{folder / FILE}: not a linear reward ({one_line(error)}); delete the folder and run snakemake again: it"
            " will be trained anew"
        ) from error
    return LinearScorer(spec.template, idf, coefficients, intercept)
