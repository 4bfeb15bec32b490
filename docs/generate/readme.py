"""A part of the README as a page."""

from __future__ import annotations

import re
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"


def own_page() -> str:
    """Return what the README says of a user's own classes."""
    text = README.read_text("utf-8")
    start, end = text.index("### Adding your own"), text.index("## Developing")
    body = text[start:end].partition("\n")[2]
    linked = re.sub(r"\(docs/([\w-]+\.md)", r"(../\1", body)
    return f"# Your own algorithm, dataset, model or rule\n{linked}"
