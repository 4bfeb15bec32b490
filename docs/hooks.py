"""Adds the generated pages to mkdocs, and the algorithms to its navigation."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parent))

from generate import algorithm_path, families, generated

_REFERENCE = {
    "All config keys": "reference/config.md",
    "Commands": "reference/commands.md",
    "Python, from the docstrings": "reference/python.md",
}


def on_config(config: Any) -> Any:
    """List the page of each algorithm under its family, and the generated references."""
    for section in config.nav:
        if not isinstance(section, dict):
            continue
        if "Algorithms" in section:
            section["Algorithms"] += [
                {family.capitalize(): [{name: algorithm_path(name)} for name in names]}
                for family, names in families().items()
            ]
        if "Reference" in section:
            section["Reference"] += [{title: path} for title, path in _REFERENCE.items()]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages."""
    for path, text in generated().items():
        files.append(File.generated(config, path, content=text))
    return files
