"""Where faces come from. Every source yields `faces.Annotation`.

Readers are data. ``DATASETS`` names the datasets of the field; ``read_dataset("raf-db", folder)`` finds out in which
layout one lies there and streams its annotations, telling of every mistake with file and line. A `Dataset` says what
its terms are, how many pictures of each class were published, and which of its layouts nobody here could check
(``unchecked_notice``). A layout is a declaration, some thirty lines, for one of a few engines: `LabelTable` (text with
a row for every picture), `FolderTree` (folders named by class), `AnnotationFile`.

Your own pictures need no declaration: "imagefolder", "csv" and "annotations" read them; "csv:affectnet" reads a CSV
file whose labels are AffectNet's numbers. `rendered` makes faces with exact unit truth.
"""

from expllm_jax.sources.annotation_file import AnnotationFile
from expllm_jax.sources.catalogue import DATASETS, find_dataset, find_layout, read_dataset, unchecked_notice
from expllm_jax.sources.dataset import Dataset, Engine, Layout, Problems, Reading, raise_first
from expllm_jax.sources.folder_tree import FolderTree
from expllm_jax.sources.label_table import LabelTable
from expllm_jax.sources.pixel_table import write_fer2013_pictures
from expllm_jax.sources.side_files import JoinedTable, SideFile
from expllm_jax.sources.table import Header, Table

__all__ = [
    "DATASETS",
    "AnnotationFile",
    "Dataset",
    "Engine",
    "FolderTree",
    "Header",
    "JoinedTable",
    "LabelTable",
    "Layout",
    "Problems",
    "Reading",
    "SideFile",
    "Table",
    "find_dataset",
    "find_layout",
    "raise_first",
    "read_dataset",
    "unchecked_notice",
    "write_fer2013_pictures",
]
