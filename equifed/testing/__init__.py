from ._conformance import (
    check_reaches_optimum as check_reaches_optimum,
    fedavg_fixed_point as fedavg_fixed_point,
    run as run,
)
from ._laws import (
    LAWS as LAWS,
    check_laws as check_laws,
)
from ._problems import (
    Linear as Linear,
    Point as Point,
    Quadratics as Quadratics,
    noisy_loss as noisy_loss,
    quadratic_loss as quadratic_loss,
    ragged_clients as ragged_clients,
)
