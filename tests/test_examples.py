"""The example scripts and the notebook run as they are shown."""

from __future__ import annotations

import json
from pathlib import Path

from tests.command import python

SCRIPT = "import runpy, sys; del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')"
EXAMPLES = Path(__file__).parent.parent / "examples"


def test_scripts_run(tmp_path: Path) -> None:
    """The chain in Python makes its versions, and the script that reads a registry finds them sound."""
    chain = python(SCRIPT, EXAMPLES / "chain.py", tmp_path)
    assert chain.returncode == 0, chain.stderr
    for ref in ("tiny:1", "colours:1", "colours-merged:1", "colours-merged-onnx:1"):
        assert ref in chain.stdout
    reader = python(SCRIPT, EXAMPLES / "inspect_registry.py", tmp_path / "registry")
    assert reader.returncode == 0, reader.stderr
    assert "@champion is" in reader.stdout
    assert reader.stdout.rstrip().endswith("sound")


def test_the_notebook_runs(tmp_path: Path) -> None:
    """The ten code cells run one after the other, and the last value is the count of sound versions."""
    cells = json.loads((EXAMPLES / "chain.ipynb").read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert len(code) == 10
    code.append('print(f"{report.versions} versions, {exported.ref}")')
    done = python("\n".join(code), env={"TMPDIR": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    assert done.stdout == "7 versions, colours-merged-onnx:1\n"


def test_the_deployment_validates() -> None:
    """The example of a deployment.yaml has no key that ftreg does not know."""
    from ftreg.core.recipe import validate
    from ftreg.serving.planning import DeploymentSpec, read_spec

    request = validate(DeploymentSpec, read_spec(EXAMPLES / "deployments" / "support-bot.yaml"), where="deployment")
    assert request.variants == {"support-bot:1": 80, "support-bot:2": 20}
