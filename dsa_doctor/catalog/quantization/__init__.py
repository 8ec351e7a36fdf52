"""How a checkpoint stores its weights, read from the quantisation part of its configuration."""

from dsa_doctor.catalog.quantization.formats import Size, WeightFormat
from dsa_doctor.catalog.quantization.read import kv_cache_quantization, method_name, read_quantization
from dsa_doctor.catalog.quantization.rules import Quantization, Rule

__all__ = ["Quantization", "Rule", "Size", "WeightFormat", "kv_cache_quantization", "method_name", "read_quantization"]
