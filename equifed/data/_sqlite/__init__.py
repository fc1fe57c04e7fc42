"""From the SQLite files of FedJAX and of TensorFlow Federated to a dataset.

Both keep clients' examples as blobs, one a client or one an example. The files are
opened for reading only, with Python's own `sqlite3`. A row that is damaged is named,
with its client: the blobs have no checksum, so what is said here is all one learns.
"""

from .fedjax import from_fedjax_sqlite as from_fedjax_sqlite
from .tff import from_tff_sqlite as from_tff_sqlite
