"""Checkpoints on disk: what is written is what any safetensors reader reads; damage is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from ftreg.core.errors import FtregError
from ftreg.models.checkpoint import Checkpoint
from ftreg.models.tensors import TensorInfo, write_weights

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.int8, torch.uint8, torch.int64, torch.bool]
shapes = st.lists(st.integers(0, 5), max_size=3).map(tuple)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(shapes, st.sampled_from(DTYPES)), min_size=1, max_size=8), st.integers(1, 400))
def test_round_trip(specs, shard_bytes):
    """Tensors of any dtype and shape, in any number of shards, are read back as they were by the library's reader."""
    tensors = {
        f"layer.{index}.weight": (torch.rand(shape) * 100 - 50).to(dtype) for index, (shape, dtype) in enumerate(specs)
    }
    plan = {name: TensorInfo(tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_weights(folder, plan, tensors.items(), shard_bytes=shard_bytes)
        (folder / "config.json").write_text("{}")
        files = sorted(folder.glob("*.safetensors"))
        read = {key: value for file in files for key, value in load_file(file).items()}
        assert read.keys() == tensors.keys()
        assert all(torch.equal(read[key], tensor) for key, tensor in tensors.items())
        assert len(files) == 1 or all(
            file.stat().st_size - 8 - int.from_bytes(file.read_bytes()[:8], "little") <= shard_bytes
            or len(load_file(file)) == 1
            for file in files
        )
        checkpoint = Checkpoint(folder)
        assert checkpoint.tensors == plan
        assert all(torch.equal(checkpoint.read(key), tensor) for key, tensor in tensors.items())


def test_transposed_tensor_is_written_by_its_values(tmp_path):
    """A tensor whose memory is not in order is written in order."""
    tensor = torch.arange(6.0).reshape(2, 3).T
    write_weights(tmp_path, {"a": TensorInfo(torch.float32, (3, 2))}, [("a", tensor)])
    assert torch.equal(load_file(tmp_path / "model.safetensors")["a"], tensor)


@pytest.mark.parametrize("damage", ["truncated", "header", "absent", "config", "shard", "index"])
def test_damage_is_named(damage, model_folder, tmp_path):
    """Each way in which a checkpoint can be broken is an error that names the folder or file."""
    folder = tmp_path / "model"
    shutil.copytree(model_folder(), folder)
    weights = folder / "model.safetensors"
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "header":
        weights.write_bytes(b"\xff" * 100)
    elif damage == "absent":
        weights.unlink()
    elif damage == "config":
        (folder / "config.json").write_text("{")
    elif damage == "shard":
        index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    elif damage == "index":
        index = {"weight_map": {"not.there": "model.safetensors"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(FtregError) as caught:
        Checkpoint(folder)
    assert str(folder) in str(caught.value)
