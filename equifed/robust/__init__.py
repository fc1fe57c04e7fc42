"""Aggregators for rounds in which some clients may send anything."""

from .bucketing import Bucketing as Bucketing
from .bulyan import Bulyan as Bulyan
from .centred_clipping import CentredClipping as CentredClipping
from .divide_and_conquer import DnC as DnC
from .drop_large import DropLarge as DropLarge
from .geometric_median import GeometricMedian as GeometricMedian
from .krum import Krum as Krum
from .mixing import NearestNeighbourMixing as NearestNeighbourMixing
