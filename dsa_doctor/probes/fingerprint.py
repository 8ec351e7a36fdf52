"""Reads what the installed vLLM's sources do on the DSA path, without importing them."""

import time

from dsa_doctor.compat import model_classes, rules, settings
from dsa_doctor.compat.families import FAMILIES
from dsa_doctor.compat.families.deepseek_v4 import windows_by_yarn
from dsa_doctor.compat.families.glm5_next import open_pools_keep_drafts, pool_faults
from dsa_doctor.compat.own_attention import family_needs, own_attention
from dsa_doctor.compat.quantization import quantization_support
from dsa_doctor.compat.sources import SourceTree
from dsa_doctor.compat.triton_fp8 import triton_fp8_kernels
from dsa_doctor.facts.observation import Observation
from dsa_doctor.facts.schema import Fingerprint
from dsa_doctor.plugin.families import family_targets, patch_targets
from dsa_doctor.probes.environment import Environment
from dsa_doctor.redaction import redact


def probe(environment: Environment) -> Observation[Fingerprint]:
    """Return the fingerprint of the vLLM in `environment`; never raises."""
    start = time.monotonic()
    package = environment.package_dir("vllm")
    if package is None:
        return Observation[Fingerprint].absent("vllm is not installed")
    tree = SourceTree(package.parent)
    if tree.text(model_classes.MODEL_REGISTRY) is None:
        cause = "vllm's folder holds no model registry: not an installation of vLLM that is known here"
        return Observation[Fingerprint].unknown(cause, seconds=time.monotonic() - start)
    try:
        classes = model_classes.model_classes(tree)
        served = tuple(family for family in FAMILIES if any(one in classes for one in family.architectures))
        fingerprint = Fingerprint(
            model_classes=classes,
            sparse_mla_backends=model_classes.sparse_mla_backends(tree),
            in_tree_triton_mla_sparse="TRITON_MLA_SPARSE" in model_classes.backend_classes(tree),
            indexer_guard=rules.indexer_guard(tree),
            prefill_logits=rules.prefill_logits(tree),
            fused_indexer_q_switch=rules.fused_indexer_q_switch(tree),
            triton_fp8_kernels=triton_fp8_kernels(tree, classes),
            fp8_jit_warmup=rules.fp8_jit_warmup(tree),
            topk_persistent_gate=rules.topk_persistent_gate(tree),
            topk_backend_setting=rules.topk_backend_setting(tree),
            topk_overflow_fix=rules.topk_overflow_fix(environment.modules(tree.root)),
            kv_b_proj_int32_bug=rules.kv_b_proj_int32_bug(tree),
            dsv3_fused_a_gemm_gate=rules.dsv3_fused_a_gemm_gate(tree),
            registered=model_classes.registered(tree),
            own_attention=tuple(one for family in served if (one := own_attention(tree, family)) is not None),
            family_needs=tuple(need for family in served for need in family_needs(tree, family)),
            plugins_by_name=settings.plugins_by_name(tree),
            quantization=quantization_support(tree),
            open_pools_keep_drafts=open_pools_keep_drafts(tree),
            pool_faults=pool_faults(tree),
            windows_by_yarn=windows_by_yarn(tree),
            patch_targets=patch_targets(tree.root),
            patch_families=family_targets(),
        )
    except (OSError, SyntaxError, RecursionError) as error:
        cause = redact(f"vLLM's sources could not be read: {type(error).__name__}: {error}")
        return Observation[Fingerprint].unknown(cause, seconds=time.monotonic() - start)
    return Observation[Fingerprint].ok(fingerprint, seconds=time.monotonic() - start)


__all__ = ["probe"]
