"""Numbers of an example by which a loss reads rows: token ids and the like.

JAX reads the last row of a table for an id beyond it, and says nothing: a training goes
on, on rows that nobody asked for. Where they are is seen in the program of the loss
(`follow.py`), which columns hold such a number is seen on the host (`check.py`), and
whether it matters is tried on the examples at fault alone (`stand_in.py`). So data that
is right costs a look at the least and the greatest number of a few integer columns.
Beside the loss an algorithm may read some itself (`numbered.py`).
"""

from .check import all_fit as all_fit, Lookups as Lookups
from .follow import Read as Read
from .numbered import Among as Among, among as among, Numbered as Numbered
from .program import Program as Program, traced as traced
