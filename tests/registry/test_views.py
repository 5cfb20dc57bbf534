"""Views: folders that libraries load, and through which no blob changes unnoticed."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftreg.core.errors import CorruptRegistry
from ftreg.core.types import CHECKPOINT
from ftreg.registry import Draft, Registry
from tests.registry.kit import FILES, PRODUCER, blob_of, publish, read


def test_a_view_costs_no_space(registry: Registry) -> None:
    """A view's files are clones of, or hard links to, the blobs, and opening it again creates nothing."""
    version = publish(registry)
    view = registry.source("bot").path
    inodes = {path.name: path.stat().st_ino for path in view.rglob("*")}
    shared = blob_of(registry, version, "config.json").samefile(view / "config.json")
    assert shared or blob_of(registry, version, "config.json").stat().st_nlink == 1
    assert registry.source("bot").path == view
    assert {path.name: path.stat().st_ino for path in view.rglob("*")} == inodes


def test_a_views_files_are_real_files(registry: Registry) -> None:
    """A view holds no symbolic links, so replacing a file of the view does not replace the blob."""
    publish(registry)
    view = registry.source("bot").path
    for path in view.rglob("*"):
        assert path.resolve().is_relative_to(view)
        assert not path.is_symlink()
        if path.is_file():
            assert path.stat().st_mode & 0o222 == 0


def test_a_replaced_file_of_a_view_leaves_the_blob_alone(registry: Registry, tmp_path: Path) -> None:
    """A file that was replaced in a view is restored when the view is next opened."""
    version = publish(registry)
    view = registry.source("bot").path
    (tmp_path / "evil").write_bytes(b"evil")
    (tmp_path / "evil").replace((view / "config.json").resolve())
    assert blob_of(registry, version, "config.json").read_bytes() == b"{}"
    assert read(registry.source("bot").path) == FILES


def test_a_write_through_a_view_is_noticed(registry: Registry) -> None:
    """A write through a hard link into the blob is found by opening and by verifying the version."""
    version = publish(registry)
    target = registry.source("bot").path / "weights" / "model.bin"
    target.chmod(0o644)
    target.write_bytes(b"\xff" * target.stat().st_size)
    if blob_of(registry, version, "weights/model.bin").samefile(target):
        with pytest.raises(CorruptRegistry, match="does not have the content"):
            registry.source("bot")
        assert not registry.verify(quick=True).ok
    else:  # a file system that clones
        assert read(registry.source("bot").path) == FILES


@pytest.mark.parametrize("error", [errno.EMLINK, errno.EPERM])
def test_a_view_is_copied_where_links_are_refused(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    """If hard links are refused, the files of a view are copies."""

    def refuse(*arguments: Any) -> None:
        raise OSError(error, "refused")

    publish(registry)
    monkeypatch.setattr(os, "link", refuse)
    view = registry.source("bot").path
    assert read(view) == FILES
    assert registry.source("bot").path == view
    assert registry.verify().ok


def test_the_whole_views_folder_may_be_deleted(registry: Registry) -> None:
    """The folder of all views can be deleted; views are created again on use."""
    import shutil

    publish(registry)
    registry.source("bot")
    shutil.rmtree(registry.home / "views")
    with Registry(registry.home) as again:
        assert read(again.source("bot").path) == FILES


def test_a_source_opens_its_parents(registry: Registry) -> None:
    """A source opens its parents by role."""
    base = publish(registry, "base", {"a": b"base"})
    publish(registry, "tuned", {"a": b"tuned"}, parents=[base])
    source = registry.source("tuned")
    assert source.ref == "tuned:1"
    assert source.parent("base").digest == base.digest
    assert read(source.parent("base").path) == {"a": b"base"}


def test_transformers_loads_a_view(registry: Registry, model_folder: Callable[..., Path], tmp_path: Path) -> None:
    """Transformers loads model and tokenizer from a view, and can save a copy elsewhere."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with registry.staging() as staging:
        registry.copy_in(model_folder(), staging.files)
        registry.publish("tiny", Draft(folder=staging.files, kind=CHECKPOINT, producer=PRODUCER))
    view = registry.source("tiny").path
    model = AutoModelForCausalLM.from_pretrained(view)
    model.save_pretrained(tmp_path / "copy")
    assert AutoTokenizer.from_pretrained(view)("hello").input_ids
    assert (tmp_path / "copy" / "model.safetensors").read_bytes() == (view / "model.safetensors").read_bytes()
    assert registry.verify().ok


def test_onnxruntime_loads_a_view_with_external_data(registry: Registry) -> None:
    """ONNX Runtime loads a model from a view when its weights are in a file of their own."""
    onnx = pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    import numpy as np

    weight = onnx.numpy_helper.from_array(np.full((64, 64), 2.0, np.float32), "w")
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])],
        "double",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 64])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 64])],
        [weight],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=10)
    with registry.staging() as staging:
        onnx.save(
            model,
            staging.files / "model.onnx",
            save_as_external_data=True,
            location="model.onnx.data",
            size_threshold=0,
        )
        registry.publish("onnx", Draft(folder=staging.files, kind="onnx", producer=PRODUCER))
    session = onnxruntime.InferenceSession(registry.source("onnx").path / "model.onnx")
    (answer,) = session.run(None, {"x": np.ones((1, 64), np.float32)})
    assert answer[0, 0] == 128.0
