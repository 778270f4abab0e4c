"""Small problems whose Pareto front is known, trained by the same methods, advantages and losses as language models.

Fishwood (fishwood.py) is MO-Gymnasium's fishwood-v0, written anew from its rules: two states, two actions, 200 steps;
an action is the next state. A step at the river pays a fish with probability 0.1, a step in the wood a piece of wood
with probability 0.9. Every policy's expectation is exact and lies on the segment from (19.9, 0.9) to (0, 180), so the
front is straight and every linear weight but (0.9, 0.1) is best served at an end. Four policies' returns over 2 000
episodes of mo-gymnasium 1.3.2 (tests/golden/fishwood.json) agree with it in mean and spread.

A bandit (bandit.py) has rewards -|x - a_k|^2 with a Gaussian action, whose Pareto set is the convex hull of the a_k, or
arms with a softmax policy, so that solvers' rest points are checked with exact gradients.

policy.py and train.py train a small network that reads a preference through a method's own file:

    environment = Fishwood()
    method = catalogue.load("linear", {}, environment.objectives)
    policy = Learner(environment, method, PPO, lattice(2, 10), seed=0).train()
    environment.expected(policy.probabilities([(0.5, 0.5)]))        # expected fish and wood

The tests run it (tests/unit/test_testbed.py, test_bandit*.py); what methods reach is in studies/fishwood.
"""
