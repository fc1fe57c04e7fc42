"""Reading a stream, batch after batch, all with the same columns of the same types.

Where nobody has declared what a stream holds, Arrow takes the types from the rows as
they come: whole numbers may become fractions, a column may be missing. That must not
pass unnoticed, nor end in an error that does not say where.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TYPE_CHECKING

from ..._words import first_line, listed, shown
from .._column import check_names
from .._ids import as_id
from .parquet import difference_of


if TYPE_CHECKING:
    import datasets


BATCH = 1000


def check_stream(dataset: Any) -> None:
    """Refuses what is no stream, and one that would not be read as it is used."""
    import datasets

    if not isinstance(dataset, datasets.IterableDataset):
        raise TypeError(
            f"`dataset` must be a `datasets.IterableDataset`, got {shown(dataset)}. "
            "Of a `datasets.Dataset` make one with `dataset.to_iterable_dataset()`."
        )
    if getattr(dataset._formatting, "format_type", None) == "custom":
        raise ValueError(
            "The stream has a transform as its format (`with_transform`), which is not "
            "applied. Apply it with `dataset.map(transform, batched=True)` instead."
        )


def arrow_batches(
    dataset: "datasets.IterableDataset", names: Sequence[str] | None, by: str | None
) -> Iterator[Any]:
    """The tables of a stream, with only the named columns.

    `by` is the client column, for the words of an error.
    """
    import pyarrow as pa

    check_stream(dataset)
    # Examples that are not in Arrow's form yet are put into it one by one in any case;
    # asked for in batches, `datasets` fails where they differ, and does not say where.
    size = BATCH if dataset._ex_iterable.iter_arrow else 1
    tables = iter(dataset.with_format("arrow").iter(batch_size=size))
    first, waiting, kept, row = None, [], 0, 0
    last: Callable[[], str] = "its beginning".__str__

    def after() -> str:
        return f"{'the row' if size == 1 else f'{size} rows'} after {last()}"

    while (table := _next(tables, after, dataset.features)) is not None:
        here = functools.partial(_place, row, table, by, 0)
        row += len(table)
        end = functools.partial(_place, row - 1, table, by, -1)
        if first is None:
            check_names(names or (), table.column_names)
        if names is not None:
            table = table.select([n for n in table.column_names if n in names])
        first = table.schema if first is None else first
        difference = difference_of(table.schema, first)
        if waiting and (difference or kept + len(table) > BATCH):
            yield pa.concat_tables(waiting).combine_chunks()
            waiting, kept = [], 0
        if difference:
            raise ValueError(
                f"The columns of the stream change in {here()}: {difference} up to "
                f"{last()}. Declare their types (`features=...` where the stream is "
                "made or mapped, or `dataset.cast(...)`), or make the rows alike."
            )
        waiting.append(table.select(first.names))
        kept += len(table)
        last = end
    if waiting:
        yield pa.concat_tables(waiting).combine_chunks()


def _next(
    tables: Iterator[Any], after: Callable[[], str], features: dict[str, Any] | None
) -> Any:
    """The next table, or `None` at the end."""
    import pyarrow as pa
    from datasets.table import CastError

    try:
        return next(tables, None)
    except CastError as error:
        got, declared = error.table_column_names, error.requested_column_names
        cause, reason = (
            error,
            f"it has {listed(got)}; declared are {listed(declared)}.",
        )
    except pa.ArrowException as error:
        cause, reason = error, f"{first_line(error)}."
    except OSError as error:
        if type(error) is not OSError:
            raise  # A missing file or a network's error speaks for itself.
        cause, reason = error, f"{first_line(error)}."
    types = ", ".join(f"{n!r}: {_type(f)}" for n, f in (features or {}).items())
    types = types if len(types) <= 120 else types[:117] + "..."
    declared = f"what is declared ({types})" if types else "one and the same columns"
    raise ValueError(
        f"The stream cannot be read in {after()}{_file(cause)}: {reason} All of it "
        f"must hold {declared}; mend those rows, or declare other types "
        "(`features=...`, `dataset.cast(...)`)."
    ) from cause


def _type(feature) -> str:
    return str(getattr(feature, "dtype", type(feature).__name__))


def _file(error: BaseException) -> str:
    """The file that a reader of `datasets` had open: its errors do not say it."""
    trace, file = error.__traceback__, ""
    while trace is not None:
        frame = trace.tb_frame
        if frame.f_globals.get("__name__", "").startswith("datasets.packaged_modules"):
            file = frame.f_locals.get("file", file)
        trace = trace.tb_next
    return f", in {str(file)!r}" if file else ""


def _place(row: int, table, by: str | None, place: int) -> str:
    if by is None or by not in table.column_names:
        return f"row {row}"
    return f"row {row} of client {as_id(table.column(by)[place].as_py())!r}"
