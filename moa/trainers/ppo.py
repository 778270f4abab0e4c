"""The shared loop as a trainer: most methods' policies."""

from moa.job.command import Steps
from moa.job.process import Job
from moa.rl.loop import Loop
from moa.trainers.request import Request, Trained
from moa.trainers.setup import actor_of, task_of


def train(request: Request, job: Job) -> Trained:
    """Train a policy from the job's newest checkpoint, if there is one, to the end.

    Raises:
        Diverged: a number is not finite.
        MoaError: an input is unfit, or not even one response at a time fits into memory.
    """
    actor = actor_of(request)
    task = task_of(request, actor)
    loop = Loop(actor, request.method, request.section.ppo, task, request.seed, job.folder, watch=job.watch)
    run(loop, request.name)
    return Trained(actor.model, actor.heads, loop.curve, loop.tokens)


def run(loop: Loop, name: str) -> None:
    """Run the loop to its end with a line of progress every few seconds: rewards, KL, entropy, speed, time left."""
    steps = Steps(name, loop.ppo.steps)
    for step in loop.run():
        steps.tell(step, lambda: describe(loop))


def describe(loop: Loop) -> str:
    """Return the newest step's figures in a line."""
    rewards = " ".join(f"{o} {loop.value('reward', o):.3f}" for o in loop.method.objectives)
    kl, entropy = loop.value("kl"), loop.value("entropy")
    speed, memory = loop.value("tokens_per_second"), loop.value("memory")
    cut = 100 * (1 - loop.value("finished_rate"))
    return f"{rewards}  KL {kl:.3f}  entropy {entropy:.2f}  {cut:.0f} % cut  {speed:.0f} tokens/s  {memory:.0f} MiB"
