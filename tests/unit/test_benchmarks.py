"""What the benchmark scripts return, at tiny sizes: the numbers' meaning, never their speed."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
import scipy.stats
import torch
import yaml

from benchmarks import ablation, convergence, development, distance, means, mutation, noon, pama_cost, pooled, responses
from benchmarks.preference_embedding import PreferenceEmbedding
from moa.errors import MoaError
from moa.experiment.keys import Conditioning, Lora, Model, Scratch
from moa.experiment.schema import load
from moa.lm import answering, models
from moa.lm.conditioning import encode
from moa.lm.generation import Decoding
from moa.plan import Plan
from moa.store import tables
from tests import tiny_models, tiny_policy

SCRATCH = Scratch(vocabulary=64, hidden=16, layers=1, heads=2, feed_forward=16, context=32)


@pytest.fixture(scope="module")
def work() -> pama_cost.Work:
    return pama_cost.work(
        SCRATCH, Lora(rank=2, alpha=4, dropout=0.0, targets="all-linear"), batch=3, prompt=4, response=5
    )


def test_slope_is_the_exponent() -> None:
    assert pama_cost.slope([1, 10, 100], [3, 300, 30_000]) == pytest.approx(2)


@pytest.mark.parametrize("way", pama_cost.WAYS)
def test_every_way_returns_the_gradient_of_its_weights(way: str, work: pama_cost.Work) -> None:
    """At ratio 1 the loss is linear in the advantages.

    So the gradient is the weighted sum of the objectives' gradients.
    """
    advantages = torch.randn(3, 3, 5)
    gradient, c = pama_cost.WAYS[way](work, advantages)
    assert c.min() >= 0 and float(c.sum()) == pytest.approx(1)
    alone = torch.stack([pama_cost.flat_gradient(work, pama_cost.logprobs(work), a, keep=False) for a in advantages])
    torch.testing.assert_close(gradient, c @ alone, atol=1e-6, rtol=1e-4)
    assert float(gradient.norm()) > 0


def test_mgda_has_the_shortest_gradient(work: pama_cost.Work) -> None:
    advantages = torch.randn(4, 3, 5)
    shortest = float(pama_cost.by_gradients(work, advantages)[0].norm())
    assert all(
        shortest <= float(other(work, advantages)[0].norm()) + 1e-6
        for other in (pama_cost.by_advantages, pama_cost.by_closed_form)
    )


def test_a_runs_own_responses_have_group_relative_advantages_of_letters(tmp_path: Path) -> None:
    """u = 1 at the policy that drew them; within a group and a response's tokens advantages are centred and equal."""
    tiny_models.save_base(tmp_path / "base")
    prompts = [
        {"task": "t", "prompt_id": str(k), "split": "train", "prompt": p}
        for k, p in enumerate(["The lamp is", "My", "This", "A chair", "More"])
    ]
    tables.write(tables.PROMPTS, prompts, tmp_path / "prompts.parquet")
    found, advantages_of = pama_cost.rollouts(tmp_path, load(Path("config.yaml")))
    with torch.no_grad():
        torch.testing.assert_close(pama_cost.logprobs(found) * found.response_mask, found.old * found.response_mask)
    advantages = advantages_of(3)
    assert advantages.shape == (3, *found.response_mask.shape)
    first = advantages[:, :, 0].view(3, 4, 4)  # every response has a first token; four to a prompt
    assert float(first.abs().max()) > 0.5 and float(first.sum(2).abs().max()) < 1e-4
    torch.testing.assert_close(advantages, first.flatten(1)[:, :, None] * found.response_mask)
    gradient, c = pama_cost.by_gradients(found, advantages)
    assert float(c.sum()) == pytest.approx(1) and torch.isfinite(gradient).all()


def test_rows_and_page(work: pama_cost.Work) -> None:
    rows = (
        pama_cost.closed_form_rows([4, 8], 2)
        + pama_cost.min_norm_rows([3, 5], 2)
        + pama_cost.step_rows(work, [2, 4], 2, partial(pama_cost.random_advantages, work))
    )
    assert len(rows) == 2 + 2 * 4 + 2 * 3
    assert all(0 < r["fastest"] <= r["median"] <= r["slowest"] and r["repeats"] == 2 for r in rows)
    d = sum(p.numel() for p in pama_cost.trainable(work))
    stored = {(r["way"][:4], r["n"]): r["floats"] for r in rows if r["part"] == "step"}
    assert stored["MGDA", 4] == 4 * d and stored["PAMA", 4] == d
    assert all(np.isfinite(r["median"]) for r in rows)
    page = pama_cost.page(rows, "python x.py", "a machine")
    assert page.count("MGDA: n backward passes") == 3  # two sizes and a slope


def test_a_mutants_change_is_named_and_only_failing_tests_kill(tmp_path: Path) -> None:
    """Of three mutants of one function a test noticed the first, none the second, and nothing reached the third.

    Code 33.
    """
    source = "def x_half__mutmut_orig(x=1):\n    y = x\n    return y / 2\n"
    for number, last in ((1, "y * 2"), (2, "y / 3"), (3, "None")):
        source += f"def x_half__mutmut_{number}(x=1):\n    y = x\n    return {last}\n"
    (tmp_path / "mutants").mkdir()
    (tmp_path / "mutants" / "m.py").write_text(source)
    codes = {f"moa.m.x_half__mutmut_{number}": code for number, code in ((1, 1), (2, 0), (3, 33))}
    (tmp_path / "mutants" / "m.py.meta").write_text(json.dumps({"exit_code_by_key": codes}))
    page = mutation.page(mutation.read(tmp_path, ["m.py"])).splitlines()
    assert page[2:4] == ["| m.py | 3 | 1 | 2 | 33.3 % |", "| all | 3 | 1 | 2 | 33.3 % |"]
    assert page[-2:] == [
        "- m.x_half__mutmut_2: `return y / 2 -> return y / 3`",
        "- m.x_half__mutmut_3: `return y / 2 -> return None` (exit code 33)",
    ]


@pytest.mark.parametrize("path", sorted(Path("benchmarks").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_variant_is_a_valid_experiment_and_differs_from_the_others(path: Path) -> None:
    """A key that a later version renamed would be found only by whoever repeats a table."""
    variants = {
        name: v for name, v in yaml.safe_load(path.read_text(encoding="utf-8")).items() if not name.startswith("_")
    }
    for name, variant in variants.items():
        found = ablation.experiment_of(Path("experiments/full.yaml"), variant["row"], variant.get("config", {}))
        section = Plan(found, name).train(variant["row"])  # the plan asks the method whether it can train so
        changed = variant.get("config", {}).get("methods", {}).get(variant["row"], {})
        assert section.settings.items() >= changed.items(), name
    told = [yaml.safe_dump(v) for v in variants.values()]
    assert len(set(told)) == len(told)


def test_the_configured_files_and_tests_exist() -> None:
    text = mutation.configuration(mutation.FILES)
    named = [line.strip() for line in text.splitlines() if line.startswith(("    moa/", "    tests/"))]
    assert len(named) == len(mutation.FILES) + len(mutation.TESTS)
    assert all((mutation.ROOT / name).is_file() for name in named)
    for slow in mutation.SLOW:
        file, _, test = slow.partition("::")
        assert f"def {test.partition('[')[0]}(" in (mutation.ROOT / "tests" / "unit" / file).read_text(encoding="utf-8")


def test_tau_with_fewer_responses(tmp_path: Path) -> None:
    """Scores of the second objective at p = (1, 0), (0.5, 0.5), (0, 1), one prompt, two responses: 0, 2; 1, 1; 2, 2.

    Both: means 1, 1, 2 in order but for a tie, tau-b = 2 / sqrt(3 * 2). The first alone: 0, 1, 2, tau 1. The second
        alone: 2, 1, 2, tau 0.
    """
    database = tmp_path / "results.duckdb"
    with duckdb.connect(str(database)) as connection:
        connection.execute("CREATE TABLE runs AS SELECT 't' AS task, ['a', 'b'] AS objectives")
        connection.execute(
            "CREATE TABLE generations (task TEXT, method TEXT, seed INT, point INT, preference DOUBLE[], prompt_id"
            " TEXT, sample INT)"
        )
        connection.execute(
            "CREATE TABLE scores (task TEXT, method TEXT, seed INT, point INT, prompt_id TEXT, sample INT, objective"
            " TEXT, role TEXT, score FLOAT)"
        )
        for point, (preference, scores) in enumerate(
            [([1.0, 0.0], [0, 2]), ([0.5, 0.5], [1, 1]), ([0.0, 1.0], [2, 2])]
        ):
            for sample, score in enumerate(scores):
                connection.execute(
                    "INSERT INTO generations VALUES ('t', 'moc', 0, ?, ?, 'p', ?)", [point, preference, sample]
                )
                connection.execute(
                    "INSERT INTO scores VALUES ('t', 'moc', 0, ?, 'p', ?, 'b', 'reward', ?)", [point, sample, score]
                )
    ((components, found),) = responses.read(database, "t")["moc", "b"].values()
    assert components.tolist() == [0.0, 0.5, 1.0] and found.tolist() == [[[0, 2]], [[1, 1]], [[2, 2]]]
    assert responses.tau(components, found, 1) == pytest.approx((1 + 0) / 2)
    assert responses.tau(components, found, 2) == pytest.approx(2 / 6**0.5)


def test_two_rows_at_one_kl() -> None:
    """Slope 2 within both rows and 1 between them at one KL, which the rows' own means, 1 + 2 * 3 = 7 apart, hide.

    With residuals 0.3 (1, -2, 1) in the first row: they sum to 0 and are orthogonal to the KL, so slope and difference
    stay. Variance 0.09 * 6 / 3 = 0.18 times 1/3 + 1/3 + 9/4 (the centred KL's squares: 2 in either row), t(0.975, 3
    degrees of freedom) = 3.18245.
    """
    kl = np.array([4.0, 5.0, 6.0]), np.array([1.0, 2.0, 3.0])
    volumes = 1 + 2 * kl[0] + 0.3 * np.array([1.0, -2.0, 1.0]), 2 * kl[1]
    found = pooled.at_equal(volumes, kl)
    assert (found.mean, found.seeds) == (pytest.approx(1.0), 6)
    half = 3.18245 * (0.18 * (2 / 3 + 9 / 4)) ** 0.5
    assert (found.low, found.high) == (pytest.approx(1 - half, abs=1e-4), pytest.approx(1 + half, abs=1e-4))


def test_spread_is_of_the_seeds_within_a_base() -> None:
    """Within bases 0, 2 | 10, 14 the squares sum to 2 + 8 with 1 + 1 degrees of freedom: variance 5.

    The other row's 0, 1 | 5, 6: 0.5 + 0.5, variance 0.5.

    F = 10 with (2, 2) degrees of freedom: its upper tail is 1 / (1 + F) = 1 / 11. Distances from the base's median: 1,
    1, 2, 2 and four times 0.5, means 1.5 and 0.5: 2 between the rows, 1 within, F = 2 / (1 / 6) = 12 with (1, 6).
    """
    found = pooled.spread([[0.0, 2.0], [10.0, 14.0]], [[0.0, 1.0], [5.0, 6.0]])
    assert (found.mine**2, found.theirs**2, found.fisher) == (
        pytest.approx(5),
        pytest.approx(0.5),
        pytest.approx(2 / 11),
    )
    assert found.brown_forsythe == pytest.approx(scipy.stats.f.sf(12, 1, 6))
    assert pooled.spread([[0.0, 1.0], [5.0, 6.0]], [[0.0, 2.0], [10.0, 14.0]]).fisher == pytest.approx(2 / 11), (
        "two-sided"
    )


def archive(folder: Path, base: str, seeds: list[int]) -> Path:
    """Write row a with hypervolume seed / 10 and row b with 0."""
    folder.mkdir()
    (folder / "settings.json").write_text(json.dumps({"reference_responses": base}), encoding="utf-8")
    key = {"task": "t", "metric": "hypervolume", "objective": "all", "low": None, "high": None, "points": 3, "n": 4}
    rows = [{**key, "method": m, "seed": s, "value": s / 10 if m == "a" else 0.0} for m in "ab" for s in seeds]
    tables.write(tables.METRICS, rows, folder / "metrics.parquet")
    return folder


def test_only_pairs_are_pooled_across_bases(tmp_path: Path) -> None:
    """Seeds 1, 2 of one base and 2, 3 of another: a's values are 0.1, 0.2 and 0.2, 0.3, b's 0.

    The first base again has the same policies.
    """
    one, other, again = (
        archive(tmp_path / "1", "x", [1, 2]),
        archive(tmp_path / "2", "y", [2, 3]),
        archive(tmp_path / "3", "x", [2]),
    )
    with pytest.raises(MoaError, match="different settings .* only their pairs' differences: --across"):
        pooled.read([one, other])
    found = pooled.read([one, other], across=True)
    runs = {("x", 1): 0.1, ("x", 2): 0.2, ("y", 2): 0.2, ("y", 3): 0.3}
    assert found == {("a", "hypervolume", "all"): runs, ("b", "hypervolume", "all"): dict.fromkeys(runs, 0.0)}
    assert pooled.by_base(runs) == [[0.1, 0.2], [0.2, 0.3]]
    with pytest.raises(MoaError, match="3: a has seed 2 of this base in another archive"):
        pooled.read([one, again], across=True)


def test_development_prompts_alone_are_measured(tmp_path: Path) -> None:
    """One point: scores 3 of a (scale 1 to 5) and 0.25 of b (0 to 1) on every development prompt, 5 and 1 on a test prompt that must not count."""
    database = tmp_path / "results.duckdb"
    prompts = ablation.development_prompts()
    with duckdb.connect(str(database)) as connection:
        connection.execute("CREATE TABLE runs AS SELECT 't' AS task, ['b', 'a'] AS objectives")
        connection.execute(
            "CREATE TABLE normaliser AS SELECT * FROM (VALUES ('t', 'a', 1.0, 5.0), ('t', 'b', 0.0, 1.0)) AS v(task,"
            " objective, low, high)"
        )
        connection.execute(
            "CREATE TABLE generations AS SELECT 't' AS task, 'grpo' AS method, 0 AS seed, 0 AS point, [0.75,"
            " 0.25]::DOUBLE[] AS preference"
        )
        connection.execute("CREATE TABLE prompts (task TEXT, prompt_id TEXT, prompt TEXT, split TEXT)")
        connection.execute(
            "CREATE TABLE scores (task TEXT, method TEXT, seed INT, point INT, prompt_id TEXT, objective TEXT, role"
            " TEXT, score DOUBLE)"
        )
        connection.execute(
            "CREATE TABLE curves (task TEXT, method TEXT, policy TEXT, seed INT, step INT, quantity TEXT, value DOUBLE)"
        )
        for step in range(12):  # the last ten steps' mean of 0, 1, ..., 11 is 6.5
            connection.execute(
                "INSERT INTO curves VALUES ('t', 'grpo', 'policy', 0, ?, 'kl', ?), ('t', 'grpo', 'policy', 0, ?,"
                " 'seconds', 2)",
                [step, step, step],
            )
        for number, prompt in enumerate(["a test prompt", *prompts]):
            connection.execute("INSERT INTO prompts VALUES ('t', ?, ?, 'evaluation')", [str(number), prompt])
            high = (3, 0.25) if number else (5, 1)
            connection.execute(
                "INSERT INTO scores VALUES ('t', 'grpo', 0, 0, ?, 'a', 'reward', ?), ('t', 'grpo', 0, 0, ?, 'b',"
                " 'reward', ?)",
                [str(number), high[0], str(number), high[1]],
            )
        (row,) = development.read(connection, "t")
        # (3 - 1) / 4 = 0.5; in the run's order of objectives b, a: (0.25, 0.5)
        assert row["points"] == [[0.25, 0.5]] and row["hypervolume"] == pytest.approx(0.125)
        assert (row["name"], row["seed"], row["kl"], row["seconds"]) == ("grpo", 0, 6.5, 24)
        # without preferences, as PAMA's row, the same point has a volume and no order
        connection.execute("UPDATE generations SET preference = NULL")
        (row,) = development.read(connection, "t")
        assert (
            row["hypervolume"] == pytest.approx(0.125)
            and row["tau"] == {"b": None, "a": None}
            and row["order_rate"] is row["control_error"] is None
        )
        (tmp_path / "trials.jsonl").write_text(json.dumps(row) + "\n")
        assert (
            ablation.show(tmp_path / "trials.jsonl").splitlines()[-1]
            == "| grpo | 0.125 | 0.125 | - | - | - | - | 6.50 | 24 |"
        )
        connection.execute("DELETE FROM prompts WHERE prompt = ?", [prompts[0]])
        with pytest.raises(MoaError, match="its evaluation prompts are not the development prompts"):
            development.read(connection, "t")


def test_end_tokens_are_told_from_the_others() -> None:
    """Two responses, of one and of three tokens: the second fills the width, so only the first has an end token."""
    mask = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    assert noon.last_tokens(mask).tolist() == [[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    mask = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    advantages = torch.tensor(
        [[[1.0, 3.0, 0.0], [-1.0, 0.0, 0.0], [2.0, -2.0, -3.0]], [[1.0, -1.0, 0.0], [1.0, 0.0, 0.0], [1.0, 1.0, 1.0]]]
    )
    found = noon.describe(advantages, mask, ["a", "b"])
    # of six tokens the first of the first and of the third response are positive in both; end tokens have 3 and -1 in
    # a, cut to 3 and 0
    assert found["all positive"] == pytest.approx(2 / 6) and found["tokens"] == 2
    assert (
        found["a, mean, last"] == 1 and found["a, mean after Noon, last"] == 1.5 and found["a, positive, last"] == 0.5
    )
    assert (
        found["a, mean, others"] == pytest.approx((1 + 2 - 2 - 3) / 4) and found["a, mean after Noon, others"] == 0.75
    )


def test_labels_of_lines_stand_apart() -> None:
    assert convergence.apart([50, 48, 10]) == [64, 48, 10]


def test_means_are_paired_by_seed() -> None:
    """Row a: 1, 3; row b: 0, 1. Means 2 and 0.5.

    Differences 1 and 2, mean 1.5, half the interval 12.706 * 0.7071 / sqrt 2 = 6.353.
    """
    shown = means.show({("a", "length"): {0: 1.0, 1: 3.0}, ("b", "length"): {0: 0.0, 1: 1.0}}, "a").splitlines()
    assert shown[2].startswith("| a | 2.000 ± 12.706 |  | 2 |")
    assert shown[3].startswith("| b | 0.500 ± 6.353 | +1.500 (-4.853 to +7.853) | 2 |")


def test_a_learned_embedding_moves_the_policy_where_its_preference_is_told_and_never_the_reference() -> None:
    model = models.add_adapter(tiny_policy.base(), Lora(rank=2, alpha=4, dropout=0.0), 0)
    embedding = PreferenceEmbedding(model, [[4, 5], [6]], [(1.0, 0.0), (0.25, 0.75)])
    ids = torch.tensor([[0, 1, 4, 5, 7], [1, 6, 8, 4, 7]])  # padded; 4 without 5 is no preference
    assert embedding.places(ids).tolist() == [[0, 0, 1, 1, 0], [0, 2, 0, 0, 0]]

    def logits() -> torch.Tensor:
        return models.forward(model, ids, (ids > 0).long(), 1)[0]

    before = logits()
    with model.disable_adapter():
        torch.testing.assert_close(logits(), before)
    torch.nn.init.constant_(
        embedding.linear.weight[:, 1], 0.1
    )  # of the second objective: the first row's preference has none of it
    torch.testing.assert_close(embedding.shift(ids)[1, 1], torch.full((32,), 0.075))
    after = logits()
    torch.testing.assert_close(after[0], before[0])
    assert not torch.allclose(after[1], before[1])
    with model.disable_adapter():
        torch.testing.assert_close(logits(), before)
    assert any(p is embedding.linear.weight for p in model.parameters() if p.requires_grad)


def test_distance_is_the_kl_of_the_first_token_where_there_is_one(tmp_path: Path) -> None:
    """With one token per response.

    Sum_v p(v) log(p(v) / q(v)) at the end of each prompt, the end token left out of both.
    """
    base = tiny_models.save_base(tmp_path / "base")
    folder = tiny_models.save_adapter(tmp_path / "a" / "s0", seed=1, name="a", weights=(1.0, 0.0))
    prompting = answering.Prompting(["a", "b"], Conditioning())
    answerer = answering.load(answering.Base(base, Model(source="x")), [folder], "policy", prompting)
    prompts = ["The lamp is good", "My"]
    total, tokens = distance.measure(answerer, prompts, Decoding(1, 0.7, 1.0))
    assert tokens == 2

    ids, mask = encode(prompts, answerer.tokenizer, 100)
    kept = torch.arange(answerer.model.config.vocab_size) != answerer.tokenizer.eos_token_id

    def log_probabilities() -> torch.Tensor:
        with torch.no_grad():
            return torch.log_softmax(
                answerer.model(input_ids=ids, attention_mask=mask, position_ids=models.positions(mask)).logits[:, -1][
                    :, kept
                ]
                / 0.7,
                -1,
            )

    p = log_probabilities()
    with answerer.model.disable_adapter():
        q = log_probabilities()
    by_hand = float((p.exp() * (p - q)).sum())
    assert by_hand > 1e-3
    assert total == pytest.approx(by_hand, rel=1e-4)


def test_a_mixture_has_no_distance(tmp_path: Path) -> None:
    base = tiny_models.save_base(tmp_path / "base")
    prompting = answering.Prompting(["a", "b"], Conditioning())
    answerer = answering.load(answering.Base(base, Model(source="x")), [], "policy", prompting)
    with pytest.raises(MoaError, match="only a policy or a soup"):
        distance.measure(answerer, ["My"], Decoding(1, 1.0, 1.0))


def test_distances_are_shown_with_their_interval(tmp_path: Path) -> None:
    """KL 0.3 and 0.5: mean 0.4, half the interval 12.706 * 0.1 = 1.271; by preference the means are 0.2 and 0.6."""
    path = tmp_path / "d.jsonl"
    rows = [
        {"row": "moc", "seed": 0, "kl": 0.3, "points": [0.1, 0.5]},
        {"row": "moc", "seed": 1, "kl": 0.5, "points": [0.3, 0.7]},
    ]
    path.write_text("\n".join(json.dumps(r) for r in rows), encoding="utf-8")
    assert distance.show(path).splitlines()[2] == "| moc | 0.400 | -0.871 to 1.671 | 0.20 to 0.60 | 2 |"


def test_a_step_at_7b_runs_in_small(tmp_path: Path) -> None:
    """In a process of its own: the script times by wrapping the loop's functions."""
    script = [
        sys.executable,
        "-m",
        "benchmarks.step_7b",
        "--shape",
        "tiny",
        "--batch",
        "8",
        "--prompt",
        "4",
        "--response",
        "4",
        "--micro",
        "4",
    ]
    found = subprocess.run(
        [*script, "--out", str(tmp_path / "step.parquet")], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    rows = pq.read_table(tmp_path / "step.parquet").to_pylist()
    assert {r["phase"] for r in rows} == {"rollout", "log-probabilities, values, reference", "update", "whole step"}
    assert sum(r["seconds"] for r in rows if r["phase"] != "whole step") <= next(
        r["seconds"] for r in rows if r["phase"] == "whole step"
    )


def test_trials_say_what_they_lack(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["ablation", "--variants", "v.yaml", "--results", "results/reviews"])
    with pytest.raises(SystemExit):
        ablation.main()
    assert "--out are needed" in capsys.readouterr().err


def test_trials_without_a_kl_are_shown(tmp_path: Path) -> None:
    """Rewards-in-Context is trained without one; means over the two seeds."""
    one = {
        "name": "ric",
        "hypervolume": 0.6,
        "tau": {"a": 1.0},
        "order_rate": 1.0,
        "control_error": 0.1,
        "kl": None,
        "seconds": 10.0,
    }
    path = tmp_path / "trials.jsonl"
    path.write_text(
        "\n".join(json.dumps({**one, "seed": s, "hypervolume": v}) for s, v in ((0, 0.6), (1, 0.7))), encoding="utf-8"
    )
    assert ablation.show(path).splitlines()[-1] == "| ric | 0.650 | 0.600, 0.700 | 1.00 | 1.00 | 0.100 | - | 10 |"
