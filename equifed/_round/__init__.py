from .state import Beginning as Beginning, State as State
