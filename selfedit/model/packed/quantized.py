"""Products of few rows with group-quantized weights, straight from a GGUF file's blocks.

In: a weight as the file holds it (Q4_0, Q4_1 or Q8_0 blocks of 32 values: 4.5 to 8.5 bits each) and fp32 rows. Out: the
fp32 product, equal to that with the dequantized weight up to rounding. Decoding is bound by how fast weights are read,
and blocks are 4 to 7 times smaller than fp32. Two kernels, written for LLVM as vectors of 8 lanes: for one row the lanes
run along the inputs and a block's scale is applied to its sum; for more, the lanes are rows, and a few outputs' block is
widened into the cache and used by all of them. Kernels are compiled when first needed (some 50 ms each) and run on the
OpenMP threads that torch has already; where there is no GNU OpenMP, on one thread.
Left out: K-quants, which need a kernel each; they take the fp32 paths.
Source: the GGUF block layouts (ggml-org/ggml, ggml-common.h).

Axes: T rows, I inputs, O outputs.
"""

from __future__ import annotations

import ctypes
import math
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK, LANES = 32, 8
FILE = "model.quantized"
"""In a model's folder, beside its fp32 weights: the same tensors' blocks, in safetensors format, under the same names."""
BLOCK_BYTES = {18: "Q4_0", 20: "Q4_1", 34: "Q8_0"}
LARGEST_TILE = 12
OUTPUTS_A_CLAIM = 24
"""Outputs that a thread takes at a time; a multiple of every kernel's tile."""


class QuantizedWeight:
    def __init__(self, blocks: Tensor, inputs: int):
        """`blocks`: bytes [O, I / 32 · bytes of a block]."""
        self.blocks, self.inputs, self.outputs = blocks.contiguous(), inputs, blocks.shape[0]
        self.kind = BLOCK_BYTES[blocks.shape[1] * BLOCK // inputs]

    def __call__(self, x: Tensor) -> Tensor:
        """[T, I] → [T, O]"""
        rows = x.shape[0]
        if rows < LANES // 2:  # the rest of the lanes would be idle
            x, y = x.contiguous(), x.new_empty(rows, self.outputs)
            for x_row, y_row in zip(x, y):
                self._run(1, x_row, y_row)
            return y
        lanes = LANES if rows <= LANES else 2 * LANES
        passes = math.ceil(rows / lanes)
        columns = F.pad(x, (0, 0, 0, passes * lanes - rows)).view(passes, lanes, self.inputs).mT.contiguous()
        # rows a power of two apart would share one place in the cache and drive each other out (a tenth of the head's time)
        y = x.new_empty(passes * lanes, self.outputs + 2 * LANES)
        self._run(lanes, columns, y, passes)
        return y[:rows, : self.outputs]

    def _run(self, rows: int, x: Tensor, y: Tensor, passes: int = 1) -> None:
        kernel = _kernel(self.kind, rows)
        addresses = x.data_ptr(), self.blocks.data_ptr(), y.data_ptr()
        task = (ctypes.c_int64 * 8)(0, *addresses, self.outputs, self.inputs // BLOCK, passes, y.shape[-1])
        parallel, threads = _openmp(), torch.get_num_threads()
        if parallel and threads > 1:
            parallel(kernel, task, threads, 0)
        else:
            kernel(task)


def joined(weights: list[Tensor], blocks: list[Tensor | None]) -> QuantizedWeight | None:
    """The blocks of weights that are one product; None if any has none or they are of different kinds."""
    if any(b is None for b in blocks) or len({b.shape[1] for b in blocks}) > 1 or sum(map(len, blocks)) < LARGEST_TILE:
        return None
    return QuantizedWeight(torch.cat(blocks) if len(blocks) > 1 else blocks[0], weights[0].shape[1])


@cache
def _openmp():
    """GNU OpenMP's way into a parallel region, in the copy that torch runs on; None where torch has another."""
    for library in sorted(Path(torch.__file__).parent.glob("lib/libgomp*.so*")):
        parallel = ctypes.CDLL(str(library)).GOMP_parallel
        parallel.argtypes, parallel.restype = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint), None
        return parallel
    return None


@cache
def _kernel(kind: str, rows: int):
    """Compiled void(task): every thread that calls it takes outputs until none are left."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    features = llvm.get_host_cpu_features().flatten()
    machine = llvm.Target.from_default_triple().create_target_machine(llvm.get_host_cpu_name(), features, opt=3)
    module = llvm.parse_assembly(_Writer(kind, rows).text)
    passes = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(3))
    passes.getModulePassManager().run(module, passes)
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(engine.get_function_address("kernel"))
    function.engine = engine  # the code lives as long as its engine
    return function


class _Writer:
    """LLVM code of one kernel."""

    def __init__(self, kind: str, rows: int):
        import llvmlite.ir as ir

        self.ir, self.kind, self.block_bytes = ir, kind, {name: size for size, name in BLOCK_BYTES.items()}[kind]
        self.byte, self.int, self.long = ir.IntType(8), ir.IntType(32), ir.IntType(64)
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
        tile = {1: 4, 8: LARGEST_TILE, 16: 6}[rows]  # as many sums as fit 16 registers
        sums = [[self.b.alloca(self.wide) for _ in range(max(1, rows // LANES))] for _ in range(tile)]
        widened = self.b.alloca(self.float, self.b.mul(groups, self.long(tile * BLOCK)))
        widened.type = self.pointer  # untyped, as the others are
        stride = self.b.mul(groups, self.long(self.block_bytes))
        with self.claims(task, outputs) as (low, high), self.loop(low, high, tile) as output:
            first = self.smaller(output, self.b.sub(outputs, self.long(tile)))  # the last tile may do some again
            own = self.at(blocks, self.b.mul(first, stride))
            if rows > 1:
                self.widen(own, groups, tile, widened)
            with self.loop(self.long(0), passes, 1) as p:
                for s in sum(sums, []):
                    self.b.store(self.wide(None), s)
                if rows == 1:
                    self.one_row(own, stride, groups, x, sums)
                else:
                    x_p = self.at(x, self.b.mul(p, self.b.mul(groups, self.long(BLOCK * rows * 4))))
                    self.many_rows(widened, groups, x_p, sums)
                y_p = self.at(y, self.b.mul(p, self.b.mul(width, self.long(rows * 4))))
                for j in range(tile):
                    self.finish(
                        self.at(y_p, self.b.mul(self.b.add(first, self.long(j)), self.long(4))), sums[j], rows, width
                    )
        self.b.ret_void()
        self.text = str(module)

    def one_row(self, own, stride, groups, x, sums) -> None:
        own = [self.at(own, self.b.mul(stride, self.long(j))) for j in range(len(sums))]
        with self.loop(self.long(0), groups, 1) as group:
            x = self.at(x, self.b.mul(group, self.long(BLOCK * 4)))
            xs = [self.load(x, i * LANES * 4, self.wide) for i in range(BLOCK // LANES)]
            total = self.b.fadd(self.b.fadd(xs[0], xs[1]), self.b.fadd(xs[2], xs[3]))
            for start, (s,) in zip(own, sums):
                here = self.at(start, self.b.mul(group, self.long(self.block_bytes)))
                self.fetch_ahead(here, self.b.mul(stride, self.long(4 * len(sums))))
                values, scale, offset = self.block(here)
                product = self.b.fmul(values[0], xs[0])
                for value, x_i in zip(values[1:], xs[1:]):
                    product = self.fma(value, x_i, product)
                y = self.fma(product, scale, self.b.load(s, typ=self.wide))
                self.b.store(y if offset is None else self.fma(total, offset, y), s)

    def widen(self, own, groups, tile: int, widened) -> None:
        with self.loop(self.long(0), self.b.mul(groups, self.long(tile)), 1) as group:
            here = self.at(own, self.b.mul(group, self.long(self.block_bytes)))
            self.fetch_ahead(here, self.b.mul(groups, self.long(tile * self.block_bytes)))
            values, scale, offset = self.block(here)
            for i, value in enumerate(values):
                value = self.b.fmul(value, scale) if offset is None else self.fma(value, scale, offset)
                place = self.b.add(self.b.mul(group, self.long(BLOCK * 4)), self.long(i * LANES * 4))
                self.b.store(value, self.at(widened, place), align=4)

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
        """Its 32 integers as four vectors, its scale, its offset (None: zero): value = integer · scale + offset."""
        scale = self.splat(self.b.fpext(self.load(block, 0, self.ir.HalfType()), self.float))
        ints = self.ir.VectorType(self.byte, LANES)
        if self.kind == "Q8_0":
            raw = [self.load(block, 2 + i * LANES, ints) for i in range(4)]
            return [self.b.sitofp(self.b.sext(r, self.wide_int), self.wide) for r in raw], scale, None
        start = 4 if self.kind == "Q4_1" else 2
        raw = [self.b.zext(self.load(block, start + i * LANES, ints), self.wide_int) for i in range(2)]
        low = [self.b.and_(r, self.wide_int([15] * LANES)) for r in raw]
        high = [self.b.lshr(r, self.wide_int([4] * LANES)) for r in raw]
        values = [self.b.sitofp(v, self.wide) for v in low + high]
        if self.kind == "Q4_1":
            return values, scale, self.splat(self.b.fpext(self.load(block, 2, self.ir.HalfType()), self.float))
        return values, scale, self.b.fmul(scale, self.wide([-8.0] * LANES))

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
        low = self.b.atomic_rmw("add", task, self.long(OUTPUTS_A_CLAIM), "monotonic")
        self.b.cbranch(self.b.icmp_signed("<", low, outputs), work, done)
        self.b.position_at_end(work)
        yield low, self.smaller(self.b.add(low, self.long(OUTPUTS_A_CLAIM)), outputs)
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
        """Ask for what a later tile will read: outputs are too short for the processor to see the pattern (worth a third)."""
        self.b.call(self.prefetch, [self.at(pointer, offset), self.int(0), self.int(3), self.int(1)])

    def smaller(self, a, b):
        return self.b.select(self.b.icmp_signed("<", a, b), a, b)

    def at(self, pointer, offset):
        """`offset` bytes on."""
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
