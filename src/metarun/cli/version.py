"""`metarun --version`."""

from metarun import __version__


def main(arguments: list[str]) -> None:  # noqa: ARG001
    """Print the version."""
    print(f"metarun {__version__}")
