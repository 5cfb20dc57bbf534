"""Data: reading files, checking rows, splitting, chat templates and label masks, packing."""

from ftreg.data.answers import AnswerFile, Examples, read_scores, write_row, write_scores
from ftreg.data.encode import IGNORED, Encoded, Encoder, last_answer
from ftreg.data.load import BadRow, DataFile, load_examples, read_data, stream_examples
from ftreg.data.pack import pack
from ftreg.data.split import split_examples
from ftreg.data.stdlib import stdlib_docstrings
from ftreg.data.store import StoredExamples, open_split, read_dataset, write_dataset
from ftreg.data.template import read_template

__all__ = [
    "IGNORED",
    "AnswerFile",
    "BadRow",
    "DataFile",
    "Encoded",
    "Encoder",
    "Examples",
    "StoredExamples",
    "last_answer",
    "load_examples",
    "open_split",
    "pack",
    "read_data",
    "read_dataset",
    "read_scores",
    "read_template",
    "split_examples",
    "stdlib_docstrings",
    "stream_examples",
    "write_dataset",
    "write_row",
    "write_scores",
]
