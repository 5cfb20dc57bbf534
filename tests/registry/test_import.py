"""Copying folders into staging: plain files are copied, everything else is refused."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from ftreg.core.errors import InputError
from ftreg.registry.staging import copy_in
from tests.registry.kit import read, write


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """Create a folder as a user may have it."""
    folder = tmp_path / "foreign"
    write(
        folder, {"config.json": b"{}", "sub/model.safetensors": b"weights", "notes.txt": b"n", ".git/config": b"secret"}
    )
    return folder


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Create the folder to copy to."""
    (tmp_path / "target").mkdir()
    return tmp_path / "target"


def test_plain_files_are_copied(foreign: Path, target: Path) -> None:
    """Hidden folders are left out, the original stays as it is, and no bytes are shared with it."""
    copy_in(foreign, target)
    assert read(target) == {"config.json": b"{}", "sub/model.safetensors": b"weights", "notes.txt": b"n"}
    (target / "config.json").write_bytes(b"changed")
    assert (foreign / "config.json").read_bytes() == b"{}"


def test_patterns_choose_files(foreign: Path, target: Path) -> None:
    """Patterns choose files by name, at any depth."""
    copy_in(foreign, target, patterns=("*.json", "*.safetensors"))
    assert set(read(target)) == {"config.json", "sub/model.safetensors"}


def test_a_link_within_the_folder_becomes_a_file(foreign: Path, target: Path) -> None:
    """The target of a link is copied, not the link."""
    (foreign / "link.json").symlink_to("config.json")
    copy_in(foreign, target)
    assert (target / "link.json").read_bytes() == b"{}"
    assert not (target / "link.json").is_symlink()


def test_links_may_point_into_a_named_folder(foreign: Path, target: Path, tmp_path: Path) -> None:
    """Links may point into the folder given as ``within``, such as the blobs of a download cache."""
    write(tmp_path / "blobs", {"1234": b"cached"})
    (foreign / "link.bin").symlink_to("../blobs/1234")
    with pytest.raises(InputError, match="outside"):
        copy_in(foreign, target)
    copy_in(foreign, target, within=tmp_path)
    assert (target / "link.bin").read_bytes() == b"cached"


def bind_socket(path: Path) -> None:
    """Create a socket; the path must be short, so it is relative."""
    here = Path.cwd()
    os.chdir(path.parent)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name)
    os.chdir(here)


def make_device(path: Path) -> None:
    """Create a device like /dev/zero."""
    try:
        os.mknod(path, 0o020666, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("only root may make devices")


ODD: dict[str, Callable[[Path], object]] = {
    "outside link": lambda path: path.symlink_to("/etc/passwd"),
    "dotted link": lambda path: path.symlink_to("sub/../../../../../../../../../etc/passwd"),
    "folder link": lambda path: path.symlink_to("sub"),
    "broken link": lambda path: path.symlink_to("nowhere"),
    "looping link": lambda path: path.symlink_to(path.name),
    "linked device": lambda path: path.symlink_to("/dev/zero"),
    "pipe": os.mkfifo,
    "socket": bind_socket,
    "device": make_device,
}


@pytest.mark.parametrize("kind", ODD)
def test_everything_else_is_refused(foreign: Path, target: Path, kind: str) -> None:
    """Links that lead out, pipes, sockets and devices are refused at once, and nothing is copied from elsewhere."""
    ODD[kind](foreign / "evil")
    with pytest.raises(InputError, match="evil"):
        copy_in(foreign, target)
    assert b"root:" not in b"".join(read(target).values())


def test_a_link_to_a_link_that_leaves_is_refused(foreign: Path, target: Path) -> None:
    """The final target of a chain of links decides, not the first one."""
    (foreign / "first").symlink_to("sub/second")
    (foreign / "sub" / "second").symlink_to("/etc/passwd")
    with pytest.raises(InputError, match="outside"):
        copy_in(foreign, target)
