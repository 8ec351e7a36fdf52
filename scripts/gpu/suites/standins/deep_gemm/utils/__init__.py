"""DeepGEMM's own quantisation helpers, without the layout and distributed parts, which need its compiled module."""

from importlib import import_module
from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)

_math = import_module("deep_gemm.utils.math")
ceil_div = _math.ceil_div
per_custom_dims_cast_to_fp8 = _math.per_custom_dims_cast_to_fp8
