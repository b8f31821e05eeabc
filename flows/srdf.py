"""SRDF, a self-refining data flywheel (2412.08467): a generator tells paths in words, a navigator walks by them, and what it could
follow teaches both.

D_seed = paths with the task's own instructions;   P = paths without
G_0 = G trained on D_seed;       T_0 = { (x, p) : x ~ G_0(p), p in P };       N_0 = N trained on D_seed ∪ T_0
    W_r = N_{r-1} walks by T_{r-1}                                                      the navigator filters the pool
    G_r = G_{r-1} trained on D_seed ∪ { (p, x) : SPL(W_r) = 1 }
    T_r = { (x, p) : x ~ G_r(p), p in P }                                               the better generator tells it anew
    N_r = N_{r-1} trained on D_seed ∪ { (x, p) : nDTW(W_r) ≥ 0.9 } ∪ T_r where nothing was kept

Roles: `policy`, the navigator, and `generator`; `base` and `base_generator` are round 0's. A generator is measured by the navigator
`base`, never by its partner, which may have grown used to it. Ours: the next pool is T_r whole, and D_seed is mixed in instead of a
fine-tuning at the end.
"""

from ratchet.artifacts import Artifact
from ratchet.flows.loop import Stages, recipe
from ratchet.rounds import Round, RoundState


def from_seed(do: Stages) -> RoundState:
    """Round 0: both learn from the seed; the navigator from what the generator makes of the pool, too."""
    worked, pool = do.serving("seed").propose(split="worked"), do.serving("pool").propose(split="train")
    blank, speechless = do.create(worked), do.create(using="generator.policy")
    teacher = do.serving("shortest paths")
    seed, ways = (teacher.verify(teacher.synthesize(blank, problems, using="teacher")) for problems in (worked, pool))
    paths = do.select(ways, using="generator.paths")
    heard = from_people(seed, do)
    generator = do.train(speechless, do.select(*heard, using="generator.selection"), using="generator.training") if heard else speechless
    told = do.synthesize(generator, paths, using="generator.synthesis")
    policy = do.train(blank, do.select(told, seed))
    return RoundState(
        roles={"policy": policy, "generator": generator, "base": policy, "base_generator": generator},
        stores={"seed": seed, "paths": paths, "told": told},
    )


def from_people(seed: Artifact, do: Stages) -> tuple[Artifact, ...]:
    """What of the seed the generator learns from, too: with `generator.seeded=false` it has but what the navigator could follow."""
    return (seed,) if do.part("generator.seeded") else ()


def of_both(state: RoundState, do: Stages) -> Artifact:
    """The navigator on held-out problems; the generator by how round 0's navigator follows its instructions for their paths."""
    test = do.propose(split="test")
    greedy = do.verify(do.synthesize(state.policy, test, samples=1, temperature=0.0))
    paths = do.select(do.verify(do.synthesize(state.roles["base"], test, using="teacher")), using="generator.paths")
    told = do.synthesize(state.roles["generator"], paths, using="generator.synthesis", samples=1, temperature=0.0)
    problems = do.select(told, using="generator.problems")
    followed = do.verify(do.synthesize(state.roles["base"], problems, samples=1, temperature=0.0), using="generator.verification")
    return do.evaluate(greedy, followed)


@recipe(start=from_seed, measure=of_both)
def srdf(round: Round, do: Stages) -> RoundState:
    seed, paths, told = (round.state.stores[name] for name in ("seed", "paths", "told"))
    problems = do.select(told, using="generator.problems")
    walks = do.verify(do.synthesize(round.policy, problems), using="generator.verification")
    clear = do.select(walks, *from_people(seed, do), using="generator.selection")
    generator = do.train(round.role("generator"), clear, using="generator.training")
    told = do.synthesize(generator, paths, using="generator.synthesis")
    policy = do.train(round.policy, do.select(walks, told, seed))
    return round.advance(policy, generator=generator, stores={"told": told})
