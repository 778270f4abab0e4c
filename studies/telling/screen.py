"""How is a preference told to a chat model that was never trained on one? Formats and places, on training prompts.

    python studies/telling/screen.py experiments/smollm2.yaml --prompts 24 --out studies/telling/archive/screen.parquet

For every format and place the untrained model answers the same prompts at three preferences with the same random
numbers. The table says how much more of an objective there is where it was asked for than where the other one was.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from moa.experiment import schema
from moa.experiment.schema import Experiment
from moa.job.process import keeping
from moa.lm import answering, conditioning
from moa.lm.answering import Answerer, Base, Prompting, Sampling
from moa.lm.generation import Decoding
from moa.rewards import scoring
from moa.stages.prompts import prepare

LEVELS = ((0.9, "very high"), (0.6, "high"), (0.4, "medium"), (0.1, "low"), (-1.0, "none"))
PLACES = {"system": "{preference}", "before": "{preference}\n{prompt}", "after": "{prompt}\n({preference})"}
PREFERENCES = ((1.0, 0.0), (0.5, 0.5), (0.0, 1.0))


def words(preference: tuple[float, ...], names: list[str]) -> str:
    level = [next(word for least, word in LEVELS if weight > least or weight == 1) for weight in preference]
    return ", ".join(f"{name}: {said}" for name, said in zip(names, level, strict=True))


def sentence(preference: tuple[float, ...], names: list[str]) -> str:
    parts = [f"{round(100 * w)} % {n}" for w, n in zip(preference, names, strict=True) if w]
    return f"Your answer should be {' and '.join(parts)}."


def told(form: str, preference: tuple[float, ...], names: list[str]) -> str:
    own = {"words": words, "sentence": sentence}
    return own[form](preference, names) if form in own else conditioning.preference_text(preference, names, form)


FORMATS = ("digits", "bars", "tags", "words", "sentence")


def texts(experiment: Experiment, answerer: Answerer, prompts: list[str]) -> Iterator[tuple[str, str, int, list[str]]]:
    names = list(experiment.objectives)
    for form in FORMATS:
        for place, template in PLACES.items():
            given = experiment.conditioning.model_dump() | {"role": "system" if place == "system" else "user"}
            given["template"] = given["template"] if place == "system" else template
            section = type(experiment.conditioning).model_validate(given)
            for index, preference in enumerate(PREFERENCES):
                shown = told(form, preference, names)
                yield form, place, index, [conditioning.place(p, shown, section, answerer.tokenizer) for p in prompts]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("experiment", type=Path)
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    experiment = schema.load(arguments.experiment)
    prompts = prepare(experiment.data).train[: arguments.prompts]
    base = Base(experiment.model.source, experiment.model, experiment.model.revision)
    prompting = Prompting(list(experiment.objectives), experiment.conditioning, conditioned=True)
    answerer = answering.load(base, [], "policy", prompting)
    sampling = Sampling(Decoding.evaluation(experiment.generation), experiment.generation.batch_size, "screen")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        scorers = {}
        for name, objective in experiment.objectives.items():
            spec, made = experiment.rewards[objective.reward], Path(folder) / objective.reward
            made.mkdir()
            with keeping(Path(folder) / "jobs", name) as job:
                scoring.train(objective.reward, spec, made, job)
            scorers[name] = scoring.load(objective.reward, spec, [made])
        for form, place, index, built in texts(experiment, answerer, prompts):
            said = answering.respond(answerer, built, sampling)
            responses = [response.text for response in said]
            scores = {n: scoring.score(n, s, prompts, responses, floor=None).values for n, s in scorers.items()}
            for i, prompt in enumerate(prompts):
                rows.append(
                    {"format": form, "place": place, "preference": index, "prompt": prompt, "response": responses[i]}
                    | {name: float(values[i]) for name, values in scores.items()}
                )
            print(form, place, PREFERENCES[index], {n: round(float(np.mean(v)), 3) for n, v in scores.items()})
            sys.stdout.flush()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), arguments.out)


if __name__ == "__main__":
    main()
