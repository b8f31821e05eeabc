"""Iterative rejection-sampling fine-tuning (as B-STaR compares it, 2412.17256 §2): the last round's weights, a fresh optimizer and
a fresh learning-rate schedule each round.

    D = { (x, y) : y ~ P_{i-1}(· | x),  r(x, y) > τ };   P_i = P_{i-1}'s weights trained on D
"""

from ratchet.flows.loop import Stages, recipe
from ratchet.rounds import Round, RoundState


@recipe
def iterative_rft(round: Round, do: Stages) -> RoundState:
    rollouts = do.verify(do.synthesize(round.policy, round.problems))
    chosen = do.select(rollouts)
    policy = do.train(round.policy, chosen, inherit="weights")
    return round.advance(policy)
