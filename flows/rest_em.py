"""ReST-EM (Singh et al., TMLR 2024, 2312.06585): sample, keep what the verifier accepts, fine-tune *the base* on it, repeat.

E-step  D = { (x, y) : y ~ P_{i-1}(· | x),  r(x, y) > τ }, at most so many a problem
M-step  P_i = P_0's weights trained on D
"""

from ratchet.flows.loop import Stages, recipe
from ratchet.rounds import Round, RoundState


@recipe
def rest_em(round: Round, do: Stages) -> RoundState:
    rollouts = do.verify(do.synthesize(round.policy, round.problems))
    chosen = do.select(rollouts)
    policy = do.train(round.base, chosen, inherit="weights")
    return round.advance(policy)
