"""Stage generate: one row's responses to the evaluation prompts over the whole preference grid."""

import argparse
import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from peft import PeftModel

from moa.errors import MoaError
from moa.experiment.preferences import Preference
from moa.experiment.schema import GenerateSection
from moa.job import command
from moa.lm import answering, fluency, models, responses
from moa.lm.generation import Decoding
from moa.method import Method
from moa.methods import catalogue, external
from moa.store import tables

log = logging.getLogger("moa")
Row = dict[str, Any]


def evaluation_prompts(path: Path) -> list[Row]:
    rows = [r for r in tables.read(tables.PROMPTS, path).to_pylist() if r["split"] == "evaluation"]
    if not rows:
        raise MoaError(f"{path}: no evaluation prompts")
    return rows


def load(section: GenerateSection, method: Method, base: Path, folders: Sequence[Path]) -> answering.Answerer:
    """Load what the row answers with: its policies on the base, the base alone, or an external adapter or model."""
    settings = method.settings
    source: str | Path = base
    revision, name, way, conditioned = None, "reference", method.answers, method.conditioned
    if isinstance(settings, external.Settings):
        way, conditioned, name = "policy", settings.conditioned, "external"
        folders = [models.fetch_adapter(settings.adapter, settings.revision)] if settings.adapter else []
        if settings.model is not None:
            source, revision = settings.model, settings.revision
    assert way != "external", "only the method 'external' answers so"
    objectives = section.objectives
    return answering.load(
        source,
        section.model,
        folders,
        way=way,
        objectives=objectives,
        shown=section.conditioning,
        conditioned=conditioned,
        revision=revision,
        name=name,
    )


def walk(
    section: GenerateSection,
    answerer: answering.Answerer,
    prompts: Sequence[Row],
    grid: Sequence[Preference | None],
    seed: int,
    progress: Callable[[int], None],
) -> list[Row]:
    """Answer every prompt at every preference; what a point draws depends on (seed, point, batch) alone."""
    generation = section.generation
    decoding = Decoding(generation.max_new_tokens, generation.evaluation_temperature, generation.evaluation_top_p)
    wanted = [(prompt, sample) for sample in range(generation.samples) for prompt in prompts]
    rows = []
    for point, preference in enumerate(grid):
        policy = answerer.switch(preference)
        texts = answerer.texts([prompt["prompt"] for prompt, _ in wanted], preference)
        found = answering.respond(
            answerer, texts, decoding, generation.batch_size, f"generate {seed} {point}", progress
        )
        for (prompt, sample), response in zip(wanted, found, strict=True):
            key = {"point": point, "preference": preference, "prompt_id": prompt["prompt_id"], "sample": sample}
            rows.append(
                {
                    **key,
                    "policy": policy,
                    "response": response.text,
                    "tokens": response.tokens,
                    "finished": response.finished,
                }
            )
    return rows


def add_fluency(
    section: GenerateSection, reference: answering.Answerer, prompts: Sequence[Row], rows: Sequence[Row]
) -> int:
    """Add each response's NLL under the reference policy, its adapters off; return the tokens read."""
    by_id = {
        p["prompt_id"]: text
        for p, text in zip(prompts, reference.texts([p["prompt"] for p in prompts], None), strict=True)
    }
    model = reference.model
    with model.disable_adapter() if isinstance(model, PeftModel) else nullcontext():
        read = fluency.measure(
            model,
            reference.tokenizer,
            [by_id[r["prompt_id"]] for r in rows],
            [r["response"] for r in rows],
            reference.context,
        )
    for row, nll in zip(rows, read.nll, strict=True):
        row["nll"] = nll
    return read.tokens


def reference_of(section: GenerateSection, base: Path) -> answering.Answerer:
    """Return the base alone."""
    return answering.load(
        base,
        section.model,
        [],
        way="policy",
        objectives=section.objectives,
        shown=section.conditioning,
        conditioned=False,
    )


def main(args: argparse.Namespace) -> None:
    """Write tables GENERATIONS and COSTS."""
    section = GenerateSection.model_validate_json(args.section)
    method = catalogue.load(args.row, section.settings, section.objectives)
    cost = command.Cost(section.task, "generate", method=args.row, seed=args.seed)
    prompts, grid = evaluation_prompts(args.prompts), method.evaluation_preferences(section.evaluation)
    settings = method.settings
    if isinstance(settings, external.Settings) and settings.responses is not None:
        reference = reference_of(section, args.base)
        rows = responses.read(settings.responses, args.row, prompts, grid, reference.tokenizer)
    else:
        answerer = load(section, method, args.base, args.policies)
        clock = command.Progress(f"{args.row} s{args.seed}", len(grid) * len(prompts) * section.generation.samples)
        rows = walk(section, answerer, prompts, grid, args.seed, clock.add)
        cost.tokens, cost.batch = sum(r["tokens"] for r in rows), answerer.batch
        reference = answerer
        if isinstance(settings, external.Settings) and settings.model is not None:
            del answerer, reference  # two models at once may not fit into a GPU
            reference = reference_of(section, args.base)
    write(section, args, cost, reference, prompts, rows)


def write(
    section: GenerateSection,
    args: argparse.Namespace,
    cost: command.Cost,
    reference: answering.Answerer,
    prompts: Sequence[Row],
    rows: Sequence[Row],
) -> None:
    """Measure the rows' fluency under `reference` and write tables GENERATIONS and COSTS."""
    cost.tokens += add_fluency(section, reference, prompts, rows)
    key = {"task": section.task, "method": args.row, "seed": args.seed}
    tables.write(tables.GENERATIONS, [{**key, **r} for r in rows], args.out)
    unfinished, points = sum(not r["finished"] for r in rows) / len(rows), len({r["point"] for r in rows})
    log.info(
        "%s: %d responses at %d points, mean %.1f tokens, %.0f %% unfinished",
        args.row,
        len(rows),
        points,
        sum(r["tokens"] for r in rows) / len(rows),
        100 * unfinished,
    )
    cost.write(args.costs)


if __name__ == "__main__":
    command.run(
        main,
        command.parser(
            __doc__, "prompts", "base", "policies*", "normaliser*", "models*", "out", "costs", row=str, seed=int
        ),
    )
