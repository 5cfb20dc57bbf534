"""Fake third-party distributions: a ``.dist-info`` folder and modules, found like installed ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent
from typing import Any

from tests.command import ftreg

HEADER = "from ftreg.plugin import *\n"


def distribution(folder: Path, name: str, modules: Mapping[str, str], *, version: str = "1.0") -> Path:
    """Install a distribution into ``folder``, with a plugin for each of ``modules``; return ``folder``."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text("[ftreg]\n" + "".join(f"{plugin} = {plugin}\n" for plugin in modules))
    for module, source in modules.items():
        (folder / f"{module}.py").write_text(HEADER + dedent(source))
    return folder


def environment(folder: Path, **variables: str) -> dict[str, str]:
    """Return the environment in which the distributions in ``folder`` are installed."""
    return {"PYTHONPATH": str(folder), **variables}


def listed(folder: Path, *options: str, **variables: str) -> dict[str, dict[str, Any]]:
    """Return what ``ftreg plugins list --json`` prints, by plugin name."""
    done = ftreg(*options, "plugins", "list", "--json", env=environment(folder, **variables))
    return {plugin["name"]: plugin for plugin in json.loads(done.stdout)}
