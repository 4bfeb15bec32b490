"""The forward pass of T networks at once, layer by layer, with fast derivatives for the meta-gradient."""

from metarun.learners.gradient.batched.layers import BatchedForward, batched_forward, recording

__all__ = ["BatchedForward", "batched_forward", "recording"]
