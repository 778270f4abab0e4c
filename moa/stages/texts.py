"""Score the fine-tuning texts with every objective's reward, for the conditional warm start and Rewards-in-Context."""

import argparse
import logging

from moa.experiment.schema import ScoringSection
from moa.job.command import Cost, parser, run
from moa.rewards import scoring
from moa.store import tables
from moa.store.tables import Row

log = logging.getLogger("moa")


def main(arguments: argparse.Namespace) -> None:
    """Write table TEXT_SCORES; judges stay out of everything that trains."""
    section = ScoringSection.model_validate_json(arguments.section)
    cost = Cost(section.task, "text_scores")
    texts = tables.read(tables.TEXTS, arguments.texts)
    ids, prompts, responses = (texts[column].to_pylist() for column in ("text_id", "prompt", "response"))
    rows: list[Row] = []
    named = [declared.reward for declared in section.objectives.values()]
    used = scoring.load_several({name: section.rewards[name] for name in named}, arguments.models)
    for objective, declared in section.objectives.items():
        name = declared.reward
        scores = scoring.score(name, used[name], prompts, responses, floor=None)
        log.info("%s (%s): %d texts, mean %.4g", objective, name, len(ids), scores.values.mean())
        for text_id, value, truncated in zip(ids, scores.values.tolist(), scores.truncated.tolist(), strict=True):
            scored = {"objective": objective, "role": "reward", "score": value, "truncated": truncated}
            rows.append({"task": section.task, "text_id": text_id, **scored})
    cost.tokens = sum(scorer.tokens for scorer in used.values())
    tables.write(tables.TEXT_SCORES, rows, arguments.scores, scoring.notes(used))
    cost.write(arguments.costs)


if __name__ == "__main__":
    run(main, parser(__doc__, "texts", "models*", "scores", "costs"))
