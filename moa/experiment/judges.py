"""Which judges are independent of the reward that they judge."""

from moa.experiment.rewards import Classifier, Endpoint, Linear, Python, Readability, Reward, Transformer


def shared(reward: Reward, judge: Reward) -> str | None:
    """Return what a judge has in common with the reward that it judges, None where it is independent of it.

    Hacking a reward shows only to a judge that does not make the same mistakes: one of another model or formula, or
    trained on other prompts.
    """
    match reward, judge:
        case ((Linear() | Transformer()), (Linear() | Transformer())):
            one, other = reward.data, judge.data
            same = (one.source, one.subset, one.split) == (other.source, other.subset, other.split)
            apart = one.part[1] <= other.part[0] or other.part[1] <= one.part[0]
            remedy = "train them on two halves, data.part: [0, 0.5] and [0.5, 1], or on other data"
            return None if apart or not same else f"both are trained on the same prompts of {one.source}; {remedy}"
        case Classifier(), Classifier():
            return f"both are the model {reward.source}; name another model" if reward.source == judge.source else None
        case Endpoint(), Endpoint():
            same = (reward.url, reward.model) == (judge.url, judge.model)
            return f"both ask the model {reward.model}; name another model" if same else None
        case Python(), Python():
            same = reward.function == judge.function
            return f"both are the function {reward.function}; name another reward" if same else None
        case Readability(), Readability():
            same = reward.formula == judge.formula
            return f"both are the formula {reward.formula}; name another reward" if same else None
        case _:
            return f"both are of kind {reward.kind}; name another reward" if type(reward) is type(judge) else None
