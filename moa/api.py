"""The Python API: train one policy that reads the preference in its prompt, ask it, and measure its front.

    import moa.api as moa

    objectives = {"positive": moa.Reward(positive, low=-1, high=1), "short": short}
    policy = moa.train("moc", "results/reviews/base", prompts, objectives, {"ppo": {"steps": 20}})
    print(policy.respond("The lamp", {"positive": 0.8, "short": 0.2}))
    print(policy.evaluate(held_out, divisions=4))

It takes the pipeline's own steps, without Snakemake: the same loop, the same scale from the reference policy's own
responses, the same metrics. Notation: P prompts; M preferences; K objectives.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from moa.errors import MoaError, nearest, one_line
from moa.experiment.keys import Conditioning, Evaluation, Generation, Ppo, Preferences
from moa.experiment.keys import Model as Model
from moa.experiment.mistakes import explain
from moa.experiment.preferences import lattice
from moa.experiment.rewards import Strict
from moa.lm import answering, cards, grid, models
from moa.lm.adapters import PeftModel
from moa.lm.answering import Answerer, Base, Prompting, Sampling
from moa.lm.cards import Card
from moa.lm.generation import Decoding
from moa.method import Method
from moa.method import Policy as Planned
from moa.methods import catalogue
from moa.metrics import normaliser
from moa.metrics.front import Front, measure
from moa.metrics.normaliser import Normaliser
from moa.respond import weights_of
from moa.rewards import scoring
from moa.rewards.objectives import Objectives
from moa.rewards.python import PythonScorer
from moa.rl.experience import Task
from moa.rl.loop import CurveRow, Loop
from moa.store import files
from moa.store.files import read_object
from moa.store.provenance import file_hash, text_hash
from moa.store.tables import Row
from moa.trainers import ppo, setup

Function = Callable[[list[str], list[str]], Sequence[float]]


@dataclass(frozen=True)
class Reward:
    """An objective: a function of prompts and responses that returns one number per response, higher is better.

    Attributes:
        low: the least score that it can give; None where there is no such bound.
        high: the largest.
    """

    function: Function
    low: float | None = None
    high: float | None = None


class Settings(Strict):
    """What `settings` may hold: sections of an experiment file, with its defaults (docs/experiment.md)."""

    seed: int = 0
    method: dict[str, Any] = {}  # the method's own keys
    ppo: Ppo = Ppo()
    generation: Generation = Generation()
    conditioning: Conditioning = Conditioning()
    preferences: Preferences = Preferences()
    evaluation: Evaluation = Evaluation()


@dataclass
class Policy:
    """A trained policy on its base, with the scale and the rewards that it was trained on.

    Attributes:
        method: its name.
        base: what it was trained on.
        normaliser: the scale of every objective.
        curve: rows (step, quantity, objective, value) of its training (docs/curves.md); empty for a loaded policy.
    """

    method: str
    base: Base
    answerer: Answerer
    normaliser: Normaliser
    rewards: Mapping[str, Reward]
    settings: Settings
    curve: list[CurveRow] = field(default_factory=list)

    def respond(self, prompt: str, preference: Mapping[str, float]) -> str:
        """Return one response, decoded as in the evaluation; the same call gives the same response.

        Args:
            prompt: what the policy continues or answers.
            preference: objective -> weight; a missing objective is an error, 0 is a weight.

        Raises:
            MoaError: unknown or missing objective, weights off the simplex, or a prompt that does not fit.
        """
        weights = weights_of(preference, self.normaliser.objectives, "preference")
        texts = self.answerer.texts([prompt], weights)
        sampling = Sampling(Decoding.evaluation(self.settings.generation), 1, "respond")
        return answering.respond(self.answerer, texts, sampling)[0].text.strip()

    def evaluate(self, prompts: Sequence[str], divisions: int | None = None) -> Front:
        """Answer P prompts over the simplex lattice with `divisions` steps per edge, score and measure the answers.

        Without `divisions` the preferences are those of the settings' `preferences.evaluation`. There are
        `generation.samples` responses to each prompt and preference.

        Raises:
            MoaError: no prompts, one that does not fit, or a reward that fails.
        """
        rows, generation = _rows(prompts), self.settings.generation
        count, where = len(self.normaliser.objectives), "settings: preferences.evaluation"
        chosen = self.settings.preferences.evaluation
        preferences = chosen.preferences(count, where) if divisions is None else lattice(count, divisions)
        asked = grid.questions(rows, generation.samples)
        seed = f"generate {self.settings.seed}"
        sampling = Sampling(Decoding.evaluation(generation), generation.batch_size, seed)
        found = grid.walk(self.answerer, asked, preferences, sampling)
        said = [row["response"] for row in found]
        score = Objectives(_scorers(self.rewards), self.normaliser.floors)
        raw = score([prompt["prompt"] for prompt, _ in asked] * len(preferences), said).astype(np.float64)
        # Points, samples, prompts, objectives: samples are averaged, prompts come first.
        rewards = raw.reshape(len(preferences), generation.samples, len(rows), -1).mean(1).swapaxes(0, 1)
        parts = [said[i : i + len(asked)] for i in range(0, len(said), len(asked))]
        return measure(self.normaliser, preferences, rewards, parts, self.settings.evaluation.bootstrap)

    def save(self, folder: str | Path) -> Path:
        """Write adapter and card into a folder, whole or not at all; `load` and `moa respond` read it.

        The base stays where it is; functions are not stored.
        """
        source = Path(self.base.source)
        local = source.is_dir()
        card = {
            "task": "api",
            "method": self.method,
            "policy": "policy",
            "seed": self.settings.seed,
            "weights": None,
            "objectives": self.normaliser.objectives,
            "conditioned": True,
            "base": {"source": str(source.resolve() if local else source), "revision": self.base.revision},
            "base_hash": file_hash(source) if local else None,
            "conditioning": self.settings.conditioning.model_dump(),
            "generation": self.settings.generation.model_dump(),
            "model": self.base.model.model_dump(),
            "settings": self.settings.model_dump(),
            "normaliser": self.normaliser.rows(),
        }
        model = self.answerer.model
        assert isinstance(model, PeftModel), "a policy has an adapter"
        with files.folder(Path(folder)) as temporary:
            models.save_policy(temporary, model, None, [], card)
        return Path(folder)


def train(
    method: str,
    base: str | Path | Model,
    prompts: Sequence[str],
    objectives: Mapping[str, Function | Reward],
    settings: Mapping[str, Any] | None = None,
) -> Policy:
    """Train a policy by a method whose one policy reads the preference in its prompt: moc, linear, ...

    Args:
        method: its name, a file of moa/methods.
        base: folder or hub id of the language model; a `Model` names a revision, the adapter's size or a quantisation.
        prompts: what to train on.
        objectives: name -> reward; at least two. The names stand in the prompts beside their weights.
        settings: sections `ppo`, `generation`, `conditioning`, `preferences`, `evaluation` and `method` (the method's
            own keys) with an experiment file's keys and defaults, and `seed`.

    Raises:
        MoaError: an unknown method, key or folder, a method of another kind, a reward that fails or never varies, or a
            prompt that does not fit.
        Diverged: a number is not finite.
    """
    chosen, rewards, names = _settings(settings or {}), _rewards(objectives), list(objectives)
    rows, made = _rows(prompts), _method(method, chosen, names)
    spec = base if isinstance(base, Model) else Model(source=str(base))
    if spec.sft is not None or spec.scratch is not None:
        raise MoaError("base: `sft` and `scratch` are the pipeline's; name a model that is trained already")
    if chosen.conditioning.warm_start is not None:
        raise MoaError("settings: conditioning.warm_start is the pipeline's; name a base that has been through it")
    under = Base(spec.source, spec, spec.revision)
    actor = setup.make_actor(under, Decoding.training(chosen.generation), made, chosen.seed)
    prompting = Prompting(names, chosen.conditioning, conditioned=True)
    answerer = Answerer(actor.model, actor.tokenizer, actor.context, "policy", [Card("policy")], prompting)
    scale = _fit(answerer, rows, rewards, chosen)
    training = chosen.preferences.training.preferences(len(names), "settings: preferences.training")
    task = Task(
        prompts=[row["prompt"] for row in rows],
        text_of=setup.text_of(actor, prompting),
        score=Objectives(_scorers(rewards), scale.floors),
        scale=setup.scale_of(scale),
        training=training,
        dirichlet=chosen.preferences.dirichlet,
    )
    setup.check_lengths(actor, task, task.prompts, training)
    with tempfile.TemporaryDirectory() as checkpoints:
        loop = Loop(actor, made, made.loop(chosen.ppo), task, chosen.seed, Path(checkpoints))
        ppo.run(loop, method)
    return Policy(method, under, answerer, scale, rewards, chosen, loop.curve)


def load(folder: str | Path, objectives: Mapping[str, Function | Reward]) -> Policy:
    """Return a policy that `Policy.save` wrote, with the rewards to evaluate it by.

    Raises:
        MoaError: no such policy, other objectives than it was trained on, or another base than then.
    """
    path = Path(folder) / "policy.json"
    try:
        card = read_object(path, "a policy that moa.api saved", "save it again")
        settings, model = Settings.model_validate(card["settings"]), Model.model_validate(card["model"])
        base = Base(card["base"]["source"], model, card["base"]["revision"])
        scale = normaliser.from_rows(card["normaliser"], card["objectives"], str(path))
    except (ValueError, KeyError, TypeError) as error:
        raise MoaError(
            f"{path}: no policy that moa.api saved ({type(error).__name__}: {one_line(error)}); save it again"
        ) from error
    rewards = _rewards(objectives)
    if set(rewards) != set(scale.objectives):
        raise MoaError(f"{path}: trained on {', '.join(scale.objectives)}; give the reward of each, and no other")
    prompting = Prompting(scale.objectives, settings.conditioning, conditioned=True)
    card_of = cards.read_card(Path(folder))
    cards.check_base(Path(base.source), [Path(folder)], [card_of])
    tokenizer, loaded = (
        models.load_tokenizer(base.source, base.revision),
        models.load_base(base.source, model, revision=base.revision),
    )
    # Under PEFT's own name, under which `save` writes it again.
    adapted = models.load_adapters(loaded, {"default": Path(folder)})
    answerer = Answerer(adapted, tokenizer, models.context_length(loaded), "policy", [card_of], prompting)
    return Policy(card["method"], base, answerer, scale, {name: rewards[name] for name in scale.objectives}, settings)


def _settings(given: Mapping[str, Any]) -> Settings:
    try:
        return Settings.model_validate(dict(given))
    except ValidationError as error:
        raise MoaError("\n".join(f"settings: {explain(Settings, e)}" for e in error.errors())) from None


def _rewards(objectives: Mapping[str, Function | Reward]) -> dict[str, Reward]:
    if len(objectives) < 2:
        raise MoaError(f"objectives: {len(objectives)} given; multi-objective alignment needs at least two")
    return {name: given if isinstance(given, Reward) else Reward(given) for name, given in objectives.items()}


def _scorers(rewards: Mapping[str, Reward]) -> dict[str, tuple[str, scoring.Scorer]]:
    return {name: (name, PythonScorer(name, r.function, r.low, r.high)) for name, r in rewards.items()}


def _rows(prompts: Sequence[str]) -> list[Row]:
    """Return prompts as rows with the ids that the pipeline gives them."""
    if isinstance(prompts, str) or not prompts:
        raise MoaError("prompts: give a list with at least one text")
    return [{"prompt": prompt, "prompt_id": text_hash(prompt)} for prompt in prompts]


def _method(name: str, settings: Settings, objectives: list[str]) -> Method:
    """Return the method; one that trains no single policy that reads the preference is refused."""
    made = catalogue.load(name, settings.method, objectives)
    only = made.policies(lattice(len(objectives), 1)) == [Planned(name, "policy")]
    if not (only and made.conditioned and made.trainer == "ppo"):
        raise MoaError(
            f"method '{name}': moa.api trains one policy that reads the preference in its prompt by the shared loop,"
            " as moc and linear do; run other methods by the workflow"
        )
    made.check(made.loop(settings.ppo), settings.preferences.dirichlet)
    return made


def _fit(answerer: Answerer, rows: Sequence[Row], rewards: Mapping[str, Reward], settings: Settings) -> Normaliser:
    """Fit the scale on the reference policy's own responses: the untrained policy with its adapter off."""
    given = settings.evaluation.reference_point or {}
    for name in given:
        if name not in rewards:
            raise MoaError(f"settings: evaluation.reference_point: no objective '{name}'.{nearest(name, rewards)}")
    asked = grid.reference_questions(rows, settings.evaluation.reference_responses)
    prompts = [prompt["prompt"] for prompt, _ in asked]
    sampling = Sampling(Decoding.training(settings.generation), settings.generation.batch_size, "reference")
    assert isinstance(answerer.model, PeftModel), "the policy has an adapter"
    with answerer.model.disable_adapter():
        said = [r.text for r in answering.respond(answerer, answerer.texts(prompts, None), sampling)]
    columns = {}
    for name, (_, scorer) in _scorers(rewards).items():
        values = scoring.score(name, scorer, prompts, said, floor=None).values
        bounds = (rewards[name].low, rewards[name].high)
        columns[name] = normaliser.fit(f"reward of objective '{name}'", values, bounds, given.get(name))
    return normaliser.from_rows(columns, list(rewards), "the reference policy's responses")
