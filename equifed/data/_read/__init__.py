"""From Arrow tables to columns.

Hugging Face datasets and parquet files are both Arrow tables. Numbers, and fixed-size
lists of numbers, are arrays already: they are viewed, never copied. What Arrow keeps
in another form (strings, images, ragged lists) is converted, once.

This is the only place that touches `datasets`, `pyarrow` and `PIL`, and it imports
them when it is first used: `import equifed` must stay cheap.
"""

from .convert import Converter as Converter, together as together
from .open import open_huggingface as open_huggingface
from .parquet import open_parquet as open_parquet
from .source import Source as Source
from .stream import arrow_batches as arrow_batches, check_stream as check_stream
