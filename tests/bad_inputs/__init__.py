"""Bad inputs over the whole public surface: `{name: {case: (call, error, words)}}`.

A name is a public one, or one of its methods; the words that an error must have are
text, or a pattern. `python -m tests.bad_inputs` makes every call as a user's program
would, and prints a line of JSON for each.
"""

from . import (
    algorithms,
    arrivals,
    attacks,
    clocks,
    compared,
    compression,
    criteria,
    data,
    data_made,
    decoders,
    deployed,
    low_rank,
    measures,
    memories,
    methods,
    more_data,
    of_models,
    of_recipes,
    others,
    own_models,
    partitions,
    parts,
    passes,
    personal,
    private,
    robust,
    running,
    selection,
    sets,
    stateful,
    stops,
)


_PARTS = (
    algorithms,
    arrivals,
    attacks,
    clocks,
    compared,
    compression,
    criteria,
    data,
    data_made,
    decoders,
    deployed,
    low_rank,
    measures,
    memories,
    methods,
    more_data,
    of_models,
    of_recipes,
    others,
    own_models,
    partitions,
    parts,
    passes,
    personal,
    private,
    robust,
    running,
    selection,
    sets,
    stateful,
    stops,
)
TABLE: dict[str, dict[str, tuple]] = {}
for _part in _PARTS:
    for _name, _cases in _part.TABLE.items():
        _known = TABLE.setdefault(_name, {})
        assert not _known.keys() & _cases, f"{_name}: two cases of one name."
        _known.update(_cases)
