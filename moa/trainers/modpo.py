"""MODPO's trainer: one policy from preference pairs, the reference policy's that rewards label or a data set's own."""

import torch

from moa.experiment.preferences import Preference
from moa.job.command import Steps
from moa.job.process import Job
from moa.method import Scores
from moa.methods import modpo
from moa.rl.actor import Actor
from moa.rl.experience import Task, checked
from moa.rl.loop import CurveRow
from moa.store import inputs
from moa.tasks.preference_pairs import read_pairs
from moa.trainers.pair_loop import PairLoop, Samples
from moa.trainers.pair_samples import draw, given
from moa.trainers.pairs import Pairs, given_pairs, make_pairs
from moa.trainers.request import Request, Trained
from moa.trainers.setup import actor_of, task_of


def train(request: Request, job: Job) -> Trained:
    """Train a policy from the job's samples and newest checkpoint, if there are some, to the end.

    Raises:
        Diverged: a number is not finite.
        MoaError: an input is unfit, or not even one pair at a time fits into memory.
    """
    method, weights, ppo = request.method, request.weights, request.section.ppo
    assert isinstance(method, modpo.Method), "only MODPO names this trainer"
    assert weights is not None, "every policy of MODPO has weights"
    actor = actor_of(request)
    samples = samples_of(request, actor, task_of(request, actor), job)
    settings = method.settings
    loop = PairLoop(
        actor=actor,
        ppo=ppo,
        samples=samples,
        pairs=label(samples, method, weights),
        beta=settings.beta,
        epochs=settings.epochs or ppo.epochs,
        rate=settings.learning_rate or ppo.learning_rate,
        rate_key="ppo.learning_rate" if settings.learning_rate is None else f"methods.{method.row}.learning_rate",
        seed=request.seed,
        checkpoints=job.folder,
        curve=first_rows(samples, method.objectives),
        watch=job.watch,
    )
    steps = Steps(request.name, loop.steps)
    for step in loop.run():
        steps.tell(step, lambda: describe(loop))
    return Trained(actor.model, None, loop.curve, int(samples.response_mask.sum()))


def samples_of(request: Request, actor: Actor, task: Task, job: Job) -> Samples:
    """Return the samples, made now, which the job's watch counts, or by an earlier attempt."""
    path = job.folder / "samples.safetensors"
    kept = Samples.load(path, job.watch)
    if kept is not None:
        return kept
    method, ppo = request.method, request.section.ppo
    assert isinstance(method, modpo.Method)
    settings = method.settings
    with job.watch.running():
        if settings.pairs is None:
            samples = draw(actor, task, ppo, settings.responses, request.seed)
        else:
            evaluation = [r["prompt"] for r in inputs.prompts(request.prompts, "evaluation")]
            pairs = read_pairs(f"methods.{method.row}.pairs", settings.pairs, evaluation)
            samples = given(actor, task, ppo, pairs, request.seed)
    checked(Scores(samples.raw, samples.quantile), task.scale, method.objectives, "samples")
    samples.save(path, job.watch)
    return samples


def label(samples: Samples, method: modpo.Method, weights: Preference) -> Pairs:
    """Make the policy's pairs."""
    settings = method.settings
    rewards = settings.scale * samples.quantile
    shares, labelled = torch.tensor(weights, device=rewards.device), method.labelled(weights)
    if settings.pairs is not None:
        return given_pairs(rewards, shares, labelled)
    return make_pairs(rewards, settings.responses, shares, labelled)


def first_rows(samples: Samples, objectives: list[str]) -> list[CurveRow]:
    """Return what the responses were worth, for the curve's first step."""
    rows: list[CurveRow] = []
    for quantity, scores in (("reward", samples.raw), ("normalised_reward", samples.quantile)):
        rows += [(0, quantity, o, v) for o, v in zip(objectives, scores.mean(0).tolist(), strict=True)]
    lengths = samples.response_mask.sum(1)
    return [
        *rows,
        (0, "response_tokens", "all", float(lengths.mean())),
        (0, "finished_rate", "all", float(samples.finished.mean())),
    ]


def describe(loop: PairLoop) -> str:
    """Return the newest step's figures in a line."""
    newest = loop.curve[-1][0]
    shown = {quantity: value for step, quantity, _, value in loop.curve if step == newest}
    return (
        f"loss {shown['pair_loss']:.3f}  pairs in order {100 * shown['pair_accuracy']:.0f} %  KL from the reference"
        f" {shown['forward_kl']:.3f}  {shown['memory']:.0f} MiB"
    )
