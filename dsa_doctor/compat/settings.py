"""Which environment variables change what vLLM does on the DSA path, and how it reads VLLM_PLUGINS."""

import ast
import re
from collections.abc import Mapping

from dsa_doctor.compat.sources import SourceTree

ENVS = "vllm.envs"
PLUGINS = "vllm.plugins"

PLUGIN_MODE = "DSA_DOCTOR_PLUGIN"
ALLOWED_PLUGINS = "VLLM_PLUGINS"
BREAKABLE_GRAPHS = "VLLM_USE_BREAKABLE_CUDAGRAPH"
"""vLLM sets it to 1 for models whose steps branch on the host; another value asks for whole graphs."""
BATCH_INVARIANT = "DSA_DOCTOR_BATCH_INVARIANT"
VLLM_BATCH_INVARIANT = "VLLM_BATCH_INVARIANT"
"""vLLM reads it as a number, and takes any but 0 for on."""
WITHOUT_DENSE_PREFILL = "sparse_mla_force_mqa"
"""Of vLLM's AttentionConfig. Unless set, the longest prompt of a step decides whether all are prefilled densely."""
ALWAYS = (
    PLUGIN_MODE,
    BATCH_INVARIANT,
    ALLOWED_PLUGINS,
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",
    "TRITON_OVERRIDE_ARCH",
)
"""Looked at whatever this vLLM reads."""

_SELECTS = re.compile(
    r"VLLM_(?!ROCM|CPU|XPU|TPU|ZENTORCH|HUMMING|RUST|LORA|NCCL|NIC|MEDIA|VIDEO|AUDIO)\w*?"
    r"(?:ATTENTION|ATTN|BACKEND|BATCH_INVARIANT|CUBIN|CUDAGRAPH|DEEP_GEMM|DISABLED_KERNELS|DSV4|FLASHINFER|FLASHMLA|"
    r"FLASH_MLA|HW_AGNOSTIC|INDEXER|KERNEL|KV_CACHE_LAYOUT|MARLIN|MLA|TRITON|USE_V1|USE_V2)"
)
_HOLDS_NO_CHOICE = re.compile(r"_(?:DIR|PATH|ROOT|URL|KEY|CACHE|TIMEOUT_\w+|MB|GB|TTL_\w+)\Z")


def known_variables(tree: SourceTree) -> frozenset[str]:
    """Return every variable that this vLLM's envs.py reads; empty where the file is not as expected."""
    text = tree.text(ENVS) or ""
    try:
        statements = ast.parse(text).body
    except SyntaxError:
        return frozenset()
    for statement in statements:
        if not isinstance(statement, ast.Assign | ast.AnnAssign) or not isinstance(statement.value, ast.Dict):
            continue
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        if any(isinstance(one, ast.Name) and one.id == "environment_variables" for one in targets):
            keys = (key.value for key in statement.value.keys if isinstance(key, ast.Constant))
            return frozenset(key for key in keys if isinstance(key, str))
    return frozenset()


def selects(name: str) -> bool:
    """Whether a variable of vLLM's, by its name, selects kernels, backends or layouts on CUDA."""
    return _SELECTS.match(name) is not None and _HOLDS_NO_CHOICE.search(name) is None


def changes_answers(name: str) -> bool:
    """Whether a variable may change what is found: it belongs to one process and says nothing about another's."""
    return name in ALWAYS or selects(name)


def plugins_by_name(tree: SourceTree) -> bool | None:
    """Whether VLLM_PLUGINS, once set, lets vLLM load what it names and no more; None where that is not recognised.

    Names are separated by commas and compared as they stand, blanks included.
    """
    text = tree.text(ENVS) or ""
    split = re.search(r'os\.environ\["VLLM_PLUGINS"\]\.split\(","\)', text)
    rule = "if allowed_plugins is None or plugin.name in allowed_plugins"
    return True if split and tree.mentions(PLUGINS, "load_plugins_by_group", rule) else None


def allows(setting: str | None, plugin: str) -> bool:
    """Whether a value of VLLM_PLUGINS (None: unset) lets vLLM load the plugin of that name."""
    return setting is None or plugin in setting.split(",")


def vllm_is_batch_invariant(variables: Mapping[str, str]) -> bool:
    """Whether vLLM's own batch-invariant mode is on; what it refuses to read is not."""
    try:
        return int(variables.get(VLLM_BATCH_INVARIANT, "0")) != 0
    except ValueError:
        return False


def batch_invariant(variables: Mapping[str, str]) -> bool:
    """Whether the plugin keeps a token's result from depending on its batch: its own variable, else vLLM's mode.

    Raises:
        ValueError: DSA_DOCTOR_BATCH_INVARIANT is neither 0 nor 1.
    """
    asked = variables.get(BATCH_INVARIANT, "").strip()
    if asked not in ("", "0", "1"):
        raise ValueError(
            f"{BATCH_INVARIANT}={asked!r} is not known. Accepted: 0, 1; unset, it follows {VLLM_BATCH_INVARIANT}."
        )
    return asked == "1" if asked else vllm_is_batch_invariant(variables)
