"""Stage train: one policy by its method's trainer, resumable; writes adapter, value heads, card and curve."""

import argparse
import json
from importlib import import_module
from types import ModuleType

from moa.experiment.preferences import check
from moa.experiment.schema import TrainSection
from moa.job import command
from moa.methods import catalogue
from moa.trainers.request import Request, Trained, keep, write


def read_request(args: argparse.Namespace) -> Request:
    """Return what the command line asks for.

    Raises:
        MoaError: the method's settings are wrong, or do not go with the run's (`Method.check`).
    """
    section = TrainSection.model_validate_json(args.section)
    method = catalogue.load(args.row, section.settings, list(section.objectives))
    method.check(section.ppo, section.dirichlet)
    given, where = json.loads(args.weights), f"--weights of {args.row}/{args.policy}"
    return Request(
        section=section,
        method=method,
        weights=None if given is None else check(given, len(section.objectives), where),
        policy=args.policy,
        seed=args.seed,
        prompts=args.prompts,
        base=args.base,
        normaliser=args.normaliser,
        models=args.models,
        texts=args.texts,
        checkpoints=args.checkpoints,
        out=args.out,
        curve=args.curve,
        costs=args.costs,
        depends=args.depends,
    )


def trainer(request: Request) -> ModuleType:
    """Return the module that the method names; the workflow hashes its code with the stage's (`Plan.code`)."""
    return import_module(f"moa.trainers.{request.method.trainer}")


def main(args: argparse.Namespace) -> None:
    """Write the policy folder, and tables CURVES and COSTS."""
    request = read_request(args)
    cost = command.Cost(request.section.task, "train", method=args.row, seed=request.seed, job=request.policy)
    with keep(request) as job:
        trained: Trained = trainer(request).train(request, job)
        write(request, trained)
        cost.tokens, cost.models = trained.tokens, 1
        cost.resume(job.watch)
        cost.write(request.costs)


if __name__ == "__main__":
    paths = ("prompts", "base", "normaliser", "models*", "texts*", "checkpoints", "out", "curve", "costs")
    command.run(main, command.parser(__doc__, *paths, row=str, policy=str, seed=int, weights=str, depends=str))
