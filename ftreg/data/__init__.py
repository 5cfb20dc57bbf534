"""Data: reading files, checking rows, splitting, chat templates and label masks, packing."""

from ftreg.data.encode import IGNORED, Encoded, Encoder
from ftreg.data.load import BadRow, DataFile, load_examples, read_data
from ftreg.data.pack import pack
from ftreg.data.split import split_examples
from ftreg.data.stdlib import stdlib_docstrings
from ftreg.data.store import read_dataset, write_dataset
from ftreg.data.template import read_template

__all__ = [
    "IGNORED",
    "BadRow",
    "DataFile",
    "Encoded",
    "Encoder",
    "load_examples",
    "pack",
    "read_data",
    "read_dataset",
    "read_template",
    "split_examples",
    "stdlib_docstrings",
    "write_dataset",
]
