"""Figures of federated trainings, of federated data and of objectives.

Every function draws on Matplotlib axes, yours (`ax=...`) or those of a new figure, and
returns them, so that what it does not offer is one Matplotlib call away. Nothing is
shown, and no setting of Matplotlib is changed.

The colours are those of Okabe and Ito, which colour-blind readers can tell apart too;
lines differ in dash and marker as well.
"""

from ._axes import COLOURS as COLOURS
from ._clients import (
    client_sizes as client_sizes,
    label_distribution as label_distribution,
)
from ._confusion import confusion_matrix as confusion_matrix
from ._curves import learning_curves as learning_curves
from ._gains import client_gains as client_gains
from ._objectives import (
    objective_contours as objective_contours,
    trajectory as trajectory,
)
