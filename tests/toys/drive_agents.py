"""A warm `ratchet` that also has imported what graph agents need, which is most of what a small run of theirs would take."""

from tests.toys import drive

AGENTS = (
    "scipy.sparse.csgraph",
    "scipy.stats",
    "torch",
    "torch._dynamo",  # which the first optimizer imports, for seconds
    "transformers",
    "safetensors.torch",
    "tests.toys.maze",
    *(f"ratchet.components.self_training.{name}" for name in ("explored", "flywheel", "imitation", "speaking")),
    *(f"ratchet.components.{name}" for name in ("evaluation.flywheel", "policies.navigator", "verification.followed", "verification.goal")),
)

if __name__ == "__main__":
    drive.WARM = (*drive.WARM, *AGENTS)
    drive.serve()
