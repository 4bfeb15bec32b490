"""T networks at once, layer by layer, with derivatives written for the meta-gradient."""

from metarun.learners.gradient.batched.layers import Forward, batched_forward

__all__ = ["Forward", "batched_forward"]
