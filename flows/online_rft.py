"""Online rejection-sampling fine-tuning (as B-STaR compares it, 2412.17256 §2): weights, optimizer and one learning-rate schedule
go on from round to round.

    D = { (x, y) : y ~ P_{i-1}(· | x),  r(x, y) > τ };   P_i = P_{i-1} trained on D in its inherited training state
"""

from ratchet.flows.loop import Stages, recipe
from ratchet.rounds import Round, RoundState


@recipe
def online_rft(round: Round, do: Stages) -> RoundState:
    rollouts = do.verify(do.synthesize(round.policy, round.problems))
    chosen = do.select(rollouts)
    policy = do.train(round.policy, chosen, inherit="training_state")
    return round.advance(policy)
