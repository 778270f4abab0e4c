"""Keys of `generation` and `ppo`: decoding, and the loop that trains most policies.

The string under a key is its meaning in docs/experiment.md, and after "Source:" where its default comes from.
"""

from typing import Literal

from pydantic import Field, model_validator

from moa.experiment.rewards import Strict

Whiten = Literal["combined", "batch"]


class Generation(Strict):
    """Decoding, the same for every method."""

    max_new_tokens: int = Field(48, ge=1, le=1_000_000)
    """Most tokens of a response."""
    temperature: float = Field(0.7, ge=1e-3, le=1e3)
    """Temperature of training's rollouts and of the reference policy's. Source: Rewards-in-Context, 3.3."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Nucleus of training's rollouts and of the reference policy's; 1 samples from everything.
    Source: Rewards-in-Context, 3.3."""
    evaluation_temperature: float = Field(0.7, ge=1e-3, le=1e3)
    """Temperature of the answers that are evaluated."""
    evaluation_top_p: float = Field(0.9, gt=0, le=1)
    """Nucleus of the answers that are evaluated. Source: Rewards-in-Context, 3.3."""
    stop: list[str] = []
    """Tokens that end a response, beside those that the model's generation_config and its tokenizer name."""
    samples: int = Field(1, ge=1, le=10_000)
    """Answers to each evaluation prompt at each preference."""
    batch_size: int = Field(256, ge=1, le=1_000_000)
    """Answers that are sampled at a time; halved where memory runs out. No answer depends on it."""


class Kl(Strict):
    """KL to the reference policy, per token, with an adaptive coefficient (Ziegler et al. 2019)."""

    place: Literal["separate", "heads"] = "separate"
    """Where it acts: a loss term after advantages are combined, or in the reward of every stream (`heads`)."""
    coefficient: float = Field(0.2, ge=0)
    """Weight of the KL at the first step; it moves with the KL that is met. Source: PAMA, 2.6."""
    target: float = Field(0.1, gt=0)
    """KL in nats per token at which the coefficient stands still: the papers' 3 nats over about 30 tokens.
    Source: PAMA, 2.6."""
    horizon: float = Field(10_000.0, gt=0)
    """Responses over which the coefficient follows the KL; must be above batch_size / 5.
    Source: Rewards-in-Context, 3.3."""


class Ppo(Strict):
    """The shared loop: PPO with an advantage per stream (objective) and token, combined by the method."""

    steps: int = Field(100, ge=1, le=100_000_000)
    """Steps; each collects one batch of responses."""
    batch_size: int = Field(64, ge=2, le=1_000_000)
    """Responses per step. Source: Rewards-in-Context, 3.3."""
    mini_batch_size: int = Field(64, ge=1, le=1_000_000)
    """Responses per optimiser step; must divide batch_size. They are those of whole groups, in random order."""
    advantages: Literal["gae", "group"] = "gae"
    """Estimator: a value head per stream, or comparison with the other responses to the same prompt (`group`).
    Source: PAMA, 2.6."""
    group_size: int = Field(1, ge=1, le=1_000_000)
    """Responses to each prompt at one preference; must divide batch_size, and be at least 2 for `group`."""
    epochs: int = Field(4, ge=1, le=10_000)
    """Passes over each batch. Source: Rewards-in-Context, 3.3."""
    learning_rate: float = Field(1e-5, gt=0, le=100)
    """Learning rate of the adapter. Source: Rewards-in-Context, 3.3."""
    value_learning_rate: float | None = Field(None, gt=0, le=100)
    """Learning rate of the value heads; null takes learning_rate."""
    schedule: Literal["constant", "linear"] = "constant"
    """Course of both learning rates; `linear` lets them fall to 0 at the last step."""
    gamma: float = Field(1.0, gt=0, le=1)
    """Discount of `gae`. Source: PAMA, 2.6."""
    lam: float = Field(0.95, ge=0, le=1)
    """Lambda of `gae`. Source: PAMA, 2.6."""
    clip: float = Field(0.2, gt=0)
    """Clip range of the policy ratio. Source: PAMA, 2.6."""
    value_clip: float = Field(0.2, gt=0)
    """Clip range of the values. Source: Rewards-in-Context, 3.3."""
    value_coefficient: float = Field(0.1, ge=0)
    """Weight of the value loss. Source: Rewards-in-Context, 3.3."""
    entropy_coefficient: float = Field(0.0, ge=0)
    """Weight of an entropy bonus. Source: TRL 0.8."""
    max_grad_norm: float = Field(0.5, gt=0)
    """Gradient norm above which the gradient is scaled down. Source: Rewards-in-Context, 3.3."""
    early_stop: float | None = Field(1.5, gt=0)
    """Ends a batch's epochs once half the mean squared log-ratio of an epoch's last mini-batch exceeds it; null never.
    Source: TRL 0.8."""
    whiten: Whiten = "combined"
    """Where advantages are standardised: after the method has weighed them on one reward scale, or every objective by
    itself over the batch (`batch`). Source: measured: studies/one_reward_scale."""
    unfinished: Literal["keep", "leave_out"] = "keep"
    """What the loop, grpo and gdpo do with responses that max_new_tokens cut: learn from them as from any other, or
    leave them out of the loss (`leave_out`)."""
    unfinished_penalty: float = Field(0.0, ge=0)
    """What such a response loses of every reward there, on the normalised scale."""
    kl: Kl = Kl()
    """KL to the reference policy."""
    checkpoint_every: int = Field(20, ge=1, le=100_000_000)
    """Steps between checkpoints, from which a killed job goes on."""

    @model_validator(mode="after")
    def _divides(self) -> "Ppo":
        if self.batch_size % self.mini_batch_size:
            raise ValueError(f"mini_batch_size ({self.mini_batch_size}) must divide batch_size ({self.batch_size})")
        if self.batch_size % self.group_size:
            raise ValueError(f"group_size ({self.group_size}) must divide batch_size ({self.batch_size})")
        if self.kl.horizon <= 0.2 * self.batch_size:
            raise ValueError(
                f"kl.horizon ({self.kl.horizon:g}) must be above a fifth of batch_size ({self.batch_size}), or one step"
                " could make the coefficient negative"
            )
        if self.advantages == "group" and self.group_size < 2:
            raise ValueError(
                "advantages: group compares responses to one prompt with each other; set group_size to at least 2,"
                f" e.g. 4 (it is {self.group_size})"
            )
        return self
