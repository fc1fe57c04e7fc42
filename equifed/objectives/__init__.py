"""Objectives with known optima, as federated problems."""

from ._base import AbstractObjective as AbstractObjective
from ._least_squares import LeastSquares as LeastSquares
from ._logistic import LogisticRegression as LogisticRegression
from ._problem import FederatedProblem as FederatedProblem
from ._quadratic import mean_quadratic as mean_quadratic, Quadratic as Quadratic
from ._random import (
    random_least_squares as random_least_squares,
    random_logistic as random_logistic,
    random_quadratics as random_quadratics,
)
