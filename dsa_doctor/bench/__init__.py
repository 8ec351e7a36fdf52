"""Speed of every op at the shapes of a model: shapes (pure), gather (the GPU), report (the judgement), render."""

from dsa_doctor.bench.report import EXIT_WRONG, Report
from dsa_doctor.bench.shapes import BenchError, Load, Setting, Shape, setting_of, shapes_of

__all__ = ["EXIT_WRONG", "BenchError", "Load", "Report", "Setting", "Shape", "setting_of", "shapes_of"]
