"""The properties of BentoML that ftreg relies on without a public API; see ``ftreg.serving.bento_store``.

If one of these tests fails after an upgrade of BentoML, adapt that module before raising the bound in pyproject.toml.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ftreg.serving.bento_store import import_bentoml
from ftreg.serving.deployment import bentoml_home

SERVICE = """
import bentoml

@bentoml.service
class Service:
    pass

service = Service
"""


@pytest.fixture
def bentoml() -> Any:
    """BentoML, with a store of the tests' own."""
    return import_bentoml()


@pytest.fixture
def build_folder(tmp_path: Path) -> Path:
    """A folder from which a Bento can be built."""
    (tmp_path / "service.py").write_text(SERVICE)
    return tmp_path


def build(bentoml: Any, folder: Path, version: str, name: str = "probe") -> Any:
    """Build a Bento."""
    return bentoml.bentos.build("service:service", name=name, version=version, build_ctx=str(folder), include=["*"])


@pytest.fixture(autouse=True)
def no_service_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """No module called ``service`` is imported before or after a test."""
    monkeypatch.delitem(sys.modules, "service", raising=False)


def test_a_model_is_kept_below_the_home(bentoml: Any) -> None:
    """``models/NAME/VERSION`` is the folder of a model."""
    with bentoml.models.create("probe:one") as model:
        (Path(model.path) / "file").write_text("content")
    assert Path(bentoml.models.get("probe:one").path) == bentoml_home() / "models" / "probe" / "one"


def test_a_bento_is_kept_below_the_home(bentoml: Any, build_folder: Path) -> None:
    """``bentos/NAME/VERSION`` has the sources, the Dockerfile and the requirements where ftreg looks for them."""
    path = Path(build(bentoml, build_folder, "layout").path)
    assert path == bentoml_home() / "bentos" / "probe" / "layout"
    for file in ("bento.yaml", "src/service.py", "env/docker/Dockerfile", "env/python/requirements.txt"):
        assert (path / file).is_file(), file


def test_latest_is_read_from_a_file(bentoml: Any, build_folder: Path) -> None:
    """The content of the file ``latest`` decides which version ``NAME:latest`` is."""
    first = build(bentoml, build_folder, "first", "named")
    sys.modules.pop("service", None)
    build(bentoml, build_folder, "second", "named")
    assert bentoml.bentos.get("named:latest").tag.version == "second"
    (Path(first.path).parent / "latest").write_text("first")
    assert bentoml.bentos.get("named:latest").tag.version == "first"


def test_a_build_takes_the_service_from_loaded_modules(
    bentoml: Any, build_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loaded module called ``service`` hides the one in the build folder, so ftreg removes it during a build."""
    monkeypatch.setitem(sys.modules, "service", ModuleType("service"))
    with pytest.raises(Exception, match="service"):
        build(bentoml, build_folder, "hidden")
