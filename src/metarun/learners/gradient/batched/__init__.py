"""The forward pass of T networks at once, layer by layer, with fast derivatives for the meta-gradient."""

from metarun.learners.gradient.batched.layers import Forward, batched_forward

__all__ = ["Forward", "batched_forward"]
