"""Layer 1: does the wheel carry compiled code for this GPU, and for every op that a DSA model needs?"""

from dsa_doctor.catalog.capability import code_runs_on
from dsa_doctor.catalog.ops import DSA_OPS, REQUIRED_EXTENSIONS
from dsa_doctor.facts.schema import Csrc, ExtensionModule, OpCode
from dsa_doctor.resolver.judgement import Judged, Judgement, finding, judged
from dsa_doctor.verdict.schema import Finding

_ROLES = {known.op: known for known in DSA_OPS}


def judge_csrc(case: Judgement) -> Judged:
    """Judge layer 1 from the installed files."""
    csrc = case.facts.csrc.value
    if csrc is None:
        cause = case.facts.csrc.cause
        summary = f"vLLM's compiled extensions could not be read: {cause}."
        found = finding("DSA105", "unknown", summary, evidence=case.facts.csrc.evidence)
        return judged("csrc", "unknown", summary, (found,))
    problems = [
        *_missing_or_broken(csrc),
        *_unresolved_symbols(csrc),
        *_foreign_code(case, csrc),
        *_ops_without_code(case, csrc),
        *_unregistered(csrc),
    ]
    if problems:
        reason = problems[0].summary
        return judged("csrc", "unresolved", reason, tuple(problems))
    carried = _code_for_target(case, csrc)
    guarded = _without_code(case, csrc, "guarded")
    registered = _registered(csrc)
    if not guarded:
        reason = f"The wheel carries code for {case.gpu}, and every op a DSA model needs has it."
        return judged("csrc", "native", reason, (carried, *registered))
    names = ", ".join(op.op.removeprefix("_C::") for op in guarded)
    reason = f"The wheel carries code for {case.gpu}; {names} has none there, and vLLM does not call it there."
    evidence = tuple(f"{op.op}: machine code {_list(op.machine_code)}, PTX {_list(op.ptx)}" for op in guarded)
    evidence += tuple(f"{op.op}: {_ROLES[op.op].why}" for op in guarded)
    summary = f"{names} has no code for {case.gpu} and is not needed there."
    not_needed = finding("DSA104", "pass", summary, evidence=evidence)
    return judged("csrc", "upstream", reason, (carried, not_needed, *registered))


def _list(names: tuple[str, ...]) -> str:
    return ", ".join(names) or "none"


def _runs(case: Judgement, machine_code: tuple[str, ...], ptx: tuple[str, ...]) -> bool:
    return any(code_runs_on(one, "machine_code", case.capability) for one in machine_code) or any(
        code_runs_on(one, "ptx", case.capability) for one in ptx
    )


def _images(extension: ExtensionModule, kind: str) -> tuple[str, ...]:
    return tuple(image.architecture for image in extension.images if image.kind == kind)


def _required(csrc: Csrc) -> list[ExtensionModule]:
    return [one for one in csrc.extensions if one.module in REQUIRED_EXTENSIONS]


def _missing_or_broken(csrc: Csrc) -> list[Finding]:
    found = []
    present = {one.module for one in csrc.extensions}
    for name in REQUIRED_EXTENSIONS:
        if name not in present:
            summary = f"The compiled extension {name} is not in this vLLM."
            found.append(finding("DSA105", "fail", summary, remedy=("pip install --force-reinstall --no-deps vllm",)))
    for extension in _required(csrc):
        if extension.problem:
            summary = f"The compiled extension {extension.module} is damaged: {extension.problem}."
            remedy = ("pip install --force-reinstall --no-deps vllm",)
            found.append(finding("DSA105", "fail", summary, evidence=(extension.file,), remedy=remedy))
    return found


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
                "pip install --force-reinstall --no-deps vllm   # a stock wheel is built with every op",
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
    lacking = _without_code(case, csrc, "required")
    if not lacking:
        return []
    evidence = tuple(f"{op.op}: machine code {_list(op.machine_code)}, PTX {_list(op.ptx)}" for op in lacking)
    names = ", ".join(op.op for op in lacking)
    summary = f"{len(lacking)} ops that a DSA model needs have no code for {case.gpu}: {names}."
    remedy = ("install a wheel or image of vLLM that is built for this GPU",)
    return [finding("DSA102", "fail", summary, evidence=evidence, remedy=remedy)]


def _unregistered(csrc: Csrc) -> list[Finding]:
    lacking = tuple(
        op.op
        for op in csrc.ops
        if op.op in _ROLES and _ROLES[op.op].role == "required" and op.registered_for_cuda is False
    )
    if not lacking:
        return []
    summary = f"torch has no CUDA implementation of {', '.join(lacking)}: a schema alone is registered."
    remedy = ("pip install --force-reinstall --no-deps vllm",)
    return [finding("DSA106", "fail", summary, evidence=lacking, remedy=remedy)]


def _registered(csrc: Csrc) -> tuple[Finding, ...]:
    confirmed = [op for op in csrc.ops if op.registered_for_cuda]
    if not confirmed:
        cause = csrc.dispatcher.cause or "no op was confirmed"
        summary = f"torch's dispatcher could not be asked, so the files alone are judged: {cause}."
        return (finding("DSA106", "skip", summary, evidence=csrc.dispatcher.evidence),)
    summary = f"torch has CUDA implementations of {len(confirmed)} of the {len(csrc.ops)} ops looked at."
    return (finding("DSA106", "pass", summary),)


def _code_for_target(case: Judgement, csrc: Csrc) -> Finding:
    evidence = tuple(
        f"{one.module}: machine code {_list(_images(one, 'machine_code'))}; PTX {_list(_images(one, 'ptx'))}"
        for one in _required(csrc)
    )
    return finding("DSA101", "pass", f"The compiled extensions carry code for {case.gpu}.", evidence=evidence)


def _without_code(case: Judgement, csrc: Csrc, role: str) -> list[OpCode]:
    return [
        op
        for op in csrc.ops
        if op.op in _ROLES
        and _ROLES[op.op].role == role
        and op.extension is not None
        and not _runs(case, op.machine_code, op.ptx)
    ]
