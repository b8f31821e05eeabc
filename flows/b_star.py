"""B-STaR (Zeng et al., ICLR 2025, 2412.17256): before each round, choose the temperature and the threshold that best balance
exploring and exploiting, then improve on what passes (Algorithm 1).

    (t, τ) = argmax BS(t, τ) on dev problems,   BS = mean_i min(n'_i / n*, 1) · n'_i / n_i        (`control/balance.py`)
    D = { (x, y) : y ~ P_{i-1}(· | x; t),  r(x, y) > τ },   r = 1[answer right] + r_prm          (`verification/process.py`)
    P_i = P_{i-1} trained on D, optimizer and learning-rate schedule going on

`knobs=fixed` is Online RFT with the same sampler and verifier; `temperature` and `threshold` search one knob: the paper's ablation.
"""

from ratchet.flows.loop import Stages, recipe
from ratchet.rounds import Round, RoundState


@recipe
def b_star(round: Round, do: Stages) -> RoundState:
    probe = do.verify(do.synthesize(round.policy, round.dev, over=do.part("control").grid))
    knobs = do.adjust(probe, round.problems)
    rollouts = do.verify(do.synthesize(round.policy, round.problems, temperature=knobs.temperature))
    chosen = do.select(rollouts, threshold=knobs.threshold)
    policy = do.train(round.policy, chosen, inherit="training_state")
    return round.advance(policy, knobs=knobs)
