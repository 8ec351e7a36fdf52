import dataclasses
import importlib
import itertools
import json
import textwrap

import pytest
import torch

PREFILL = """
    import torch
    import flash_mla
    from lib import Parameters, inputs, wanted, close

    def run_test(p):
        q, kv, indices, length = inputs(p)
        out, _, lse = flash_mla.flash_mla_sparse_fwd(q, kv, indices, sm_scale=0.1, topk_length=length)
        print("Running on", p)
        reference, reference_lse = wanted(q, kv, indices, length)
        return close("out", out, reference) and close("lse", lse, reference_lse)

    if __name__ == "__main__":
        torch.cuda.set_device("cuda:0")
        small = [Parameters(tokens, seed=-1) for tokens in (1, 2)]
        testcases = small + [Parameters(3, check_correctness=False)]
        raise SystemExit("not to be run")
"""
LIB = """
    import dataclasses
    import torch

    @dataclasses.dataclass
    class Decode:
        b: int
        extra_topk: object = None

    @dataclasses.dataclass
    class Parameters:
        tokens: int
        d_qk: int = 576
        seed: int = 0
        num_runs: int = 10
        check_correctness: bool = True
        decode: object = None

    def inputs(p):
        generator = torch.Generator().manual_seed(p.seed)
        q = torch.randn((p.tokens, 8, p.d_qk), generator=generator, dtype=torch.float32).to(torch.float16)
        kv = torch.randn((40, 1, p.d_qk), generator=generator, dtype=torch.float32).to(torch.float16)
        indices = torch.randint(-1, 40, (p.tokens, 1, 24), generator=generator, dtype=torch.int32, device="cpu")
        length = torch.full((p.tokens,), 24, dtype=torch.int32)
        length[0] = 0
        return q, kv, indices, length

    def wanted(q, kv, indices, length):
        from dsa_kernels import naive_sparse_mla_fwd
        out, _, lse = naive_sparse_mla_fwd(q, kv, indices, 0.1, topk_length=length)
        return out, lse.masked_fill(lse == float("-inf"), float("inf"))

    def close(name, got, wanted):
        exact = torch.equal(got.isposinf(), wanted.isposinf())
        error = (got.double() - wanted).nan_to_num(0).abs().max().item()
        print(f"{name} error {error:.1e}")
        return exact and error < 5e-3
"""
DECODING = """
    import dataclasses
    import torch
    import flash_mla
    from lib import Parameters, Decode, inputs, wanted, close

    @dataclasses.dataclass
    class Raw:
        given: object

        def to_test_param(self):
            return self.given

    @dataclasses.dataclass
    class Result:
        is_correct: bool

    def gen_testcase():
        fitting = [Raw(Parameters(6, decode=Decode(3)))]
        return fitting + [Raw(Parameters(6, 512, decode=Decode(3))), Raw(Parameters(6, decode=Decode(3, 64)))]

    def test_flash_mla(p):
        q, kv, indices, length = inputs(p)
        length[1::2] = length[::2]
        metadata, _ = flash_mla.get_mla_metadata()
        batch, pages = p.decode.b, kv.view(5, 8, 1, p.d_qk)
        out, lse = flash_mla.flash_mla_with_kvcache(
            q.view(batch, 2, 8, -1), pages, None, None, 512, metadata, None, 0.1, False, False,
            indices.view(batch, 2, 24), topk_length=length[::2].contiguous())
        reference, reference_lse = wanted(q, kv, indices, length)
        right = close("lse", lse.transpose(1, 2).reshape(6, 8), reference_lse)
        return Result(right and close("out", out.flatten(0, 1), reference))
"""
ATTENTION = """
    import torch
    import deep_gemm
    from deep_gemm.testing import bench_kineto, calc_diff, get_arch_major
    from deep_gemm.utils import ceil_div
    from generators import generate_normal

    def test_mqa_logits():
        for rows, keys in [(3, 20), (5, 33)]:
            for compressed in (False, True):
                q = torch.randn(rows, 16, 128, device="cuda").to(torch.float8_e4m3fn)
                k = torch.randn(keys, 128, device="cuda").to(torch.float8_e4m3fn)
                scale = torch.rand(keys, device="cuda")
                weights, ks = torch.randn(rows, 16, device="cuda"), torch.zeros(rows, dtype=torch.int, device="cuda")
                ke = torch.full((rows,), keys, dtype=torch.int, device="cuda")
                named = {"max_seqlen_k": keys, "clean_logits": False} if compressed else {}
                got = deep_gemm.fp8_mqa_logits(q, (k, scale), weights, ks, ke, **named)
                score = torch.einsum("mhd,nd->hmn", q.float(), k.float()).relu() * scale
                diff = calc_diff(got, (score * weights.T[:, :, None]).sum(0))
                assert diff < 1e-3, f"{diff=}"
                bench_kineto(lambda: None, "x")
                undefined_because_it_is_never_reached

    def test_paged_mqa_logits():
        for next_n in (1, 2, 4):
            if get_arch_major() == 9 and next_n == 4:
                continue
            q = torch.randn(2, next_n, 16, 128, device="cuda").to(torch.float8_e4m3fn)
            k = torch.randn(3, 32, 128, device="cuda").to(torch.float8_e4m3fn)
            cache = torch.zeros(3, 32 * 132, dtype=torch.uint8, device="cuda")
            cache[:, : 32 * 128] = k.view(torch.uint8).view(3, -1)
            cache[:, 32 * 128 :] = torch.ones(3, 32, device="cuda").view(torch.uint8)
            weights = torch.randn(2 * next_n, 16, device="cuda")
            lengths = torch.tensor([32, 32], dtype=torch.int, device="cuda")
            tables = torch.tensor([[2], [0]], dtype=torch.int, device="cuda")
            schedule = deep_gemm.get_paged_mqa_logits_metadata(lengths, deep_gemm.get_num_sms())
            got = deep_gemm.fp8_paged_mqa_logits(
                q, cache.view(3, 32, 1, 132), weights, lengths, tables, schedule, 32, clean_logits=True)
            score = torch.einsum("bthd,bnd->bthn", q.float(), k.float()[tables[:, 0].long()]).relu()
            wanted = (score.flatten(0, 1) * weights[:, :, None]).sum(1)
            seen = got != float("-inf")
            assert ceil_div(seen.sum().item(), 1) == 2 * sum(range(33 - next_n, 33))
            assert calc_diff(got.masked_fill(~seen, 0), wanted.masked_fill(~seen, 0)) < 1e-3
            bench_kineto(lambda: None, "x")
"""
NUMERIC = """
    def calc_diff(x, y):
        x, y = x.double(), y.double()
        return 1 - 2 * (x * y).sum() / (x * x + y * y).sum()

    def count_bytes(*tensors):
        return 0
"""
UTILS = """
    import torch

    def get_arch_major():
        return torch.cuda.get_device_capability()[0]

    def ignore_env(*arguments):
        return lambda function: function
"""
MATH = """
    def ceil_div(x, y):
        return -(-x // y)

    def per_custom_dims_cast_to_fp8(*arguments):
        raise NotImplementedError
"""


@pytest.fixture
def folders(tmp_path):
    """Two small projects of our own, laid out as the real ones are."""
    files = {
        "mla/tests/test_flash_mla_sparse_prefill.py": PREFILL,
        "mla/tests/test_flash_mla_sparse_decoding.py": DECODING,
        "mla/tests/lib.py": LIB,
        "gemm/tests/test_attention.py": ATTENTION,
        "gemm/deep_gemm/testing/__init__.py": "raise ImportError",
        "gemm/deep_gemm/testing/numeric.py": NUMERIC,
        "gemm/deep_gemm/testing/utils.py": UTILS,
        "gemm/deep_gemm/utils/math.py": MATH,
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(textwrap.dedent(text))
    return tmp_path


@pytest.fixture
def outcomes(suites, folders):
    """Run everything on the CPU, or on the GPU where there is one, and return the outcomes by suite."""

    def run_all():
        run, cases = suites("run"), suites("cases")
        chosen = cases.flash_mla_cases(folders / "mla") + cases.deep_gemm_cases(folders / "gemm")
        found = {}
        with importlib.import_module("on_cpu").cuda_on_cpu():
            for one in run.run_suites(chosen, 1000, "cpu"):
                found.setdefault(one.suite, []).append(one)
        return found, run.verdict([one for members in found.values() for one in members], frozenset({cases.GEMM}))

    return run_all


def statuses(members):
    return sorted(one.status for one in members)


@pytest.fixture
def naive(monkeypatch):
    monkeypatch.setenv("DSA_SUITE_OPS", "naive")


@pytest.mark.parametrize("ops", ["naive", "kernels"])
def test_passes_skips_and_says_why(outcomes, monkeypatch, ops, on_gpu):
    if on_gpu:
        pytest.skip("the GPU machine runs the real suites")
    monkeypatch.setenv("DSA_SUITE_OPS", ops)
    found, sound = outcomes()
    assert statuses(found["FlashMLA sparse prefill"]) == ["passed", "passed", "ran"]
    assert statuses(found["FlashMLA sparse decoding"]) == ["passed", "skipped", "skipped"]
    remarks = {one.remark for one in found["FlashMLA sparse decoding"] if one.status == "skipped"}
    assert {remark.split(":")[0] for remark in remarks} == {
        "512-wide fp8 cache format (V4/MODEL1)",
        "decoding with a second (extra) cache of fp8 rows",
    }
    assert statuses(found["DeepGEMM ragged logits"]) == ["passed"] * 4
    assert all("calc_diff" in one.remark for one in found["DeepGEMM ragged logits"])
    assert statuses(found["DeepGEMM paged logits"]) == ["passed", "passed", "skipped"]
    assert statuses(found["DeepGEMM skip-head-mid GEMM"]) == ["skipped"]
    assert sound


@pytest.mark.parametrize(
    ("name", "suite"),
    [
        ("sparse_mla_fwd", "FlashMLA sparse prefill"),
        ("sparse_mla_with_kvcache", "FlashMLA sparse decoding"),
        ("fp8_mqa_logits", "DeepGEMM ragged logits"),
        ("fp8_paged_mqa_logits", "DeepGEMM paged logits"),
    ],
)
def test_a_wrong_op_fails_its_suite_alone(suites, outcomes, monkeypatch, naive, name, suite):
    routed = suites("routed")
    right = getattr(routed, name)

    def wrong(*arguments, **named):
        result = right(*arguments, **named)
        return (result[0] * 1.1, *result[1:]) if isinstance(result, tuple) else result * 1.1

    monkeypatch.setattr(routed, name, wrong)
    found, sound = outcomes()
    assert not sound
    assert {one.suite for members in found.values() for one in members if one.status == "failed"} == {suite}
    failed = next(one for one in found[suite] if one.status == "failed")
    assert "error" in failed.remark or "diff" in failed.remark or "test_attention.py" in failed.remark


def test_the_stand_ins_lse_is_plus_infinity_where_nothing_is_valid(suites, naive, monkeypatch):
    monkeypatch.syspath_prepend(str(suites("loading").STAND_INS))
    q, kv = torch.randn(2, 4, 576), torch.randn(8, 1, 576)
    indices = torch.tensor([[[-1, 99]], [[3, -1]]], dtype=torch.int32)
    _, max_logits, lse = suites("flash_mla").flash_mla_sparse_fwd(q, kv, indices, 0.1)
    assert lse[0].isposinf().all()
    assert max_logits[0].isneginf().all()
    assert lse[1].isfinite().all()


def test_the_stand_ins_refuse_what_our_ops_do_not_compute(suites, naive, monkeypatch):
    monkeypatch.syspath_prepend(str(suites("loading").STAND_INS))
    call, refused = suites("flash_mla").flash_mla_with_kvcache, suites("routed").UnsupportedError
    q, cache = torch.zeros(1, 1, 4, 576), torch.zeros(2, 64, 1, 656, dtype=torch.uint8)
    indices = torch.zeros(1, 1, 4, dtype=torch.int32)
    with pytest.raises(refused, match="dense"):
        call(q, cache, None, None, 512, None)
    with pytest.raises(refused, match="extra"):
        call(q, cache, None, None, 512, None, is_fp8_kvcache=True, indices=indices, extra_k_cache=cache)
    with pytest.raises(refused, match="584 bytes"):
        call(q, cache[..., :584], None, None, 512, None, is_fp8_kvcache=True, indices=indices)


@pytest.mark.parametrize("count", [1, 2, 7, 64, 393])
def test_every_beginning_of_the_order_is_spread_evenly(suites, count):
    order = suites("run").spread(count)
    assert sorted(order) == list(range(count))
    quarter = sorted(order[: max(2, count // 4)])
    assert count < 8 or max(b - a for a, b in itertools.pairwise(quarter)) <= count // 4 + 8


def test_verdict(suites):
    run = suites("run")
    passed, failed = run.Outcome("a", "x", "passed"), run.Outcome("a", "y", "failed")
    unreached = run.Outcome("b", "z", "not reached")
    nothing = frozenset()
    assert run.verdict([passed], nothing)
    assert not run.verdict([], nothing)
    assert not run.verdict([passed, failed], nothing)
    assert not run.verdict([passed, unreached], nothing)
    assert run.verdict([passed, unreached], frozenset({"b"}))


def test_a_suite_stops_when_its_time_is_over(suites):
    run, cases = suites("run"), suites("cases")
    chosen = [cases.Case("suite", str(number), lambda: "") for number in range(5)]
    assert statuses(run.run_suites(chosen, -1, "cpu")) == ["not reached"] * 5
    assert statuses(run.run_suites(chosen, 100, "cpu")) == ["passed"] * 5


def test_compile_jobs_are_warm_ups_that_exist(suites):
    run, cases = suites("run"), suites("cases")
    names = [
        "s_q=1 h_q=64 d_qk=576 block_size=2",
        "s_q=3 h_q=64 d_qk=576 block_size=2",
        "h_q=64 block_size=61 d_qk=576",
    ]
    chosen = [cases.Case(cases.FLASH_MLA[1], name, lambda: "") for name in names]
    chosen += [cases.Case(cases.FLASH_MLA[1], "block_size=3", lambda: "", "no op")]
    jobs = run.compile_jobs(chosen)
    assert [arguments["page_size"] for _, arguments in jobs] == [2, 61]
    assert all(run.compile_one((name, arguments | {"device": "nowhere"})) for name, arguments in jobs)


def test_the_report_names_failures(suites, tmp_path):
    run = suites("run")
    found = [
        run.Outcome("suite", "case 7", "failed", "out error 3.0"),
        run.Outcome("suite", "case 8", "skipped", "why"),
    ]
    shown = "\n".join(run.summarise(found))
    assert "FAILED suite: case 7: out error 3.0" in shown
    assert "skipped     1  suite: why" in shown
    assert json.dumps([dataclasses.asdict(one) for one in found])
