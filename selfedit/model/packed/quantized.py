"""Frozen weight matrices in the precision of their file, and the products with them.

A GGUF file holds integers of 4 to 8 bits with a scale per 16 or 32 values; fp32 copies of them would take 4 to 8
times the memory and carry no more information. So a matrix stays as its file has it (`Layout`), and a product reads
it in one of two ways. A kernel written for LLVM reads the blocks directly: for one row the vector lanes run along the
inputs and a block's scale multiplies its sum; for more rows the lanes are rows, and the blocks of a few outputs are
widened into the cache once and used by all rows. Where BLAS is faster (`_kernel_rows`), some outputs at a time are
widened to fp32 into a scratch tensor that BLAS then multiplies. Both give the fp32 product up to rounding, and
widened values equal those of the `gguf` library bit for bit. Kernels are compiled when first needed (about 50 ms
each) and run on torch's own OpenMP threads; without GNU OpenMP they run on one thread. SELFEDIT_KERNELS=0 switches
them off; torch then does all of it. Left out: GGUF kinds that are not in LAYOUTS (IQ, Q2_K, Q3_K); conversion writes
them in fp32. Source: the GGUF block formats (ggml-org/ggml, ggml-common.h).

Axes: T rows, I inputs, O outputs.
"""

from __future__ import annotations

import ctypes
import math
import os
import threading
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from selfedit.model.packed import openmp

BLOCK, LANES = 32, 8
PACKED_FILE = "packed.safetensors"
"""The weights in a folder that was converted from a GGUF file."""
LAYOUTS_KEY = "layouts"
"""In the metadata of a safetensors file: JSON, name of a packed tensor → name of its layout."""
WIDE_VECTOR_ROWS = 128
"""The most rows for the kernels on a processor whose BLAS uses vectors twice as wide as theirs."""
CACHED_VALUES = 1 << 20
"""Of x that the kernels read at a time: more leave the cache before the next outputs need them."""
SCRATCH_VALUES = 1 << 20
"""Weights that are widened at a time for BLAS: 4 MB stay in the cache between the two."""
LARGEST_TILE = 12
CLAIMED_OUTPUTS = 24
"""Outputs that a thread takes at a time; a multiple of every kernel's tile."""


@dataclass(frozen=True)
class Layout:
    """How 32 values of a row are stored: scales, offset, values. value = (integer − center) · scale + offset."""

    bits: int
    """4 or 8: integers; 16 or 32: floating-point numbers without a scale."""
    scale: torch.dtype | None = None
    scales: int = 1
    offset: bool = False
    float: torch.dtype | None = None

    @property
    def head_bytes(self) -> int:
        return (self.scales + self.offset) * self.scale.itemsize if self.scale else 0

    @property
    def block_bytes(self) -> int:
        return self.head_bytes + BLOCK * self.bits // 8

    @property
    def center(self) -> int:
        return 8 if self.bits == 4 and not self.offset else 0

    def inputs(self, row_bytes: int) -> int:
        """Values in a row of so many bytes."""
        return row_bytes // self.block_bytes * BLOCK


HALF, SINGLE = torch.float16, torch.float32
LAYOUTS = {  # by the name of a GGUF kind; some kinds share one
    "Q4_0": Layout(4, HALF),
    "Q4_1": Layout(4, HALF, offset=True),
    "Q5_0": Layout(8, HALF),
    "Q5_1": Layout(8, HALF, offset=True),
    "Q8_0": Layout(8, HALF),
    "Q4_K": Layout(4, SINGLE, offset=True),
    "Q5_K": Layout(8, SINGLE, offset=True),
    "Q6_K": Layout(8, SINGLE, scales=2),
}
FLOATS = {dtype: Layout(8 * dtype.itemsize, float=dtype) for dtype in (torch.float32, torch.float16, torch.bfloat16)}


def kernels_enabled() -> bool:
    return os.environ.get("SELFEDIT_KERNELS", "1") != "0"


class Weight:
    """A frozen matrix [O, I]: blocks of a layout on a CPU, multiplied in fp32; or any tensor, multiplied in its own
    dtype."""

    def __init__(self, data: Tensor, layout: Layout | None = None, dtype: torch.dtype | None = None):
        """`data`: bytes [O, I / 32 · block_bytes] of the layout; without one, numbers [O, I].
        `dtype`: of the products, if it is not that of the numbers."""
        self.data, self.layout = data.contiguous(), layout or FLOATS.get(data.dtype)
        self.outputs = len(data)
        self.inputs = layout.inputs(data.shape[1]) if layout else data.shape[-1]
        self.dtype = dtype or (torch.float32 if layout else data.dtype)
        self.blocked = layout is not None
        self.kernels = (
            kernels_enabled()
            and self.dtype == torch.float32
            and data.device.type == "cpu"
            and self.inputs % BLOCK == 0
            and self.layout is not None
        )

    @property
    def dense(self) -> Tensor | None:
        """The matrix itself, if it is stored as products need it."""
        return self.data if not self.blocked and self.data.dtype == self.dtype else None

    def part(self, outputs: slice | Tensor) -> Weight:
        """These outputs alone."""
        return Weight(self.data[outputs], self.layout if self.blocked else None, self.dtype)

    def values(self, outputs: slice | Tensor = slice(None), out: Tensor | None = None) -> Tensor:
        """These outputs [n, I] in the products' dtype; written into `out`, or a view of the matrix where there is
        one."""
        data = self.data[outputs]
        if self.dense is not None:
            return data
        if not self.kernels:
            values = dequantize(data, self.layout) if self.blocked else data.to(self.dtype)
            return values if out is None else out.copy_(values)
        data = data.contiguous()
        out = torch.empty(len(data), self.inputs, dtype=self.dtype) if out is None else out
        _run(_kernel(self.layout, 0), data.data_ptr(), out, self, len(data))
        return out

    def numbers(self) -> Tensor:
        """The floating-point numbers that are stored: all, or scales and offsets."""
        if not self.blocked:
            return self.data
        blocks = self.data.view(self.outputs, -1, self.layout.block_bytes)
        return blocks[..., : self.layout.head_bytes].contiguous().view(self.layout.scale)

    def sample(self) -> Tensor:
        """1,024 to 2,047 of the values in fp32, evenly spread; all of a small matrix."""
        count = self.outputs * self.inputs if self.blocked else self.data.numel()
        step = max(1, count // 1024)
        if not self.blocked:
            return self.data.flatten()[::step].float()
        place = torch.arange(0, count, step)
        blocks = self.data.view(-1, self.layout.block_bytes)[place // BLOCK]
        return dequantize(blocks, self.layout).gather(1, place[:, None] % BLOCK)[:, 0]

    def tiles(self):
        """(first output, end, values [n, I]) through all outputs; the values are gone when the next ones come."""
        if self.dense is not None:
            yield 0, self.outputs, self.dense
            return
        step = max(1, SCRATCH_VALUES // self.inputs)
        for low in range(0, self.outputs, step):
            high = min(low + step, self.outputs)
            yield low, high, self.values(slice(low, high), _scratch(high - low, self.inputs, self.dtype))

    def bfloat16(self) -> Tensor:
        """A copy in bf16."""
        with torch.inference_mode(False):
            copy = torch.empty(self.outputs, self.inputs, dtype=torch.bfloat16, device=self.data.device)
        for low, high, values in self.tiles():
            copy[low:high] = values
        return copy


def joined(weights: Sequence[Weight]) -> list[Weight]:
    """Matrices that read the same input, one below the other; neighbours of the same layout become one."""
    out: list[Weight] = []
    for weight in weights:
        last = out[-1] if out else None
        if last and (last.layout, last.blocked, last.dtype) == (weight.layout, weight.blocked, weight.dtype):
            data = torch.cat((last.data, weight.data))
            out[-1] = Weight(data, weight.layout if weight.blocked else None, weight.dtype)
        else:
            out.append(weight)
    return out


def product(weights: Sequence[Weight], x: Tensor) -> Tensor:
    """x [T, I] times matrices that read it, their outputs side by side: [T, O]. It has no gradient."""
    rows, plain = x.shape[0], weights[0].dense if len(weights) == 1 else None
    if not 0 < rows <= _kernel_rows() or not all(w.kernels and w.outputs >= LARGEST_TILE for w in weights):
        return _product_by_tiles(weights, x) if plain is None else F.linear(x, plain)
    if rows == 1 and plain is not None:  # BLAS reads a plain matrix as fast for one row
        return F.linear(x, plain)
    outputs = sum(w.outputs for w in weights)
    if rows < LANES // 2:  # the rest of the lanes would be idle
        x, y = x.contiguous(), x.new_empty(rows, outputs)
        for row in range(rows):
            _multiply(weights, x[row], y[row:], 1, 1)
        return y
    lanes = LANES if rows <= LANES else 2 * LANES
    passes = math.ceil(rows / lanes)
    # Rows a power of two apart would share a place in the cache and evict each other (a tenth of the head's time).
    y = x.new_empty(passes * lanes, outputs + 2 * LANES)
    columns = F.pad(x, (0, 0, 0, passes * lanes - rows)).view(passes, lanes, x.shape[1]).mT
    step = max(8, CACHED_VALUES // (lanes * x.shape[1]))
    for low in range(0, passes, step):
        part = columns[low : low + step].contiguous()
        _multiply(weights, part, y[low * lanes :], lanes, len(part))
    return y[:rows, :outputs]


def _multiply(weights: Sequence[Weight], x: Tensor, y: Tensor, lanes: int, passes: int) -> None:
    start = 0
    for weight in weights:
        _run(_kernel(weight.layout, lanes), x.data_ptr(), y[:, start:], weight, weight.outputs, passes, y.stride(0))
        start += weight.outputs


def _product_by_tiles(weights: Sequence[Weight], x: Tensor) -> Tensor:
    y, start = x.new_empty(len(x), sum(w.outputs for w in weights)), 0
    for weight in weights:
        for low, high, values in weight.tiles():
            torch.mm(x, values.t(), out=y[:, start + low : start + high])
        start += weight.outputs
    return y


@cache
def _kernel_rows() -> float:
    """The kernels use vectors of 256 bits. Where BLAS has no wider ones they are faster for any number of rows."""
    return WIDE_VECTOR_ROWS if torch.backends.cpu.get_cpu_capability() == "AVX512" else math.inf


def back(weights: Sequence[Weight], dy: Tensor) -> Tensor:
    """The gradient [T, I] of the input of `product`, from that of its output [T, O]."""
    dx, start = None, 0
    for weight in weights:
        for low, high, values in weight.tiles():
            part = dy[:, start + low : start + high]
            dx = part @ values if dx is None else dx.addmm_(part, values)
        start += weight.outputs
    return dx


def dequantize(data: Tensor, layout: Layout) -> Tensor:
    """Blocks [n, bytes] → fp32 [n, I], by torch: the reference of the kernels."""
    blocks = data.unflatten(1, (-1, layout.block_bytes))
    head = blocks[..., : layout.head_bytes].contiguous().view(layout.scale).float()
    ints = blocks[..., layout.head_bytes :]
    if layout.bits == 4:
        ints = torch.cat((ints & 15, ints >> 4), -1).to(torch.int8) - layout.center
    else:
        ints = ints.contiguous().view(torch.int8)
    values = ints.float().unflatten(-1, (layout.scales, -1)) * head[..., : layout.scales, None]
    if layout.offset:
        values += head[..., -1:, None]
    return values.flatten(1)


_local = threading.local()


def _scratch(rows: int, inputs: int, dtype: torch.dtype) -> Tensor:
    """Memory of this thread, used again by the next call."""
    buffer = getattr(_local, "buffer", None)
    if buffer is None or buffer.numel() < rows * inputs or buffer.dtype != dtype:
        with torch.inference_mode(False):
            buffer = _local.buffer = torch.empty(max(SCRATCH_VALUES, rows * inputs), dtype=dtype)
    return buffer[: rows * inputs].view(rows, inputs)


def _run(kernel, x: int, y: Tensor, weight: Weight, outputs: int, passes: int = 1, width: int = 0) -> None:
    """`x`: address of the rows; for widening, of the blocks."""
    addresses = x, weight.data.data_ptr(), y.data_ptr()
    task = (ctypes.c_int64 * 8)(0, *addresses, outputs, weight.inputs // BLOCK, passes, width)
    openmp.run(kernel, task)


@cache
def _kernel(layout: Layout, rows: int):
    """Compiled void(task) for so many rows (0: widen): every thread that calls it takes outputs until none are left."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    features = llvm.get_host_cpu_features().flatten()
    machine = llvm.Target.from_default_triple().create_target_machine(llvm.get_host_cpu_name(), features, opt=3)
    module = llvm.parse_assembly(_Writer(layout, rows).text)
    passes = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(3))
    passes.getModulePassManager().run(module, passes)
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(engine.get_function_address("kernel"))
    function.engine = engine  # the code lives as long as its engine
    return function


class _Writer:
    """LLVM code of one kernel."""

    def __init__(self, layout: Layout, rows: int):
        import llvmlite.ir as ir

        self.ir, self.layout = ir, layout
        self.byte, self.short, self.int, self.long = (ir.IntType(bits) for bits in (8, 16, 32, 64))
        self.float, self.pointer = ir.FloatType(), ir.PointerType()
        self.wide, self.wide_int = ir.VectorType(self.float, LANES), ir.VectorType(self.int, LANES)
        module = ir.Module()
        self.multiply_add = ir.Function(module, ir.FunctionType(self.wide, [self.wide] * 3), f"llvm.fma.v{LANES}f32")
        self.prefetch = ir.Function(
            module, ir.FunctionType(ir.VoidType(), [self.pointer] + [self.int] * 3), "llvm.prefetch.p0"
        )
        function = ir.Function(module, ir.FunctionType(ir.VoidType(), [self.pointer]), "kernel")
        self.b = ir.IRBuilder(function.append_basic_block())
        task = function.args[0]
        x, blocks, y = (self.load(task, i * 8, self.pointer) for i in (1, 2, 3))
        outputs, groups, passes, width = (self.load(task, i * 8, self.long) for i in (4, 5, 6, 7))
        stride = self.b.mul(groups, self.long(layout.block_bytes))
        if rows:
            self.write_product(rows, task, x, blocks, y, outputs, groups, passes, width, stride)
        else:
            with self.claims(task, outputs) as (low, high):
                count = self.b.mul(groups, self.b.sub(high, low))
                target = self.at(y, self.b.mul(low, self.b.mul(groups, self.long(4 * BLOCK))))
                self.widen(self.at(x, self.b.mul(low, stride)), count, target, self.long(8 * layout.block_bytes))
        self.b.ret_void()
        self.text = str(module)

    def write_product(self, rows: int, task, x, blocks, y, outputs, groups, passes, width, stride) -> None:
        tile = {1: 4, 8: LARGEST_TILE, 16: 6}[rows]  # as many sums as fit 16 registers
        sums = [[self.b.alloca(self.wide) for _ in range(max(1, rows // LANES))] for _ in range(tile)]
        widened = self.b.alloca(self.float, self.b.mul(groups, self.long(tile * BLOCK)))
        widened.type = self.pointer  # untyped, as the others are
        with self.claims(task, outputs) as (low, high), self.loop(low, high, tile) as output:
            first = self.smaller(output, self.b.sub(outputs, self.long(tile)))  # the last tile may do some again
            start = self.at(blocks, self.b.mul(first, stride))
            if rows > 1:
                self.widen(start, self.b.mul(groups, self.long(tile)), widened, self.b.mul(stride, self.long(tile)))
            with self.loop(self.long(0), passes, 1) as p:
                for s in sum(sums, []):
                    self.b.store(self.wide(None), s)
                if rows == 1:
                    self.one_row(start, stride, groups, x, sums)
                else:
                    x_p = self.at(x, self.b.mul(p, self.b.mul(groups, self.long(BLOCK * rows * 4))))
                    self.many_rows(widened, groups, x_p, sums)
                y_p = self.at(y, self.b.mul(p, self.b.mul(width, self.long(rows * 4))))
                for j in range(tile):
                    self.finish(
                        self.at(y_p, self.b.mul(self.b.add(first, self.long(j)), self.long(4))), sums[j], rows, width
                    )

    def one_row(self, start, stride, groups, x, sums) -> None:
        starts = [self.at(start, self.b.mul(stride, self.long(j))) for j in range(len(sums))]
        with self.loop(self.long(0), groups, 1) as group:
            x = self.at(x, self.b.mul(group, self.long(BLOCK * 4)))
            xs = [self.load(x, i * LANES * 4, self.wide) for i in range(BLOCK // LANES)]
            total = self.b.fadd(self.b.fadd(xs[0], xs[1]), self.b.fadd(xs[2], xs[3])) if self.layout.offset else None
            for start, (s,) in zip(starts, sums):
                here = self.at(start, self.b.mul(group, self.long(self.layout.block_bytes)))
                self.fetch_ahead(here, self.b.mul(stride, self.long(4 * len(sums))))
                values, scales, offset = self.block(here)
                y = self.b.load(s, typ=self.wide)
                if scales:
                    each = len(values) // len(scales)
                    for k, scale in enumerate(scales):
                        pairs = list(zip(values, xs))[k * each : (k + 1) * each]
                        part = self.b.fmul(*pairs[0])
                        for value, x_i in pairs[1:]:
                            part = self.fma(value, x_i, part)
                        y = self.fma(part, scale, y)
                    y = y if offset is None else self.fma(total, offset, y)
                else:
                    for value, x_i in zip(values, xs):
                        y = self.fma(value, x_i, y)
                self.b.store(y, s)

    def widen(self, start, count, target, ahead) -> None:
        """So many blocks in a row → fp32. `ahead`: bytes from a block to the one that is fetched meanwhile."""
        with self.loop(self.long(0), count, 1) as group:
            here = self.at(start, self.b.mul(group, self.long(self.layout.block_bytes)))
            self.fetch_ahead(here, ahead)
            values, scales, offset = self.block(here)
            for i, value in enumerate(values):
                if scales:
                    scale = scales[i * len(scales) // len(values)]
                    value = self.b.fmul(value, scale) if offset is None else self.fma(value, scale, offset)
                place = self.b.add(self.b.mul(group, self.long(BLOCK * 4)), self.long(i * LANES * 4))
                self.b.store(value, self.at(target, place), align=4)

    def many_rows(self, widened, groups, x, sums) -> None:
        inputs = self.b.mul(groups, self.long(BLOCK))
        with self.loop(self.long(0), inputs, 1) as i:
            start = self.at(x, self.b.mul(i, self.long(len(sums[0]) * LANES * 4)))
            xs = [self.load(start, v * LANES * 4, self.wide) for v in range(len(sums[0]))]
            for j in range(len(sums)):
                place = self.b.add(i, self.b.mul(inputs, self.long(j)))
                weight = self.splat(self.load(self.at(widened, self.b.mul(place, self.long(4))), 0, self.float))
                for s, x_v in zip(sums[j], xs):
                    self.b.store(self.fma(weight, x_v, self.b.load(s, typ=self.wide)), s)

    def block(self, block):
        """The 32 values of a block before scaling as four vectors, its scales (none: final), its offset (None:
        zero)."""
        layout, vectors = self.layout, range(BLOCK // LANES)
        place = layout.head_bytes
        if layout.float:
            step = LANES * layout.bits // 8
            if layout.bits == 32:
                return [self.load(block, i * step, self.wide) for i in vectors], [], None
            if layout.float == torch.float16:
                halves = self.ir.VectorType(self.ir.HalfType(), LANES)
                return [self.b.fpext(self.load(block, i * step, halves), self.wide) for i in vectors], [], None
            raw = [self.load(block, i * step, self.ir.VectorType(self.short, LANES)) for i in vectors]
            high = [self.b.shl(self.b.zext(r, self.wide_int), self.wide_int([16] * LANES)) for r in raw]
            return [self.b.bitcast(h, self.wide) for h in high], [], None
        numbers = [self.number(block, i) for i in range(layout.scales + layout.offset)]
        ints = self.ir.VectorType(self.byte, LANES)
        if layout.bits == 8:
            raw = [self.b.sext(self.load(block, place + i * LANES, ints), self.wide_int) for i in vectors]
        else:
            both = [self.b.zext(self.load(block, place + i * LANES, ints), self.wide_int) for i in range(2)]
            raw = [self.b.and_(r, self.wide_int([15] * LANES)) for r in both]
            raw += [self.b.lshr(r, self.wide_int([4] * LANES)) for r in both]
            if layout.center:
                raw = [self.b.sub(r, self.wide_int([layout.center] * LANES)) for r in raw]
        values = [self.b.sitofp(r, self.wide) for r in raw]
        return values, numbers[: layout.scales], numbers[-1] if layout.offset else None

    def number(self, block, index: int):
        """A scale or offset of a block in all lanes."""
        if self.layout.scale == torch.float32:
            return self.splat(self.load(block, index * 4, self.float))
        return self.splat(self.b.fpext(self.load(block, index * 2, self.ir.HalfType()), self.float))

    def finish(self, y, sums, rows: int, width) -> None:
        lanes = [self.b.extract_element(self.b.load(s, typ=self.wide), self.int(i)) for s in sums for i in range(LANES)]
        if rows == 1:
            while len(lanes) > 1:
                lanes = [self.b.fadd(a, b) for a, b in zip(lanes[::2], lanes[1::2])]
        for row, value in enumerate(lanes):
            self.b.store(value, self.at(y, self.b.mul(self.long(row * 4), width)), align=4)

    @contextmanager
    def claims(self, task, outputs):
        """Loop over the ranges of outputs that this thread claims."""
        again, work, done = (self.b.append_basic_block() for _ in range(3))
        self.b.branch(again)
        self.b.position_at_end(again)
        low = self.b.atomic_rmw("add", task, self.long(CLAIMED_OUTPUTS), "monotonic")
        self.b.cbranch(self.b.icmp_signed("<", low, outputs), work, done)
        self.b.position_at_end(work)
        yield low, self.smaller(self.b.add(low, self.long(CLAIMED_OUTPUTS)), outputs)
        self.b.branch(again)
        self.b.position_at_end(done)

    @contextmanager
    def loop(self, low, high, step: int):
        before, body, done = self.b.block, self.b.append_basic_block(), self.b.append_basic_block()
        self.b.branch(body)
        self.b.position_at_end(body)
        i = self.b.phi(self.long)
        i.add_incoming(low, before)
        yield i
        following = self.b.add(i, self.long(step))
        i.add_incoming(following, self.b.block)
        self.b.cbranch(self.b.icmp_signed("<", following, high), body, done)
        self.b.position_at_end(done)

    def fma(self, a, b, c):
        return self.b.call(self.multiply_add, [a, b, c])

    def fetch_ahead(self, pointer, offset) -> None:
        """Ask for what a later tile will read: outputs are too short for the processor to see the pattern (worth a
        third)."""
        self.b.call(self.prefetch, [self.at(pointer, offset), self.int(0), self.int(3), self.int(1)])

    def smaller(self, a, b):
        return self.b.select(self.b.icmp_signed("<", a, b), a, b)

    def at(self, pointer, offset):
        """The address `offset` bytes further on."""
        return self.b.gep(pointer, [offset], source_etype=self.byte)

    def load(self, pointer, offset: int, kind):
        return self.b.load(
            self.at(pointer, self.long(offset)), align=8 if kind in (self.pointer, self.long) else 1, typ=kind
        )

    def splat(self, value):
        one = self.b.insert_element(self.wide(self.ir.Undefined), value, self.int(0))
        return self.b.shuffle_vector(
            one, self.wide(self.ir.Undefined), self.ir.VectorType(self.int, LANES)([0] * LANES)
        )
