"""Self-improvement pipelines: policies that learn, round after round, from their own verified rollouts."""

__version__ = "0.1.0"
