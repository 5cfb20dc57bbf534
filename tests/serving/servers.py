"""Starts servers as users do, in processes of their own."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ftreg.api.launch import free_port, run_server
from ftreg.core.errors import FtregError


@contextmanager
def serving(
    *command: str, log: Path, env: Mapping[str, str], path: str = "/readyz", statuses: Collection[int] = (200,)
) -> Iterator[str]:
    """Run ``python -m COMMAND --port ...``; yield its URL once ``path`` answers with one of ``statuses``."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("FTREG_", "BENTOML_"))}
    environment |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **env}
    port = free_port()
    try:
        with run_server(
            [*command, "--port", str(port)], port, log=log, environment=environment, path=path, statuses=statuses
        ) as url:
            yield url
    except FtregError as error:
        raise AssertionError(f"{error}\n{log.read_text()[-4000:]}") from error
