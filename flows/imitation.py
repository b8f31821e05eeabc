"""The control of SID: every round trains on for as many steps as SID's, on the same shortest paths."""

from ratchet.flows.loop import Stages, recipe
from ratchet.flows.sid import from_shortest_paths, on_unseen_scans
from ratchet.rounds import Round, RoundState


@recipe(start=from_shortest_paths, measure=on_unseen_scans)
def imitation(round: Round, do: Stages) -> RoundState:
    chosen = do.select(round.state.stores["shortest"], shortest=1.0)
    policy = do.train(round.policy, chosen)
    return round.advance(policy)
