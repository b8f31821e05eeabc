"""STaR (Zelikman et al., NeurIPS 2022, 2203.14465), with rationalisation: where the policy fails a problem, show it the answer as
a hint, and keep the rationale it then gives if it leads there; train the base on both, the hint taken out again (Algorithm 1).

    D_solved  = { (x, y) : y ~ P_{i-1}(· | x),        answer right }
    D_hinted  = { (x, y) : y ~ P_{i-1}(· | hint, x),  answer right },  x unsolved
    P_i = P_0's weights trained on D_solved ∪ D_hinted

The paper samples greedily and lets the number of steps grow by 20% a round; here both are fields (`synthesis.temperature`,
`training.steps`), the steps the same every round so that recipes compare at equal cost.
"""

from ratchet.flows.loop import Stages, recipe
from ratchet.rounds import Round, RoundState


@recipe
def star(round: Round, do: Stages) -> RoundState:
    rollouts = do.verify(do.synthesize(round.policy, round.problems))
    unsolved = do.select(rollouts, using="hints", allow_empty=True)
    rationales = [do.verify(do.synthesize(round.policy, unsolved))] if unsolved.rows else []
    chosen = do.select(rollouts, *rationales)
    policy = do.train(round.base, chosen, inherit="weights")
    return round.advance(policy)
