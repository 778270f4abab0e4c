"""Train one reward from labelled rows or preference pairs, into a folder of its own."""

import argparse
import logging

from moa.experiment.schema import RewardSection
from moa.job.command import Cost, parser, run
from moa.job.process import keeping
from moa.rewards.scoring import train
from moa.store import files

log = logging.getLogger("moa")


def main(arguments: argparse.Namespace) -> None:
    """Write the reward's folder and its costs."""
    section = RewardSection.model_validate_json(arguments.section)
    cost = Cost(section.task, "rewards", job=section.reward)
    with keeping(arguments.checkpoints, section.reward, arguments.section, arguments.depends) as job:
        with files.folder(arguments.model) as temporary:
            trained = train(section.reward, section.spec, temporary, job)
        log.info(
            "reward %s: held out %s",
            section.reward,
            ", ".join(f"{key} {value:.4g}" for key, value in trained.heldout.items()),
        )
        cost.models, cost.tokens = 1, trained.tokens
        cost.resume(job.watch)
        cost.write(arguments.costs)


if __name__ == "__main__":
    run(main, parser(__doc__, "checkpoints", "model", "costs", depends=str))
