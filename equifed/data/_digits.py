"""The embedded dataset: small, real, with real clients, and always there."""

import importlib.resources

import numpy as np

from ._dataset import FederatedDataset


def digits() -> FederatedDataset:
    """The 1,797 handwritten digits of scikit-learn's `load_digits`, by writer.

    14 people each filled in a form of about 130 digits. An image has 8x8 pixels, each
    an integer from 0 to 16. scikit-learn does not say who wrote which digit; the forms
    were told apart by the sequence of their labels, which repeats from one to the next.

    The data are the test part of *Optical Recognition of Handwritten Digits* (UCI
    Machine Learning Repository, set 80), by E. Alpaydin and C. Kaynak, under the
    licence CC BY 4.0.

    **Returns:**

    A dataset of 14 clients with the columns `image` (`uint8`, 8x8) and `label`
    (`int32`).

    ??? cite "Reference"

        ```bibtex
        @misc{alpaydin1998optical,
            title={Optical Recognition of Handwritten Digits},
            author={Alpaydin, E. and Kaynak, C.},
            howpublished={UCI Machine Learning Repository},
            year={1998},
            doi={10.24432/C50P49},
        }
        ```
    """
    file = importlib.resources.files("equifed.data") / "digits.parquet"
    with importlib.resources.as_file(file) as path:
        dataset = FederatedDataset.from_parquet(path, by="client_id")
    return dataset.map(
        lambda columns: {
            "image": columns["image"].reshape(-1, 8, 8),
            "label": columns["label"].astype(np.int32),
        }
    )
