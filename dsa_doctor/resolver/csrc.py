"""Layer 1: does the wheel carry compiled code for this GPU, and for every op that a DSA model needs?"""

from dsa_doctor.catalog.capability import code_runs_on
from dsa_doctor.catalog.ops import DSA_OPS, Role
from dsa_doctor.facts.schema import Csrc, ExtensionModule, OpCode
from dsa_doctor.installation import this_installation
from dsa_doctor.resolver.judgement import Judged, Judgement, finding, judged
from dsa_doctor.verdict.schema import Finding, Status

_NEEDS = {need.op: need for need in DSA_OPS}
_SEED_OP = "_C::dsv3_fused_a_gemm"
_V4_PLAIN_ROWS = "_C::fused_deepseek_v4_qnorm_rope_kv_rope_full_cache_bf16_insert"
"""Stores the rows that DeepSeek-V4 has under the plugin; elsewhere a cache of packed rows does without it."""
_REINSTALL = "pip install --force-reinstall --no-deps vllm"


def judge_csrc(case: Judgement) -> Judged:
    """Judge layer 1 from the installed files."""
    csrc = case.facts.csrc.value
    if csrc is None:
        cause = case.facts.csrc.cause
        summary = f"vLLM's compiled extensions could not be read: {cause}."
        found = finding("DSA105", "unknown", summary, evidence=case.facts.csrc.evidence)
        return judged("csrc", "unknown", summary, (found,))
    csrc = _of_family(case, csrc)
    problems = [
        *_missing_extensions(csrc),
        *_broken(csrc),
        *_unresolved_symbols(csrc),
        *_foreign_code(case, csrc),
        *_ops_without_code(case, csrc),
        *_unregistered(csrc),
    ]
    if problems:
        return judged("csrc", "unresolved", problems[0].summary, tuple(problems))
    unseen = _unseen_ops(case, csrc) + _unrecognised_gate(case, csrc)
    if unseen:
        return judged("csrc", "unknown", unseen[0].summary, tuple(unseen))
    carried = _code_for_target(case, csrc)
    others = (_registered(case, csrc), *_broken_elsewhere(csrc))
    guarded = _without_code(case, csrc, "guarded")
    if not guarded:
        reason = f"The wheel carries code for {case.gpu}, and every op a DSA model needs has it."
        return judged("csrc", "native", reason, (carried, *others))
    names = _names(guarded)
    reason = f"The wheel carries code for {case.gpu}. Not needed there, and guarded by vLLM: {names}."
    evidence = tuple(
        f"{op.op}: machine code {_list(op.machine_code)}, PTX {_list(op.ptx)}; called for {_NEEDS[op.op].when}"
        for op in guarded
    )
    summary = f"No code for {case.gpu}, and not called there: {names}."
    not_needed = finding("DSA104", "pass", summary, evidence=evidence)
    return judged("csrc", "upstream", reason, (carried, not_needed, *others))


def _names(ops: list[OpCode]) -> str:
    """Return the ops' bare names, the one that the seed issue is about first."""
    return ", ".join(sorted((op.op.split("::")[1] for op in ops), key=lambda name: (not name.startswith("dsv3"), name)))


def _list(names: tuple[str, ...]) -> str:
    return ", ".join(names) or "none"


def _runs(case: Judgement, machine_code: tuple[str, ...], ptx: tuple[str, ...]) -> bool:
    return any(code_runs_on(one, "machine_code", case.capability) for one in machine_code) or any(
        code_runs_on(one, "ptx", case.capability) for one in ptx
    )


def _images(extension: ExtensionModule, kind: str) -> tuple[str, ...]:
    return tuple(image.architecture for image in extension.images if image.kind == kind)


def _of_family(case: Judgement, csrc: Csrc) -> Csrc:
    """Leave the ops that the model's family calls; what the facts hold nothing of is not found anywhere."""
    key = case.family.key if case.family is not None else ""
    held = {op.op: op for op in csrc.ops}
    wanted = [need for need in DSA_OPS if not need.families or key in need.families]
    return csrc.model_copy(update={"ops": tuple(held.get(need.op) or _nowhere(need.op) for need in wanted)})


def _nowhere(op: str) -> OpCode:
    return OpCode(op=op, extension=None, signature=None, machine_code=(), ptx=(), granularity="extension")


def _by_plugin(case: Judgement, csrc: Csrc) -> list[OpCode]:
    """Return what the plugin's path needs beyond vLLM's own."""
    served = case.gate.serves and case.family is not None and case.family.key in ("deepseek_v4", "deepseek_v41")
    return [op for op in csrc.ops if served and op.op == _V4_PLAIN_ROWS]


def _with_role(csrc: Csrc, role: Role) -> list[OpCode]:
    return [op for op in csrc.ops if _NEEDS[op.op].role == role]


def _required(csrc: Csrc) -> list[ExtensionModule]:
    """Return the extensions that hold an op which a DSA model needs."""
    holders = {op.extension for op in _with_role(csrc, "required")}
    return [one for one in csrc.extensions if one.module in holders]


def _missing_extensions(csrc: Csrc) -> list[Finding]:
    """A namespace none of whose ops is in any file: its extension is missing."""
    found = []
    for namespace in sorted({op.op.split("::")[0] for op in _with_role(csrc, "required")}):
        ops = [op for op in _with_role(csrc, "required") if op.op.startswith(f"{namespace}::")]
        if all(op.extension is None for op in ops):
            summary = f"No compiled extension of this vLLM holds the ops of {namespace}."
            evidence = tuple(f"{one.module}: {one.problem or 'read'}" for one in csrc.extensions) or ("none found",)
            found.append(finding("DSA105", "fail", summary, evidence=evidence, remedy=(_REINSTALL,)))
    return found


def _unseen_ops(case: Judgement, csrc: Csrc) -> list[Finding]:
    needed = _with_role(csrc, "required") + _by_plugin(case, csrc)
    unseen = [op for op in needed if op.extension is None]
    if not unseen:
        return []
    summary = f"Ops that a DSA model needs were not found in this vLLM, which may have renamed them: {_names(unseen)}."
    return [finding("DSA102", "unknown", summary, remedy=(this_installation().upgrade,))]


def _ungated(case: Judgement, csrc: Csrc) -> list[OpCode]:
    """Return the op of the seed issue where this vLLM calls it without asking the capability."""
    fingerprint = case.facts.fingerprint.value
    if fingerprint is None or fingerprint.dsv3_fused_a_gemm_gate != "none":
        return []
    return [op for op in _without_code(case, csrc, "guarded") if op.op == _SEED_OP]


def _unrecognised_gate(case: Judgement, csrc: Csrc) -> list[Finding]:
    fingerprint = case.facts.fingerprint.value
    if fingerprint is None or fingerprint.dsv3_fused_a_gemm_gate != "unrecognised":
        return []
    if all(op.op != _SEED_OP for op in _without_code(case, csrc, "guarded")):
        return []
    summary = f"dsv3_fused_a_gemm has no code for {case.gpu}, and whether this vLLM guards its call was not recognised."
    return [finding("DSA104", "unknown", summary, remedy=(this_installation().upgrade,))]


def _broken(csrc: Csrc) -> list[Finding]:
    return [_damage(one, "fail") for one in csrc.extensions if one.problem and _is_central(one)]


def _broken_elsewhere(csrc: Csrc) -> list[Finding]:
    return [_damage(one, "warn") for one in csrc.extensions if one.problem and not _is_central(one)]


def _is_central(extension: ExtensionModule) -> bool:
    """Whether it is one of vllm._C* and vllm._moe_C*, which hold the ops of every model."""
    package, _, name = extension.module.rpartition(".")
    return package == "vllm" and name.startswith(("_C", "_moe_C"))


def _damage(extension: ExtensionModule, status: Status) -> Finding:
    summary = f"The compiled extension {extension.module} is damaged: {extension.problem}."
    return finding("DSA105", status, summary, evidence=(extension.file,), remedy=(_REINSTALL,))


def _unresolved_symbols(csrc: Csrc) -> list[Finding]:
    found = []
    for extension in _required(csrc):
        if extension.unresolved_symbols:
            shown = extension.unresolved_symbols[:8]
            summary = (
                f"{extension.module} needs {len(extension.unresolved_symbols)} symbols that nothing provides "
                f"({shown[0]}{', ...' if len(extension.unresolved_symbols) > 1 else ''}): it cannot be loaded."
            )
            remedy = (
                f"{_REINSTALL}   # a stock wheel is built with every op",
                "source build: add 9.0a and 10.0f to TORCH_CUDA_ARCH_LIST",
            )
            found.append(finding("DSA103", "fail", summary, evidence=shown, remedy=remedy))
    return found


def _foreign_code(case: Judgement, csrc: Csrc) -> list[Finding]:
    found = []
    for extension in _required(csrc):
        machine_code, ptx = _images(extension, "machine_code"), _images(extension, "ptx")
        if (machine_code or ptx) and not _runs(case, machine_code, ptx):
            summary = f"{extension.module} carries no code for {case.gpu}: no kernel image is available."
            evidence = (f"machine code: {_list(machine_code)}", f"PTX: {_list(ptx)}")
            remedy = ("install a wheel or image of vLLM that is built for this GPU",)
            found.append(finding("DSA101", "fail", summary, evidence=evidence, remedy=remedy))
    return found


def _ops_without_code(case: Judgement, csrc: Csrc) -> list[Finding]:
    plugin = [op for op in _by_plugin(case, csrc) if op.extension and not _runs(case, op.machine_code, op.ptx)]
    lacking = _without_code(case, csrc, "required") + _ungated(case, csrc) + plugin
    if not lacking:
        return []
    evidence = tuple(f"{op.op}: machine code {_list(op.machine_code)}, PTX {_list(op.ptx)}" for op in lacking)
    names = ", ".join(op.op for op in lacking)
    summary = f"{len(lacking)} ops that a DSA model needs have no code for {case.gpu}: {names}."
    remedy = ("install a wheel or image of vLLM that is built for this GPU",)
    return [finding("DSA102", "fail", summary, evidence=evidence, remedy=remedy)]


def _unregistered(csrc: Csrc) -> list[Finding]:
    lacking = tuple(
        op.op for op in _with_role(csrc, "required") if op.registered_for_cuda is False or op.implemented is False
    )
    if not lacking:
        return []
    summary = f"torch has no CUDA implementation of {', '.join(lacking)}: a schema alone is registered."
    return [finding("DSA106", "fail", summary, evidence=lacking, remedy=(_REINSTALL,))]


def _registered(case: Judgement, csrc: Csrc) -> Finding:
    confirmed = [op for op in csrc.ops if op.registered_for_cuda]
    if not confirmed:
        cause = csrc.dispatcher.cause or "no op was confirmed"
        summary = f"torch's dispatcher could not be asked, so the files alone are judged: {cause}."
        local = case.target.is_elsewhere
        return finding("DSA106", "skip", summary, evidence=csrc.dispatcher.evidence, judge_only=local)
    summary = f"torch has CUDA implementations of {len(confirmed)} of the {len(csrc.ops)} ops looked at."
    return finding("DSA106", "pass", summary)


def _code_for_target(case: Judgement, csrc: Csrc) -> Finding:
    evidence = tuple(
        f"{one.module}: machine code {_list(_images(one, 'machine_code'))}; PTX {_list(_images(one, 'ptx'))}"
        for one in _required(csrc)
    )
    return finding("DSA101", "pass", f"The compiled extensions carry code for {case.gpu}.", evidence=evidence)


def _without_code(case: Judgement, csrc: Csrc, role: Role) -> list[OpCode]:
    return [
        op for op in _with_role(csrc, role) if op.extension is not None and not _runs(case, op.machine_code, op.ptx)
    ]
