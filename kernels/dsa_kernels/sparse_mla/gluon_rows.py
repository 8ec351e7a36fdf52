"""What the Gluon kernels share: a program's part, gathering its rows into shared memory, softmax, its result."""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy

from dsa_kernels.gluon_support import copy_to_shared


@gluon.jit
def valid_length(length_ptr, token, topk, has_length):
    """Entries of a token's selection that count, within [0, topk]."""
    length = topk
    if has_length != 0:
        length = gl.load(length_ptr + token)
    return gl.minimum(gl.maximum(length, 0), topk)


@gluon.jit
def part_of_selection(
    length_ptr,
    topk,
    num_head_blocks,
    num_splits,
    has_length,
    extra_length_ptr,
    extra_topk,
    has_extra_length,
    BLOCK_N: gl.constexpr,
    EXTRA: gl.constexpr,
):
    """What this program works on, as `kernels.attend_kernel` shares it out.

    Returns:
        Number of the program, of its heads, of the part and of the token, the part's bounds in the selection, and where
        the first source ends and the second begins.
    """
    program = gl.program_id(0)
    head_block = program % num_head_blocks
    split = (program // num_head_blocks) % num_splits
    token = (program // num_head_blocks // num_splits).to(gl.int64)

    length = valid_length(length_ptr, token, topk, has_length)
    total = length
    boundary = length
    if EXTRA:
        boundary = gl.cdiv(length, BLOCK_N) * BLOCK_N
        total = boundary + valid_length(extra_length_ptr, token, extra_topk, has_extra_length)
    part = gl.cdiv(gl.cdiv(total, num_splits), BLOCK_N) * BLOCK_N
    begin = split * part
    end = gl.minimum(begin + part, total)
    return program, head_block, split, token, begin, end, length, boundary


@gluon.jit
def load_rows(selection, start, lanes, EXTRA: gl.constexpr):
    """Selected row numbers of the step that begins at `start`, -1 past the end of its source or part; [N] int32.

    selection is (indices, end of the part, indices of the second source, length of the first, where the second begins).
    """
    indices_ptr, end, extra_indices_ptr, length, boundary = selection
    positions = start + lanes
    if EXTRA:
        of_extra = start >= boundary
        indices_ptr = gl.where(of_extra, extra_indices_ptr - boundary, indices_ptr)
        end = gl.where(of_extra, end, gl.minimum(end, length))
    return gl.load(indices_ptr + positions, mask=positions < end, other=-1)


@gluon.jit
def load_first_rows(selection, begin, lanes, EXTRA: gl.constexpr):
    """`load_rows` of a part's first step, whose address is added up from the left over one cache.

    The order decides how ptxas schedules the whole kernel: with the other one it is not the code that was measured.
    """
    if EXTRA:
        rows = load_rows(selection, begin, lanes, EXTRA)
    else:
        rows = gl.load(selection[0] + begin + lanes, mask=begin + lanes < selection[1], other=-1)
    return rows


@gluon.jit
def rows_of_cache(start, num_rows, extra_num_rows, boundary, EXTRA: gl.constexpr):
    """Rows of the cache from which the step that begins at `start` selects."""
    if EXTRA:
        num_rows = gl.where(start >= boundary, extra_num_rows, num_rows)
    return num_rows


@gluon.jit
def row_starts(rows, num_rows, page_stride, row_stride, PAGE_SIZE: gl.constexpr):
    """Where `rows` ([N], sliced from a layout) start, in units of 16 bytes, and which are valid: both [N, 1]."""
    valid = (rows >= 0) & (rows < num_rows)
    wide = rows.to(gl.int64)
    if PAGE_SIZE > 0:  # noqa: SIM108 (decided when compiling)
        units = (wide // PAGE_SIZE) * page_stride + (wide % PAGE_SIZE) * row_stride
    else:
        units = wide * row_stride
    return gl.expand_dims(units, 1), gl.expand_dims(valid, 1)


@gluon.jit
def gather_rows(
    latent_ptr,
    rope_ptr,
    rows,
    num_rows,
    page_stride,
    row_stride,
    extra,
    start,
    latent,
    rope,
    LATENT: gl.constexpr,
    ROPE: gl.constexpr,
    PAGE_SIZE: gl.constexpr,
    EXTRA_PAGE_SIZE: gl.constexpr,
    COPY: gl.constexpr,
):
    """Start copying `rows` ([BLOCK_N], sliced from COPY) to shared memory, zeros where a row is not valid.

    extra is (second source, its rows, page stride and row stride, where it begins); `start` is where the step begins.
    """
    units, mask = row_starts(rows, num_rows, page_stride, row_stride, PAGE_SIZE)
    if EXTRA_PAGE_SIZE > 0:
        extra_ptr, extra_num_rows, extra_page_stride, extra_row_stride, boundary = extra
        of_extra = start >= boundary
        extra_units, extra_mask = row_starts(rows, extra_num_rows, extra_page_stride, extra_row_stride, EXTRA_PAGE_SIZE)
        latent_ptr = gl.where(of_extra, extra_ptr, latent_ptr)
        units = gl.where(of_extra, extra_units, units)
        mask = gl.where(of_extra, extra_mask, mask)
    starts = units * 8
    columns = gl.expand_dims(gl.arange(0, LATENT, layout=gl.SliceLayout(0, COPY)), 0)
    copy_to_shared(latent, latent_ptr + starts + columns, mask=mask)
    if ROPE > 0:
        rope_columns = gl.expand_dims(gl.arange(0, ROPE, layout=gl.SliceLayout(0, COPY)), 0)
        copy_to_shared(rope, rope_ptr + starts + rope_columns, mask=mask)
    async_copy.commit_group()


@gluon.jit
def softmax_step(logits, row_max, row_sum):
    """One step of the running softmax over base-2 logits [H, N], -inf for what is not valid.

    Returns:
        Weights [H, N], by how much what came before decays [H], and the new maximum and sum [H].
    """
    new_max = gl.maximum(row_max, gl.max(logits, 1))
    base = gl.where(new_max == float("-inf"), 0.0, new_max)
    weights = gl.exp2(logits - gl.expand_dims(base, 1))
    decay = gl.exp2(row_max - base)
    return weights, decay, new_max, row_sum * decay + gl.sum(weights, 1)


@gluon.jit
def write_result(
    acc,
    row_max,
    row_sum,
    sink_ptr,
    out_ptr,
    max_logits_ptr,
    lse_ptr,
    partial_ptr,
    partial_max_ptr,
    partial_sum_ptr,
    first_head,
    token,
    split,
    is_empty,
    num_heads,
    num_splits,
    has_sink,
    out_token_stride,
    out_head_stride,
):
    """Write a final result, or one part of it, as `kernels.attend_kernel` does. acc is [H, D], row_max [H]."""
    H: gl.constexpr = acc.shape[0]
    D: gl.constexpr = acc.shape[1]
    ACC: gl.constexpr = acc.type.layout
    ROWS: gl.constexpr = row_max.type.layout
    STORE: gl.constexpr = gl.BlockedLayout([1, 8], [1, 32], [gl.num_warps() // 2, 2], [1, 0])
    LN2: gl.constexpr = 0.6931471805599453
    infinity = float("inf")
    heads = first_head + gl.arange(0, H, layout=ROWS)
    is_head = heads < num_heads
    if num_splits == 1:
        sink = gl.load(sink_ptr + heads, mask=heads < num_heads * has_sink, other=0.0) * 1.4426950408889634
        base = gl.where(row_max == -infinity, 0.0, row_max)
        total = row_sum + gl.where(has_sink != 0, gl.exp2(sink - base), 0.0)
        inverse = 1.0 / gl.where(total == 0.0, 1.0, total)
        broken = row_sum != row_sum
        max_logits = gl.where(broken & (row_max < infinity), float("nan"), row_max * LN2)
        lse = gl.where(row_max == infinity, infinity, base * LN2 + gl.log(row_sum))
        scale = gl.convert_layout(inverse, gl.SliceLayout(1, ACC))
        out = gl.convert_layout((acc * gl.expand_dims(scale, 1)).to(out_ptr.dtype.element_ty), STORE)
        out_heads = first_head + gl.arange(0, H, layout=gl.SliceLayout(1, STORE))
        columns = gl.arange(0, D, layout=gl.SliceLayout(0, STORE))
        out_rows = out_ptr + token * out_token_stride * 8 + gl.expand_dims(out_heads * out_head_stride * 8, 1)
        gl.store(out_rows + gl.expand_dims(columns, 0), out, mask=gl.expand_dims(out_heads < num_heads, 1))
        gl.store(max_logits_ptr + token * num_heads + heads, max_logits, mask=is_head)
        gl.store(lse_ptr + token * num_heads + heads, lse, mask=is_head)
    else:
        first_slot = (token * num_splits + split) * num_heads
        gl.store(partial_max_ptr + first_slot + heads, row_max, mask=is_head)
        gl.store(partial_sum_ptr + first_slot + heads, row_sum, mask=is_head)
        # A part that met nothing is told by its maximum and sum; the merge then never reads its rows.
        if is_empty == 0:
            acc_heads = first_head + gl.arange(0, H, layout=gl.SliceLayout(1, ACC))
            columns = gl.arange(0, D, layout=gl.SliceLayout(0, ACC))
            slots = gl.expand_dims((first_slot + acc_heads) * D, 1)
            gl.store(
                partial_ptr + slots + gl.expand_dims(columns, 0),
                acc,
                mask=gl.expand_dims(acc_heads < num_heads, 1),
            )
