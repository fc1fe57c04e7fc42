"""From Arrow tables to columns.

Hugging Face datasets and parquet files are both Arrow tables. Numbers, and fixed-size
lists of numbers, are arrays already: they are viewed, never copied. What Arrow keeps
in another form (strings, images, ragged lists) is converted, once.

This is the only place that touches `datasets` and `PIL`, and with `_write.py` and
`_arrowed.py`, which go the other way, `pyarrow`. All import them when they are first
used: `import equifed` must stay cheap.
"""

from .convert import Converter as Converter, joined_chunks as joined_chunks
from .numbered import numbered as numbered, numbered_arrays as numbered_arrays
from .open import open_huggingface as open_huggingface
from .parquet import open_parquet as open_parquet
from .saved import Saved as Saved
from .source import Source as Source
from .stream import arrow_batches as arrow_batches, check_stream as check_stream
