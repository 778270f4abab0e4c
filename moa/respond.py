"""Finds what answers: a trained policy, or a whole row that picks or mixes its policies by the preference.

A policy's folder is results/<task>/policies/<row>/<policy>/s<seed>; a row is results/<task>/policies/<row>, also where
it borrows its policies, as Rewarded Soups and MOD do. The base is results/<task>/base. Nothing heavy is loaded before
the request is known to be right.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from moa.errors import MoaError, nearest, one_line
from moa.experiment import schema
from moa.experiment.keys import Conditioning, Generation, Model
from moa.experiment.preferences import Preference, check
from moa.experiment.schema import Experiment
from moa.plan import Plan
from moa.store import tables
from moa.store.files import read_object

if TYPE_CHECKING:
    from moa.lm.answering import Answerer


@dataclass(frozen=True)
class Source:
    """What answers, and all that answering needs to know of the experiment.

    Attributes:
        task: folder results/<task>; None of a policy that moa.api trained.
        row: row of the benchmark, or the method of a policy that moa.api trained.
        seed: of the policies' training.
        base: folder, or hub id.
        revision: commit of a hub id.
    """

    task: Path | None
    row: str
    seed: int
    base: str | Path
    folders: list[Path]
    way: Literal["policy", "nearest", "soup", "mixture"]
    conditioned: bool
    steerable: bool
    objectives: list[str]
    conditioning: Conditioning
    generation: Generation
    model: Model
    revision: str | None = None

    @property
    def even(self) -> dict[str, float]:
        """The preference that weighs every objective alike."""
        return {name: 1 / len(self.objectives) for name in self.objectives}


def respond(
    policy: Path, prompt: str, preference: Mapping[str, float] | None = None, experiment: Path | None = None
) -> str:
    """Return one response, decoded as in the evaluation; the same call gives the same response.

    Args:
        policy: folder of a policy or of a row.
        prompt: what the policy continues or answers.
        preference: objective -> weight; an objective that is not named weighs 0. None for a policy that takes none.
        experiment: file whose settings replace those that were recorded with the policy.

    Raises:
        MoaError: no such policy, unknown objective, weights off the simplex, or a preference too many or missing.
    """
    source = find(policy, experiment)
    return answers(source, prompt, [weigh(source, preference, policy)])[0]


def answers(source: Source, prompt: str, weights: Sequence[Preference | None]) -> list[str]:
    """Return a response at each preference, all drawn with the same random numbers; the model is loaded once."""
    from moa.lm import answering
    from moa.lm.generation import Decoding

    answerer = load(source)
    sampling = answering.Sampling(Decoding.evaluation(source.generation), 1, "respond")
    found = []
    for preference in weights:
        answerer.switch(preference)
        found.append(answering.respond(answerer, answerer.texts([prompt], preference), sampling)[0].text.strip())
    return found


def load(source: Source) -> "Answerer":
    """Load what answers.

    Raises:
        MoaError: base or adapter cannot be loaded, or do not belong together.
    """
    from moa.lm import answering

    base = answering.Base(source.base, source.model, source.revision)
    prompting = answering.Prompting(source.objectives, source.conditioning, source.conditioned)
    return answering.load(base, source.folders, source.way, prompting)


def find(policy: Path, experiment: Path | None) -> Source:
    """Return what answers: the one policy of a folder, or the policies of a row."""
    policy = policy.resolve()
    given = schema.load(experiment) if experiment is not None else None
    if (policy / "policy.json").exists():
        return _of_policy(policy, given)
    seeds = _seeds(policy)
    return _of_policy(policy / f"s{seeds[0]}", given) if seeds else _of_row(policy, given)


def _seeds(folder: Path) -> list[int]:
    return sorted(int(p.name[1:]) for p in folder.glob("s*") if p.name[1:].isdigit() and (p / "policy.json").exists())


def _above(folder: Path, levels: int) -> Path:
    """Return the folder so many levels above; the root has itself above it."""
    return folder.joinpath(*[".."] * levels).resolve()


def _of_policy(folder: Path, given: Experiment | None) -> Source:
    card = _card(folder / "policy.json")
    base = card.get("base")  # of a policy that moa.api trained; others lie beside theirs
    if given is None and not base and (_above(folder, 4) / "run.parquet").exists():
        # Training knows nothing of the evaluation's decoding.
        card["generation"] = _recorded(_above(folder, 4), folder).generation
    if given is not None:
        card |= {
            "objectives": list(given.objectives),
            "conditioning": given.conditioning,
            "generation": given.generation,
            "model": given.model,
        }
    try:
        return Source(
            task=None if base else _above(folder, 4),
            row=str(card["method"] if "method" in card else _above(folder, 2).name),
            seed=int(card.get("seed", 0)),
            base=base["source"] if base else _base(_above(folder, 4)),
            folders=[folder],
            way="policy",
            conditioned=bool(card["conditioned"]),
            steerable=bool(card["conditioned"]),
            objectives=list(card["objectives"]),
            conditioning=Conditioning.model_validate(card["conditioning"]),
            generation=Generation.model_validate(card["generation"]),
            model=Model.model_validate(card["model"]),
            revision=base["revision"] if base else None,
        )
    except (KeyError, ValueError, TypeError) as error:
        raise MoaError(
            f"{folder / 'policy.json'}: incomplete or outdated ({type(error).__name__}: {one_line(error)}); train the"
            " policy again, or give --experiment"
        ) from error


def _of_row(folder: Path, given: Experiment | None) -> Source:
    """Return a row's policies of its first finished seed, as the experiment that made them says."""
    task, row = _above(folder, 2), folder.name
    experiment = given if given is not None else _recorded(task, folder)
    plan = Plan(experiment, str(task))
    if row not in plan.rows:
        raise MoaError(f"{folder}: neither a policy's folder nor a row of this experiment.{nearest(row, plan.rows)}")
    method = plan.rows[row]
    if method.answers == "external":
        raise MoaError(f"{folder}: row '{row}' is external; give the folder of a policy that was trained here")
    if method.reads_rewards:
        raise MoaError(
            f"{folder}: row '{row}' chooses among responses by their rewards, which this command does not load; give"
            " the folder of a policy"
        )
    needed = [folder.parent / p.row / p.name for p in plan.policies_of(row)]
    finished = [set(_seeds(path)) for path in needed]
    common = sorted(set.intersection(*finished)) if finished else []
    if needed and not common:
        missing = next((path for path, seeds in zip(needed, finished, strict=True) if not seeds), needed[0])
        raise MoaError(
            f"{missing}: row '{row}' answers with this policy, which is not trained yet; run snakemake --cores all"
            " train"
        )
    return Source(
        task=task,
        row=row,
        seed=common[0] if common else experiment.run.seeds[0],
        base=_base(task),
        folders=[path / f"s{common[0]}" for path in needed],
        way=method.answers,
        conditioned=method.conditioned,
        steerable=method.steerable,
        objectives=list(experiment.objectives),
        conditioning=experiment.conditioning,
        generation=experiment.generation,
        model=experiment.model,
    )


def _recorded(task: Path, folder: Path) -> Experiment:
    path = task / "run.parquet"
    if not path.exists():
        raise MoaError(
            f"{folder}: no policy.json here; give a policy's folder, results/<task>/policies/<row>/<policy>/s<seed>, or"
            " let the run finish, or give --experiment"
        )
    return schema.parse(json.loads(tables.read(tables.RUNS, path)["config"][0].as_py()), str(path))


def _card(path: Path) -> dict[str, Any]:
    return read_object(path, "a policy's card", "train the policy again")


def _base(task: Path) -> Path:
    if not (task / "base" / "config.json").exists():
        raise MoaError(
            f"{task / 'base'}: the base model is not there; a policy stays beside its base, results/<task>/base; run"
            " snakemake --cores all base"
        )
    return task / "base"


def weigh(
    source: Source, preference: Mapping[str, float] | None, policy: Path, where: str = "--preference"
) -> Preference | None:
    """Return the preference in the objectives' order, checked; None where none is given and none is taken.

    An objective that is not named weighs 0. Messages name the policy, and where the weights stand.

    Raises:
        MoaError: unknown objective, weights off the simplex, or a preference too many or missing.
    """
    if not source.steerable:
        if preference is not None:
            raise MoaError(
                f"{policy}: this policy takes no preference; leave --preference out, or give the folder of its row"
            )
        return None
    if preference is None:
        listed = ",".join(f"{name}={weight:.2g}" for name, weight in source.even.items())
        raise MoaError(f"{policy}: give a preference, e.g. --preference {listed}")
    return weights_of(dict.fromkeys(source.objectives, 0.0) | dict(preference), source.objectives, where)


def weights_of(preference: Mapping[str, float], objectives: Sequence[str], where: str) -> Preference:
    """Return a preference in the objectives' order, checked; `where` names it in messages."""
    for name in preference:
        if name not in objectives:
            raise MoaError(f"{where}: no objective '{name}'.{nearest(name, objectives)}")
    missing = [name for name in objectives if name not in preference]
    if missing:
        raise MoaError(f"{where}: no weight for {', '.join(missing)}; give one for every objective, 0 included")
    return check([preference[name] for name in objectives], len(objectives), where)
