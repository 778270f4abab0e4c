"""Inputs of the stage evaluate, small enough to do by hand."""

import numpy as np

from moa.experiment import keys, schema
from moa.stages import evaluate
from moa.store import tables

TASK = "hand"
OBJECTIVES = ("a", "b")
CORNERS = [(1.0, 0.0), (0.0, 1.0)]
GRID = [(0.0, 1.0), (0.5, 0.5), (1.0, 0.0)]


class Hand:
    """Writes the inputs of the stage; objective a has the raw scale [0, 10], b has [0, 1].

    Both reference points are raw 0.
    """

    def __init__(self, root, prompts=2, reference_point=(0.0, 0.0)):
        self.root, self.prompts = root, [f"p{i}" for i in range(prompts)]
        rows = [{"task": TASK, "prompt_id": p, "split": "evaluation", "prompt": p} for p in self.prompts]
        rows.append({"task": TASK, "prompt_id": "q", "split": "train", "prompt": "q"})
        tables.write(tables.PROMPTS, rows, root / "prompts.parquet")
        scale = [
            {
                "task": TASK,
                "objective": name,
                "low": 0.0,
                "high": high,
                "mean": 0.5,
                "std": 0.1,
                "floor": 0.0,
                "reference_point": point,
                "n": 9,
                "hash": "h",
            }
            for name, high, point in zip(OBJECTIVES, (10.0, 1.0), reference_point, strict=True)
        ]
        tables.write(tables.NORMALISER, scale, root / "normaliser.parquet")
        bounds = [(0.0, 9.0), (0.5, 6.0), (1.0, 3.0)]  # held-out text cut to 1, 2 and 3 tokens
        fluent = [
            {"task": TASK, "tokens": i, "low": low, "high": high, "median": 2.0, "n": 9}
            for i, (low, high) in enumerate(bounds, 1)
        ]
        tables.write(tables.FLUENCY, fluent, root / "fluency.parquet")
        self.generations, self.scores, self.rows = [], [], []

    def row(self, method, points, responses=None, nll=2.0, seed=0, change=None):
        """Add a row. `points`: preference -> scores (P, samples, 2), or (2,) for the same everywhere.

        `change`: edits the dictionaries.
        """
        generations, scores = [], []
        for m, (preference, values) in enumerate(points):
            values = np.asarray(values, float)
            values = np.broadcast_to(values, (len(self.prompts), 1, 2)) if values.ndim == 1 else values
            for i, prompt in enumerate(self.prompts):
                for s in range(values.shape[1]):
                    key = {"task": TASK, "method": method, "seed": seed, "point": m, "prompt_id": prompt, "sample": s}
                    text = "one two three" if responses is None else responses[i]
                    given = {
                        "preference": preference,
                        "policy": "policy",
                        "response": text,
                        "tokens": 3,
                        "finished": True,
                        "nll": nll if text.strip() else None,
                    }
                    generations.append({**key, **given})
                    scores += [
                        {**key, "objective": name, "role": "reward", "score": float(v), "truncated": False}
                        for name, v in zip(OBJECTIVES, values[i, s], strict=True)
                    ]
        if change:
            generations, scores = change(generations, scores)
        for table, data, paths in (
            (tables.GENERATIONS, generations, self.generations),
            (tables.SCORES, scores, self.scores),
        ):
            path = self.root / table.name / method / f"s{seed}.parquet"
            tables.write(table, data, path)
            paths.append(path)
        self.rows += [method] if method not in self.rows else []
        return self

    def section(self, **changes):
        objectives = {name: keys.Objective(reward=name) for name in OBJECTIVES}
        given = {
            "task": TASK,
            "objectives": objectives,
            "evaluation": keys.Evaluation(bootstrap=20),
            "methods": self.rows,
            "seeds": [0],
        }
        return schema.EvaluateSection(**{**given, **changes})

    def run(self, **changes):
        root = self.root
        shared = [root / f"{name}.parquet" for name in ("normaliser", "fluency", "prompts")]
        return evaluate.evaluate(self.section(**changes), evaluate.Inputs(*shared, self.generations, self.scores))
