"""(d) The least work of a step, timed as bare operations of the same shapes.

Each distinct prompt token and each response token is read once per pass that the algorithm needs: sampling, reference,
update (forward, and the products that carry gradients back to the adapters). Logits are made at response positions
alone. A part costs the larger of its products and of the bytes of weights that it has to read; parts are summed.
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F  # noqa: N812

from benchmarks.step.world import LORA, SHAPES, World, clock
from moa.lm.models import device

REPEATS = 5


def median_seconds(operation: Callable[[], object]) -> float:
    """Return the median wall-clock seconds of an operation, repeated until 20 ms have passed, after one to warm up."""
    operation()
    found = []
    for _ in range(REPEATS):
        count, (began, _) = 0, clock()
        while True:
            operation()
            count += 1
            if clock()[0] - began > 0.02:
                break
        found.append((clock()[0] - began) / count)
    return statistics.median(found)


@dataclass(frozen=True)
class Part:
    """One part of the least work: seconds of bare products and of reading bytes, and the operations' count."""

    name: str
    products: float
    bytes: float
    flop: float

    @property
    def seconds(self) -> float:
        """Return what bounds it."""
        return max(self.products, self.bytes)


class Least:
    """The least work of a step."""

    def __init__(self, world: World, dtype: torch.dtype = torch.float32) -> None:
        self.world, self.dtype = world, dtype
        given, shape = SHAPES[world.shape], world.shape
        self.hidden, self.words, self.layers = (
            given[key] for key in ("hidden_size", "vocab_size", "num_hidden_layers")
        )
        self.heads = given["num_attention_heads"]
        self.head = self.hidden // self.heads
        keys, feed = given.get("num_key_value_heads", self.heads) * self.head, given["intermediate_size"]
        # in, out of a layer's products: q, k, v, o, gate, up, down
        self.linear = [(self.hidden, self.hidden), (self.hidden, keys), (self.hidden, keys), (self.hidden, self.hidden)]
        self.linear += [(self.hidden, feed), (self.hidden, feed), (feed, self.hidden)]
        adapted = self.linear if LORA[shape].targets == "all-linear" else [self.linear[0], self.linear[2]]
        rank = LORA[shape].rank
        self.lora = [pair for n_in, n_out in adapted for pair in ((n_in, rank), (rank, n_out))]
        self.weights = self.layers * sum(a * b for a, b in self.linear) + self.hidden * self.words
        self.bandwidth = self._bandwidth()

    def parts(self) -> list[Part]:
        """Return the parts of a step with their seconds."""
        lengths, prompts = self.world.lengths, len(self.world.prompts)
        prompt = len(self.world.prompts[0].split())
        response = sum(lengths)
        whole = prompts * prompt + response - len(lengths)  # nothing is asked after a last token
        alive = [sum(length > t for length in lengths) for t in range(1, self.world.limit)]
        updates = max(1, len(lengths) // self.world.mini)
        packed = prompt + response // prompts  # a prompt with its group
        update = [(whole // updates, response // updates, max(1, prompts // updates), packed)] * updates
        return [
            self._part("prompts", [(prompts * prompt, prompts, prompts, prompt)]),
            self._part("decoding", [(n, n, 1, prompt + t) for t, n in enumerate(alive, 1) if n]),
            self._part("reference", [(whole, response, prompts, packed)]),
            self._part("update, forward", update, lora=1),
            # dX of every product, and of an adapter's two products also the gradient of its own weights
            self._part("update, backward", update, lora=2),
        ]

    def _part(self, name: str, passes: list[tuple[int, int, int, int]], lora: int = 0) -> Part:
        """Return a part of passes (tokens, tokens with logits, rows of attention, keys)."""
        products = flop = 0.0
        for tokens, with_logits, rows, keys in passes:
            shapes = [(tokens, *pair, self.layers) for pair in self.linear]
            shapes += [(tokens, *pair, self.layers * lora) for pair in self.lora if lora]
            shapes.append((with_logits, self.hidden, self.words, 1))
            products += sum(times * self._product(m, a, b) for m, a, b, times in shapes)
            flop += sum(2.0 * times * m * a * b for m, a, b, times in shapes)
            if name == "decoding":
                products += self.layers * self._attention(tokens, 1, keys)
            else:
                products += self.layers * self._attention(rows, keys, keys) * (2 if "backward" in name else 1)
        size = torch.finfo(self.dtype).bits / 8
        return Part(name, products, len(passes) * self.weights * size / self.bandwidth, flop)

    @lru_cache  # noqa: B019
    def _product(self, rows: int, n_in: int, n_out: int) -> float:
        x = torch.randn(rows, n_in, device=device(), dtype=self.dtype)
        w = torch.randn(n_out, n_in, device=device(), dtype=self.dtype)
        return median_seconds(lambda: F.linear(x, w))

    @lru_cache  # noqa: B019
    def _attention(self, rows: int, queries: int, keys: int) -> float:
        lengths = (queries, keys, keys)
        q, k, v = (torch.randn(rows, self.heads, n, self.head, device=device(), dtype=self.dtype) for n in lengths)
        return median_seconds(lambda: F.scaled_dot_product_attention(q, k, v, is_causal=queries > 1))

    def _bandwidth(self) -> float:
        """Return bytes per second of reading memory, as a product with one row reads weights."""
        x = torch.randn(64 * 2**20, device=device())
        return 4 * len(x) / median_seconds(lambda: x.sum())
