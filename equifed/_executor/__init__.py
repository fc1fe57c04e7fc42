from .executor import Executor as Executor
from .participants import Outcome as Outcome, Participants as Participants
