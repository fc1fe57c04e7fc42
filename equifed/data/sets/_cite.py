"""What to cite, and under which licence a set is."""

from typing import NamedTuple

from ..._check import check_choice


class Card(NamedTuple):
    """What is said of a set by those who made it."""

    source: str
    licence: str
    bibtex: str


_CARDS: dict[str, Card] = {}


def card(name: str, *, source: str, licence: str, bibtex: str) -> None:
    """Notes a set's source, licence and citation."""
    _CARDS[name] = Card(source, licence, bibtex)


def cite(name: str) -> str:
    """What to cite when a set is used, as BibTeX, with its source and its licence.

    **Arguments:**

    - `name`: A set's name, that of its function: `"emnist"`.
    """
    check_choice("name", name, tuple(_CARDS))
    found = _CARDS[name]
    return f"% {found.source}\n% Licence: {found.licence}\n{found.bibtex.strip()}"


LEAF = """
@article{caldas2018leaf,
  title={{LEAF}: A Benchmark for Federated Settings},
  author={Caldas, Sebastian and Duddu, Sai Meher Karthik and Wu, Peter and Li, Tian and
    Kone{\\v{c}}n{\\'y}, Jakub and McMahan, H. Brendan and Smith, Virginia and
    Talwalkar, Ameet},
  journal={arXiv preprint arXiv:1812.01097},
  year={2018},
}
"""
