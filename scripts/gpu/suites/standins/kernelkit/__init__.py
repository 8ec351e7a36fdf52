"""FlashMLA's own test helpers: its comparison, its generators and its small utilities, without profiling."""

from importlib import import_module
from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)

_compare = import_module("kernelkit.compare")
_generate = import_module("kernelkit.generate")
_utils = import_module("kernelkit.utils")

check_is_allclose = _compare.check_is_allclose
gen_non_contiguous_randn_tensor = _generate.gen_non_contiguous_randn_tensor
gen_non_contiguous_tensor = _generate.gen_non_contiguous_tensor
non_contiguousify = _generate.non_contiguousify
Counter, cdiv, colors = _utils.Counter, _utils.cdiv, _utils.colors
is_using_profiling_tools, set_random_seed = _utils.is_using_profiling_tools, _utils.set_random_seed
