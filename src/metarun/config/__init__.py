"""Hydra's mechanics: composition, options, overrides; the only package that uses its private parts."""
