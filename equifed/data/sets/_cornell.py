"""Cornell's movie dialogues by character: what they say."""

import re

import numpy as np

from ..._check import checked
from ..._words import shown
from .._dataset import FederatedDataset
from ._cite import card
from ._load import Files, load


card(
    "cornell_movie_dialogs",
    source="https://www.cs.cornell.edu/~cristian/Cornell_Movie-Dialogs_Corpus.html",
    licence="unknown: none is given",
    bibtex="""
@inproceedings{danescu2011chameleons,
  title={Chameleons in imagined conversations: A new approach to understanding
    coordination of linguistic style in dialogs},
  author={Danescu-Niculescu-Mizil, Cristian and Lee, Lillian},
  booktitle={Workshop on Cognitive Modeling and Computational Linguistics, ACL},
  year={2011},
}
""",
)

_BETWEEN = " +++$+++ "
_MARKUP = re.compile(r"</?[A-Za-z]+>")
_NUMBER = re.compile(r"[0-9]+(?:[.,:][0-9]+)*")
_TOKENS = re.compile(r"NUMERIC|[^\W\d_]+(?:'[^\W\d_]+)*")


@checked()
def cornell_movie_dialogs(
    *, data_files: Files | None = None, streaming: bool = False
) -> FederatedDataset:
    """Cornell's movie dialogues: 304,713 lines of 9,035 characters of 617 movies.

    Loads the corpus's `movie_lines.txt`, of which `spawn99/CornellMovieDialogCorpus`
    has a copy. Texts are in lower case, without punctuation, and with `NUMERIC` for
    numbers; lines without a word, or with a script's `CONTINUED:`, are left out.

    !!! example

        ```python
        clients = eqf.data.sets.cornell_movie_dialogs()
        vocabulary = eqf.data.sets.word_vocabulary(clients, 10_000)
        clients = eqf.data.sets.next_words(clients, vocabulary)
        ```

    **Arguments:**

    - `data_files`: Copies of that file, which are read instead.
    - `streaming`: Whether to read it without making `datasets`' own copy.

    **Returns:**

    A dataset with the columns `text` (the words, with spaces between), `name` and
    `movie`, by the character's number, `u0` and so on. What is known of their gender is
    in another file.

    **Raises:**

    `ValueError` if a line has not the five parts that it is to have, with its number.
    """
    rows = load(
        "spawn99/CornellMovieDialogCorpus",
        {"text": "text"},
        split="train",
        data_files=data_files,
        streaming=streaming,
        default_files="movie_lines.txt",
        encoding="iso-8859-1",
    )
    columns: dict[str, list[str]] = {"text": [], "name": [], "movie": []}
    owners = []
    for row, line in enumerate(rows):
        parts = line["text"].split(_BETWEEN, 4)
        if len(parts) == 4 and parts[3].endswith(_BETWEEN.rstrip()):
            continue  # a line in which nothing is said
        if len(parts) != 5 or not parts[1].strip():
            raise ValueError(
                f"Row {row} of the movie lines must have five parts, a number, a "
                "character, a movie, a name and a text, with '+++$+++' between, got "
                f"{shown(line['text'])}."
            )
        _, character, movie, name, said = parts
        said = _MARKUP.sub(" ", said).lower()
        words = _TOKENS.findall(_NUMBER.sub(" NUMERIC ", said))
        if words and "CONTINUED:" not in parts[4]:
            owners.append(character.strip())
            columns["text"].append(" ".join(words))
            columns["name"].append(name.strip())
            columns["movie"].append(movie.strip())
    if len(owners) == 0:
        raise ValueError("The movie lines are empty: there is no word in them.")
    arrays = {name: np.array(values, object) for name, values in columns.items()}
    return FederatedDataset.from_arrays(arrays, by=owners)
