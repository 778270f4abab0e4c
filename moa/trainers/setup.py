"""What every trainer begins with: the policy on its base, and the task that it is trained on."""

from collections.abc import Callable, Sequence

import torch

from moa.experiment.keys import Ppo
from moa.experiment.preferences import Preference
from moa.experiment.schema import TrainSection
from moa.lm import conditioning, models
from moa.lm.answering import Base, Prompting
from moa.lm.generation import Decoding
from moa.method import Method
from moa.metrics import normaliser
from moa.metrics.normaliser import Normaliser
from moa.rewards import objectives
from moa.rl.actor import Actor
from moa.rl.estimation import Scale
from moa.rl.experience import Task
from moa.rl.loop import batch_preferences
from moa.store import tables
from moa.trainers.request import Request


def make_actor(base: Base, decoding: Decoding, method: Method, seed: int) -> Actor:
    """Load the base and put a fresh adapter and value heads on it; `base.model` says how."""
    spec = base.model
    tokenizer = models.load_tokenizer(base.source, base.revision)
    model = models.load_base(base.source, spec, revision=base.revision)
    context = models.context_length(model)
    policy = models.add_adapter(model, spec.lora, seed)
    if spec.gradient_checkpointing:
        policy.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        policy.enable_input_require_grads()
    heads = models.ValueHeads(models.hidden_size(policy), len(method.streams)).to(models.device())
    return Actor(policy, heads, tokenizer, decoding, context)


def actor_of(request: Request) -> Actor:
    """Return the policy of a request, untrained."""
    decoding = Decoding.training(request.section.generation)
    return make_actor(Base(request.base, request.section.model), decoding, request.method, request.seed)


def scale_of(found: Normaliser) -> Scale:
    """Return the normaliser as tensors (K,) on the device."""
    columns = (found.low, found.high)
    return Scale(*(torch.tensor(column, dtype=torch.float32, device=models.device()) for column in columns))


def text_of(actor: Actor, prompting: Prompting) -> Callable[[str, Preference | None], str]:
    """Return the function that builds the text that the policy reads; a given preference is always shown."""
    shown = Prompting(prompting.objectives, prompting.conditioning, conditioned=True)
    return lambda prompt, preference: shown.text(prompt, preference, actor.tokenizer)


def training_preferences(section: TrainSection, method: Method, weights: Preference | None) -> list[Preference]:
    """Return what a policy is trained on: its own weights, the lattice or equal weights.

    A preference-free policy has the equal ones, which nobody reads.
    """
    if weights is not None:
        return [weights]
    k = len(section.objectives)
    return list(section.training) if method.conditioned else [(1 / k,) * k]


def drawn_preferences(ppo: Ppo, training: list[Preference], dirichlet: float, seed: int) -> list[Preference]:
    """Return the preferences that the loop will draw: they depend on seed, step and groups per step alone."""
    each = ppo.batch_size // ppo.group_size
    return [
        tuple(p) for step in range(ppo.steps) for p in batch_preferences(training, each, dirichlet, seed, step).tolist()
    ]


def read_preferences(task: Task, ppo: Ppo, seed: int) -> list[Preference]:
    """Return every preference that a conditioned policy reads in training: the task's own, and those to be drawn."""
    own = list(task.training)
    return own if task.dirichlet is None else own + drawn_preferences(ppo, own, task.dirichlet, seed)


def check_lengths(actor: Actor, task: Task, prompts: Sequence[str], preferences: Sequence[Preference]) -> None:
    """Refuse before training what would not fit in the middle of it, or after it.

    Every prompt is read with the longest-worded of `preferences`; none where the policy reads no preference.

    Raises:
        MoaError: a prompt has no token, or leaves no room for a response.
    """

    def worded(preference: Preference) -> int:
        return len(conditioning.token_rows([task.text_of(prompts[0], preference)], actor.tokenizer)[0])

    widest = max(preferences, key=worded, default=None)
    room = actor.context - actor.decoding.max_new_tokens
    conditioning.encode([task.text_of(prompt, widest) for prompt in prompts], actor.tokenizer, room)


def task_of(request: Request, actor: Actor, group_size: int | None = None) -> Task:
    """Return the task of a request: train prompts, rewards, scale and training preferences.

    `group_size` is how many responses share a preference; None takes `ppo.group_size`.

    Raises:
        MoaError: a table or a reward is unfit; or a prompt, of evaluation too, does not fit into the context.
    """
    section, method = request.section, request.method
    scale = normaliser.read(request.normaliser, list(section.objectives))
    every = tables.read(tables.PROMPTS, request.prompts).to_pylist()
    shown = training_preferences(section, method, request.weights)
    dirichlet = section.dirichlet if method.conditioned and request.weights is None else None
    task = Task(
        prompts=[r["prompt"] for r in every if r["split"] == "train"],
        text_of=text_of(actor, Prompting(list(section.objectives), section.conditioning)),
        score=objectives.load(section, request.models, scale.floors),
        scale=scale_of(scale),
        training=shown,
        dirichlet=dirichlet,
    )
    ppo = section.ppo if group_size is None else section.ppo.model_copy(update={"group_size": group_size})
    read = read_preferences(task, ppo, request.seed) if method.conditioned else []
    check_lengths(actor, task, [r["prompt"] for r in every], read)
    return task
