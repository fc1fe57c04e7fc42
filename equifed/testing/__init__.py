from ._conformance import (
    check_reaches_optimum as check_reaches_optimum,
    fedavg_fixed_point as fedavg_fixed_point,
    run as run,
)
from ._laws import (
    check_laws as check_laws,
    LAWS as LAWS,
)
from ._problems import (
    Linear as Linear,
    noisy_loss as noisy_loss,
    Point as Point,
    quadratic_loss as quadratic_loss,
    Quadratics as Quadratics,
    ragged_clients as ragged_clients,
)
