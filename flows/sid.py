"""SID, self-improving demonstrations (2509.24910): an agent that learned from shortest paths explores; the explorations that reached
their goals teach the next agent, which explores better.

D_0 = shortest paths
D_r = { x : x ~ π_{r-1} on the training pool, x stops exactly at its goal }  (+ a share of D_0)         one shard a scan
π_r = π_{r-1} trained on D_r; `training.inherit=nothing` begins anew, as the paper's reviews say it did

Every policy is measured on scans that no training pool has; with `instructions`, also after a fine-tuning on language goals, as the
paper does once at its end.
"""

from ratchet.artifacts import Artifact
from ratchet.flows.loop import Stages, recipe
from ratchet.rounds import Round, RoundState


def from_shortest_paths(do: Stages) -> RoundState:
    """Round 0: imitation of the teacher."""
    teacher = do.serving("shortest paths")
    problems = teacher.propose(split="train")
    blank = do.create(problems)
    shortest = teacher.verify(teacher.synthesize(blank, problems, using="teacher"))
    policy = do.train(blank, do.select(shortest, shortest=1.0))
    return RoundState(roles={"policy": policy, "base": policy}, stores={"shortest": shortest})


def on_unseen_scans(state: RoundState, do: Stages) -> Artifact:
    """Greedy and sampled walks on held-out scans; after a fine-tuning on instructions, if the config has them."""
    exam, policy, task = do.part("evaluation"), state.policy, "task"
    if do.has("instructions"):
        task = "instructions.task"
        told = do.serving("instructions").propose(using=task, split="train")
        taught = do.serving("instructions").verify(do.serving("instructions").synthesize(policy, told, using="teacher"))
        policy = do.serving("instructions").train(policy, do.select(taught, shortest=1.0), using="instructions.training")
    test = do.propose(using=task, split="test")
    greedy = do.verify(do.synthesize(policy, test, samples=1, temperature=0.0))
    sampled = do.verify(do.synthesize(policy, test, samples=exam.samples, temperature=exam.temperature)) if exam.samples else None
    return do.evaluate(greedy, sampled)


@recipe(start=from_shortest_paths, measure=on_unseen_scans)
def sid(round: Round, do: Stages) -> RoundState:
    walks = do.verify(do.synthesize(round.policy, round.problems))
    chosen = do.select(walks, round.state.stores["shortest"])
    policy = do.train(round.policy, chosen)
    return round.advance(policy)
