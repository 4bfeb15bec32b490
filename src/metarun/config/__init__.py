"""Hydra's mechanics: composition, options, overrides; the only place that touches its private parts."""
