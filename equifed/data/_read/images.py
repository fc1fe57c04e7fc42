"""From a chunk of encoded images to an array, decoded as `datasets` decodes them.

The feature itself does the decoding, so that orientation, palettes, transparency and
16 bits come out as in `np.asarray(dataset[i]["image"])`. Images lie in one array, so
they need one size; and one mode, because two modes may have the same shape and yet
mean different things.

Only bytes are decoded. A path in a table is what somebody wrote there, and may name
any file of this machine.
"""

import functools
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from jaxtyping import Int


# The numbers of rows.
Rows: TypeAlias = range | Int[np.ndarray, " _"]


class Images:
    """Decodes one column, chunk after chunk, all like the first image."""

    def __init__(self, name: str, feature):
        self.name = name
        self.feature = feature
        self.first: tuple[str, tuple[int, ...], str] | None = None

    def __call__(self, chunk, rows: Rows, where: Callable[[int], str]) -> np.ndarray:
        if not self.feature.decode:
            raise ValueError(
                f"Column {self.name!r} is to stay encoded (`Image(decode=False)`), "
                "which is no array. Have it decoded with "
                f"`dataset.cast_column({self.name!r}, datasets.Image())`, or leave it "
                "out with `columns=...`."
            )
        out = np.empty(0, np.uint8)
        for i, value in enumerate(chunk):
            place = functools.partial(where, int(rows[i]))
            image = self._decode(value.as_py(), place)
            if i == 0:
                out = np.empty((len(chunk), *image.shape), image.dtype)
            out[i] = image
        return out

    def _decode(self, value: dict, place: Callable[[], str]) -> np.ndarray:
        if value["bytes"] is None:
            raise ValueError(
                f"Column {self.name!r} has no image in {place()}, only the path "
                f"{_short(value['path'])}, and files that data names are not opened. "
                "Embed them first: `dataset.with_format('arrow').map(datasets.table."
                "embed_table_storage, batched=True)`, or of a stream make arrays: "
                f"`dataset.map(lambda row: {{{self.name!r}: "
                f"np.asarray(row[{self.name!r}])}})`."
            )
        self._need_pillow()
        try:
            image = self.feature.decode_example({**value, "path": None})
            mode, array = image.mode, np.asarray(image)
        except Exception as error:
            raise ValueError(
                f"Column {self.name!r} has an image that cannot be decoded in "
                f"{place()} ({type(error).__name__}). Drop that row "
                "(`dataset.filter(...)`), or replace its image."
            ) from error
        if self.first is None:
            self.first = (mode, array.shape, place())
        if (mode, array.shape) != self.first[:2]:
            raise self._differs(mode, array.shape, place())
        return array

    def _differs(self, mode: str, shape: tuple[int, ...], place: str) -> ValueError:
        assert self.first is not None
        first_mode, first_shape, first_place = self.first
        if mode != first_mode:
            return ValueError(
                f"Column {self.name!r} has images of different modes: "
                f"{_MODES.get(first_mode, first_mode)} in {first_place}, "
                f"{_MODES.get(mode, mode)} in {place}. Convert them to one "
                f"(`dataset.cast_column({self.name!r}, datasets.Image(mode='RGB'))`, "
                "or `mode='L'` for grey)."
            )
        return ValueError(
            f"Column {self.name!r} has images of different sizes: {first_shape} in "
            f"{first_place}, {shape} in {place}. Resize them to one size "
            "first (`dataset.map(...)`)."
        )

    def _need_pillow(self) -> None:
        try:
            import PIL.Image  # noqa: F401
        except ImportError as error:
            raise ImportError(
                f"Column {self.name!r} holds encoded images, and decoding them needs "
                "Pillow: `pip install 'equifed[images]'`."
            ) from error


_MODES = {
    "1": "black and white (mode '1')",
    "L": "grey (mode 'L')",
    "LA": "grey with transparency (mode 'LA')",
    "P": "a palette (mode 'P')",
    "RGB": "colour (mode 'RGB')",
    "RGBA": "colour with transparency (mode 'RGBA')",
}


def _short(path: str | None) -> str:
    text = str(path)
    return repr(text if len(text) <= 60 else "..." + text[-57:])
