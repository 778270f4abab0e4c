"""Stage generate: one row's responses to the evaluation prompts over the whole preference grid."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from moa.experiment.schema import GenerateSection
from moa.job import command
from moa.lm import answering, grid, models, responses
from moa.lm.answering import Answerer, Base, Prompting, Sampling
from moa.lm.generation import Decoding
from moa.method import Method
from moa.methods import catalogue, external
from moa.store import inputs, tables

log = logging.getLogger("moa")


def load(section: GenerateSection, method: Method, base: Path, folders: Sequence[Path]) -> Answerer:
    """Load what the row answers with: its policies on the base, the base alone, or an external adapter or model."""
    settings = method.settings
    if not isinstance(settings, external.Settings):
        assert method.answers != "external", "only the method 'external' answers so"
        prompting = Prompting(section.objectives, section.conditioning, method.conditioned)
        return answering.load(Base(base, section.model), folders, method.answers, prompting)
    under = Base(base, section.model, name="external")
    if settings.model is not None:
        under = Base(settings.model, section.model, settings.revision, name="external")
    adapters = [models.fetch_adapter(settings.adapter, settings.revision)] if settings.adapter else []
    prompting = Prompting(section.objectives, section.conditioning, settings.conditioned)
    return answering.load(under, adapters, "policy", prompting)


def reference_of(section: GenerateSection, base: Path) -> Answerer:
    """Return the base alone."""
    prompting = Prompting(section.objectives, section.conditioning)
    return answering.load(Base(base, section.model), [], "policy", prompting)


def main(args: argparse.Namespace) -> None:
    """Write tables GENERATIONS and COSTS."""
    section = GenerateSection.model_validate_json(args.section)
    method = catalogue.load(args.row, section.settings, section.objectives)
    cost = command.Cost(section.task, "generate", method=args.row, seed=args.seed)
    prompts, points = inputs.prompts(args.prompts, "evaluation"), method.evaluation_preferences(section.evaluation)
    settings, generation = method.settings, section.generation
    if isinstance(settings, external.Settings) and settings.responses is not None:
        reference = reference_of(section, args.base)
        rows = responses.read(settings.responses, args.row, prompts, points, reference.tokenizer)
    else:
        answerer = load(section, method, args.base, args.policies)
        asked = grid.questions(prompts, generation.samples)
        clock = command.Progress(f"{args.row} s{args.seed}", len(points) * len(asked))
        sampling = Sampling(Decoding.evaluation(generation), generation.batch_size, f"generate {args.seed}")
        rows = grid.walk(answerer, asked, points, sampling, clock.add)
        cost.tokens, cost.batch = sum(r["tokens"] for r in rows), answerer.batch
        reference = answerer
        if isinstance(settings, external.Settings):  # another model, or an adapter that may bring embeddings of its own
            del answerer, reference  # two models at once may not fit into a GPU
            reference = reference_of(section, args.base)
    cost.tokens += grid.add_fluency(reference, prompts, rows)
    key = {"task": section.task, "method": args.row, "seed": args.seed}
    tables.write(tables.GENERATIONS, [{**key, **r} for r in rows], args.out)
    log.info("%s: %s", args.row, grid.describe(rows))
    cost.write(args.costs)


if __name__ == "__main__":
    paths = ("prompts", "base", "policies*", "normaliser*", "models*", "out", "costs")
    command.run(main, command.parser(__doc__, *paths, row=str, seed=int))
