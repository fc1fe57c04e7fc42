from .rounds import rounds as rounds
from .solution import RESULTS as RESULTS, Solution as Solution
from .train import train as train
