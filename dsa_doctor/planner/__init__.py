"""The memory plan of a launch: weights, KV cache and reserve per GPU, what fits, and what would.

Everything here is a pure function of a model's geometry, the hardware and the options; only `headers` reads files.
"""

from dsa_doctor.planner.checkpoint import Checkpoint, checkpoint_of
from dsa_doctor.planner.headers import HeaderError, stored_tensors
from dsa_doctor.planner.local import checkpoint_at_hand
from dsa_doctor.planner.parallel import Parallel
from dsa_doctor.planner.plan import Hardware, Line, Plan, PlanOptions, plan
from dsa_doctor.planner.shapes import Shape, nearest_shapes
from dsa_doctor.planner.weights import parameter_count

__all__ = [
    "Checkpoint",
    "Hardware",
    "HeaderError",
    "Line",
    "Parallel",
    "Plan",
    "PlanOptions",
    "Shape",
    "checkpoint_at_hand",
    "checkpoint_of",
    "nearest_shapes",
    "parameter_count",
    "plan",
    "stored_tensors",
]
