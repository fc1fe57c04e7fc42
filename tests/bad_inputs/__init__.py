"""Bad inputs over the whole public surface: `{name: {case: (call, error, words)}}`.

A name is a public one, or one of its methods. `python -m tests.bad_inputs` makes every
call as a user's program would, and prints a line of JSON for each.
"""

from . import algorithms, data, methods, others, parts, running


TABLE: dict[str, dict[str, tuple]] = {}
for _part in (algorithms, parts, running, data, others, methods):
    for _name, _cases in _part.TABLE.items():
        TABLE.setdefault(_name, {}).update(_cases)
