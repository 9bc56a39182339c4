"""A GPU that is not there: PyTorch's fake tensors on a `cuda` device, so that code for GPUs runs on any machine.

Nothing is computed and no memory is taken, so that a model of 7B runs on a laptop. Within `fake_gpu()`

- operations on tensors of different devices or number formats fail as on a GPU, and name the operation, its tensors and
  the line of this library; PyTorch's own fake tensors let some pass (a product of bfloat16 and float32, say);
- while a CUDA graph is recorded, what waits for the device or copies to it fails, as it would there;
- the bytes of all tensors on the device are counted, and their peak; one that does not fit raises OutOfMemoryError.

Numbers are known where they decide what runs: small tensors of whole numbers and booleans (prompts, masks, codes) are
computed beside the fake ones. All others count as 1.0, and codes that would be drawn from them as 0.

What a GPU gives and fake tensors lack is stood in for here: generators, graphs, NumPy, safetensors files, fused
attention. The library knows nothing of this.
"""

from __future__ import annotations

import sys
import traceback
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock, patch

import numpy as np
import pytest
import safetensors.torch
import torch
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.weak import WeakIdKeyDictionary

aten = torch.ops.aten
ROOT = Path(__file__).parents[1]
WHOLE, FLOATS = 2**16, 2**12  # up to so many numbers are known, of whole numbers and booleans, and of others
TRIED = (2, 11)  # torch
BLOCK = 512  # bytes to which torch's allocator rounds up

MAY_MIX = {aten.copy_, aten._to_copy, aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}
ONE_FORMAT = {  # operations whose tensors of numbers must have one format, which fake tensors do not check
    *(aten.mm, aten.bmm, aten.addmm, aten.baddbmm, aten.convolution, aten.index_copy_, aten.index_copy),
    *(aten.index_put_, aten.index_put, aten._index_put_impl_, aten.masked_scatter, aten.native_group_norm),
    *(aten._scaled_dot_product_efficient_attention, aten.linalg_solve, aten._linalg_solve_ex),
}
FLOAT_OR_DOUBLE = {aten._linalg_svd, aten._linalg_solve_ex, aten.linalg_qr, aten.quantile}
WAITS = {aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten._unique2, aten.equal}


class WrongPlace(AssertionError):
    """What a GPU would have refused."""


def is_tensor(x):
    return isinstance(x, torch.Tensor)


def on_gpu(x) -> bool:
    return is_tensor(x) and x.device.type == "cuda"


def known(x: torch.Tensor, ask: bool = False) -> torch.Tensor | None:
    """The numbers of a tensor, on the CPU; None where they are not known, or if one must `ask`: ones, and zeros for
    whole numbers."""
    if not isinstance(x, FakeTensor):
        return x
    found = getattr(x, "_known", None)
    if found is None and ask:
        make = torch.ones if x.is_floating_point() or x.dtype == torch.bool else torch.zeros
        with _disable_current_modes():
            found = make(x.shape, dtype=x.dtype)
    return found


class FakeGPU(TorchDispatchMode):
    """The device: checks every operation, keeps small numbers, counts memory."""

    def __init__(self, memory: int):
        super().__init__()
        self.memory, self.live, self.peak, self.recording = memory, 0, 0, False
        self.asked_for_meta, self.chance = False, torch.device("cpu")  # by the call from Python that is running
        self.at_peak = ""  # what was done then, and where
        self.storages = WeakIdKeyDictionary()

    @property
    def free(self) -> int:
        return self.memory - self.live

    def reset_peak(self) -> None:
        self.peak = self.live

    # ---------------------------------------------------------------- one operation

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func is torch.ops.prim.device.default:
            # for C++ only, whose autograd would look for a driver; Python sees cuda
            return torch.device("meta") if args[0].fake_device.type == "cuda" else args[0].fake_device
        op, flat = func.overloadpacket, [x for x in tree_flatten((args, kwargs))[0] if is_tensor(x)]
        if not flat and not func.name().startswith("aten"):
            return func(*args, **kwargs)
        if kwargs.get("device") is not None and torch.device(kwargs["device"]).type == "meta":
            if not self.asked_for_meta and not any(x.is_meta for x in flat):  # C++ again
                kwargs["device"] = torch.device("cuda:0")
        self.check(func, op, flat, kwargs)
        try:
            if op in (aten._local_scalar_dense, aten.equal):
                with _disable_current_modes():
                    return True if op is aten.equal else known(args[0], ask=True).item()
            if op in (aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_):
                args = (args[0], [self.numbered(i) for i in args[1]], *args[2:])
                args[1][:] = [j for i in args[1] for j in (i if isinstance(i, tuple) else (i,))]
                flat = [x for x in tree_flatten((args, kwargs))[0] if is_tensor(x)]
            if op in WAITS:
                return self.of_known(func, args, kwargs)
            if generator := kwargs.get("generator"):
                kwargs["generator"] = None
            out = func(*args, **kwargs)
        except WrongPlace:
            raise
        except (RuntimeError, TypeError, NotImplementedError) as error:
            raise WrongPlace(f"{str(error).splitlines()[0]} in {self.described(func, flat)}") from error
        self.learn(func, args, kwargs, flat, out, generator)
        for x in tree_flatten(out)[0]:
            if isinstance(x, FakeTensor):
                x.constant = None  # its own way of knowing numbers, which would ask for a driver
                self.count(x, func)
        return out

    def check(self, func, op, flat, kwargs) -> None:
        """Devices and number formats, as a GPU has them."""
        where = {x.device for x in flat if x.dim() or op.__name__.startswith(("_fused", "_foreach"))}
        if kwargs.get("generator") is not None:
            where |= {self.chance} | ({torch.device(kwargs["device"])} if kwargs.get("device") else set())
        mixed = len({(d.type, d.index or 0) for d in where}) > 1
        transfer = mixed or (op is aten._to_copy and flat[0].device.type != self.target(flat[0], kwargs))
        if mixed and op not in MAY_MIX:
            raise WrongPlace(f"tensors on {' and '.join(sorted(map(str, where)))} in {self.described(func, flat)}")
        if op in (aten.index, aten.index_put_) and flat[0].device.type == "cpu" and mixed:
            raise WrongPlace(f"a tensor on the CPU is indexed by one on the GPU in {self.described(func, flat)}")
        floats = {x.dtype for x in flat if x.is_floating_point() and (x.dim() or op in ONE_FORMAT)}
        if op in ONE_FORMAT and len(floats) > 1:
            raise WrongPlace(f"{' and '.join(sorted(map(str, floats)))} in {self.described(func, flat)}")
        if op in FLOAT_OR_DOUBLE and any(map(on_gpu, flat)) and floats & {torch.float16, torch.bfloat16}:
            raise WrongPlace(f"no kernel for 16-bit numbers in {self.described(func, flat)}")
        by_mask = op in (aten.index, aten.index_put_) and any(x.dtype in (torch.bool, torch.uint8) for x in flat[1:])
        if self.recording and (transfer or by_mask or (op in WAITS and any(map(on_gpu, flat)))):
            raise WrongPlace(f"a recorded step waits for the device in {self.described(func, flat)}")

    @staticmethod
    def target(x, kwargs) -> str:
        return torch.device(kwargs["device"]).type if kwargs.get("device") is not None else x.device.type

    def described(self, func, flat) -> str:
        shown = ", ".join(f"{str(x.dtype)[6:]}{list(x.shape)} on {x.device}" for x in flat)
        return f"{func} ({shown}), {here()}"

    # ---------------------------------------------------------------- numbers that are known

    def numbered(self, index):
        """An index of booleans as one of numbers."""
        if not is_tensor(index) or index.dtype not in (torch.bool, torch.uint8):
            return index
        with _disable_current_modes():
            where = known(index, ask=True).nonzero(as_tuple=True)
        return tuple(self.fake(numbers, index.device) for numbers in where)

    def of_known(self, func, args, kwargs):
        """The outputs of an operation whose shape hangs on numbers."""
        device = next(x.device for x in args if is_tensor(x))
        with _disable_current_modes():
            out = func(*tree_map(lambda x: known(x, ask=True) if is_tensor(x) else x, args), **kwargs)
        return tree_map(lambda x: self.fake(x, device) if is_tensor(x) else x, out)

    def fake(self, numbers: torch.Tensor, device) -> torch.Tensor:
        with ExitStack() as stack:
            for mode in (self.fakes, self):  # this runs with them off
                stack.enter_context(mode)
            out = torch.empty(numbers.shape, dtype=numbers.dtype, device=device)
        out._known = numbers
        return out

    def learn(self, func, args, kwargs, flat, out, generator) -> None:
        """Compute the numbers of small outputs from those of the inputs."""
        outputs = [x for x in tree_flatten(out)[0] if is_tensor(x)]
        small = all(x.numel() <= (FLOATS if x.is_floating_point() else WHOLE) for x in outputs)
        if not outputs or not small or not all(isinstance(x, FakeTensor) for x in outputs):
            return
        numbers = [known(x) for x in flat]
        if any(n is None for n in numbers):
            for x in outputs:  # such as codes, drawn by what is not known
                if not x.is_floating_point() and x.dtype != torch.bool and not hasattr(x, "_known"):
                    x._known = known(x, ask=True)
            return
        on_cpu = lambda x: known(x) if is_tensor(x) else torch.device("cpu") if isinstance(x, torch.device) else x
        kwargs = {name: "cpu" if name == "device" and value else value for name, value in kwargs.items()}
        if generator:
            kwargs["generator"] = generator
        with _disable_current_modes():
            try:
                result = func(*tree_map(on_cpu, args), **tree_map(on_cpu, kwargs))
            except (RuntimeError, NotImplementedError):  # not for these numbers, or not on a CPU
                return
        for x, n in zip(outputs, [n for n in tree_flatten(result)[0] if is_tensor(n)]):
            x._known = n

    # ---------------------------------------------------------------- memory

    def count(self, x, func) -> None:
        if x.device.type != "cuda" or (storage := x.untyped_storage()) in self.storages:
            return
        size = -(-storage.nbytes() // BLOCK) * BLOCK
        if size > self.free:
            raise torch.OutOfMemoryError(
                f"CUDA out of memory: {size / 1e9:.2f} GB, and {self.free / 1e9:.2f} GB free, in {func}, {here()}"
            )
        self.live += size
        if self.live > self.peak:
            self.peak, self.at_peak = self.live, f"{func} {list(x.shape)}, {here()}"
        self.storages[storage] = _Freed(self, size)


class _Freed:
    """Goes with a storage, and gives its bytes back."""

    def __init__(self, gpu: FakeGPU, size: int):
        self.gpu, self.size = gpu, size

    def __del__(self):
        self.gpu.live -= self.size


def here() -> str:
    """The line of this library that is running."""
    ours = [f for f in traceback.extract_stack() if Path(f.filename).is_relative_to(ROOT / "earlib")]
    return f"{Path(ours[-1].filename).relative_to(ROOT)}:{ours[-1].lineno}" if ours else "the test"


# ------------------------------------------------------------------ what stands in for parts of a GPU


class Python(TorchFunctionMode):
    """Calls that never reach an operation, or reach another one on a GPU."""

    def __init__(self, gpu: FakeGPU):
        super().__init__()
        self.gpu = gpu

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.Tensor.numpy:
            if on_gpu(args[0]):
                raise TypeError(f"can't convert cuda:0 device type tensor to numpy, {here()}")
            found = known(args[0])
            if found is None:  # takes no memory: one 0, seen many times
                return np.broadcast_to(np.zeros((), str(args[0].dtype)[6:]), args[0].shape)
            with _disable_current_modes():
                return found.numpy()
        if func is torch.Tensor.is_cuda.__get__:
            return on_gpu(args[0])
        if func is torch.Tensor.cpu:
            return args[0].to("cpu")
        if func is torch.Tensor.to and not kwargs.get("copy") and isinstance(args[0], FakeTensor):
            other = args[1] if len(args) > 1 else kwargs.get("other")
            parse = torch._C._nn._parse_to
            device, dtype = (other.device, other.dtype) if is_tensor(other) else parse(*args[1:], **kwargs)[:2]
            same = device is None or (device.type, device.index or 0) == (
                args[0].device.type,
                args[0].device.index or 0,
            )
            if same and dtype in (None, args[0].dtype):
                return args[0]
        if func is torch.nn.functional.scaled_dot_product_attention and on_gpu(args[0]):
            return self.attention(*args, **kwargs)
        device, generator = kwargs.get("device"), kwargs.get("generator")
        self.gpu.asked_for_meta = device is not None and torch.device(device).type == "meta"
        self.gpu.chance = getattr(generator, "of", torch.device("cpu"))
        return func(*args, **kwargs)

    @staticmethod
    def attention(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
        """The kernel that every GPU has: it never writes the weights down, and reads a mask in the numbers' format."""
        if enable_gqa:
            k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
        if attn_mask is not None:
            if attn_mask.dtype == torch.bool:
                attn_mask = torch.zeros_like(attn_mask, dtype=q.dtype).masked_fill_(~attn_mask, float("-inf"))
            attn_mask = attn_mask.expand(q.shape[0], q.shape[1], q.shape[2], k.shape[2])
        needed = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v))
        return aten._scaled_dot_product_efficient_attention(
            q, k, v, attn_mask, needed, dropout_p, is_causal, scale=scale
        )[0]


class Chance(torch.Generator):
    """A generator of random numbers that says it is on the GPU."""

    def __new__(cls, device="cpu"):
        self = super().__new__(cls, "cpu")
        self.of = torch.device(device)
        return self


class Graph:
    """A recorded step; replaying it runs no Python."""

    def replay(self) -> None:
        pass


class Opened:
    """A safetensors file whose tensors come to the device."""

    def __init__(self, path, framework="pt", device="cpu", **more):
        self.path, self.device = path, device
        with _disable_current_modes():
            self.file = REAL_OPEN(path, framework)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def keys(self):
        return self.file.keys()

    def get_tensors(self):
        return {name: self.get_tensor(name) for name in self.keys()}

    def metadata(self):
        return self.file.metadata()

    def get_tensor(self, name):
        with _disable_current_modes():
            numbers = self.file.get_tensor(name)
        out = torch.empty(numbers.shape, dtype=numbers.dtype, device=self.device)
        if numbers.numel() <= (FLOATS if numbers.is_floating_point() else WHOLE):
            out._known = numbers
        return out


REAL_OPEN, REAL_SAVE = safetensors.safe_open, safetensors.torch.save


def saved(tensors, metadata=None):
    """What safetensors writes: numbers that are not known are ones."""
    with _disable_current_modes():
        return REAL_SAVE({name: known(t, ask=True).contiguous() for name, t in tensors.items()}, metadata)


def moved(module, fn, recurse=True, memo=None):
    """`Module._apply`, by new parameters: fake tensors cannot take each other's place. Shared ones stay shared."""
    memo = {} if memo is None else memo
    for child in module.children():
        moved(child, fn, True, memo)
    for kind in (module._parameters, module._buffers):
        for name, old in kind.items():
            if old is not None and id(old) not in memo:
                new = fn(old.detach())
                memo[id(old)] = torch.nn.Parameter(new, old.requires_grad) if kind is module._parameters else new
            if old is not None:
                kind[name] = memo[id(old)]
    return module


@contextmanager
def fake_gpu(memory: float = 80e9, capability: tuple[int, int] = (9, 0)):
    """Within the context this machine has a GPU with `memory` bytes free.

    Yields:
        A `FakeGPU`: `live` and `peak` are bytes.
    """
    if tuple(map(int, torch.__version__.split(".")[:2])) < TRIED:
        pytest.skip(f"fake tensors of torch {torch.__version__} ask for a driver")
    gpu = FakeGPU(int(memory))
    gpu.fakes = FakeTensorMode(allow_non_fake_inputs=True)

    @contextmanager
    def recording(graph, *args, **kwargs):
        gpu.recording = True
        try:
            yield
        finally:
            gpu.recording = False

    cuda = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "get_device_capability": lambda device=None: capability,
        "get_device_name": lambda device=None: "a GPU that is not there",
        "mem_get_info": lambda device=None: (gpu.free, gpu.memory),
        "memory_reserved": lambda device=None: gpu.live,
        "memory_allocated": lambda device=None: gpu.live,
        "max_memory_allocated": lambda device=None: gpu.peak,
        "reset_peak_memory_stats": lambda device=None: gpu.reset_peak(),
        "get_device_properties": lambda device=None: SimpleNamespace(total_memory=gpu.memory),
        "empty_cache": lambda: None,
        "synchronize": lambda device=None: None,
        "is_current_stream_capturing": lambda: gpu.recording,
        "Stream": MagicMock,
        "current_stream": MagicMock,
        "stream": lambda stream: nullcontext(),
        "CUDAGraph": Graph,
        "graph": recording,
    }
    run, python = torch.autograd._engine_run_backward, Python(gpu)

    def backward(*args, **kwargs):
        with python:  # what is computed anew in the backward pass is computed as in the forward one
            return run(*args, **kwargs)

    with ExitStack() as stack:
        stack.enter_context(gpu.fakes)  # before a GPU is there: it would set one up
        stack.enter_context(python)
        stack.enter_context(gpu)
        stack.enter_context(patch.object(torch.autograd, "_engine_run_backward", backward))
        for name, value in cuda.items():
            stack.enter_context(patch.object(torch.cuda, name, value))
        stack.enter_context(patch.object(torch, "Generator", Chance))
        # older torch would start a driver for what is_available() says is there
        stack.enter_context(patch.object(fake_tensor, "init_gpu_context", lambda device: None))
        stack.enter_context(patch.object(torch.nn.Module, "_apply", moved))
        for module in list(sys.modules.values()):  # wherever they have been imported to
            if module.__name__.startswith(("earlib", "safetensors")):
                for name, value in list(vars(module).items()):
                    if value is REAL_OPEN or value is REAL_SAVE:
                        stack.enter_context(patch.object(module, name, Opened if value is REAL_OPEN else saved))
        yield gpu
