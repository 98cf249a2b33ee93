"""What is measured: objects with a name, the bytes that a step moves for each
parameter, and the step, which works on the parameters and gradients of a Model.
"""

import mmap

import torch

import libsonew

FLOAT = 4
LR, WEIGHT_DECAY = 1e-4, 0.01


class Model:
    """Parameters and gradients, shared by all that step them.

    Gradients differ from step to step, as in training: step t reads the same
    random numbers from another place on, a cache line further for each step.
    """

    GRADIENTS = 8
    LINE = 64 // FLOAT

    def __init__(self, shapes):
        torch.manual_seed(1)
        self.shapes = shapes
        self.params = [torch.nn.Parameter(torch.randn(s) * 0.05) for s in shapes]
        lens = [p.numel() for p in self.params]
        self.len = sum(lens)
        room = self.GRADIENTS * self.LINE
        numbers = [torch.randn(n + room) * 0.01 for n in lens]
        self.grads = [
            [g[i * self.LINE :][:n].view(s) for g, n, s in zip(numbers, lens, shapes)]
            for i in range(self.GRADIENTS)
        ]

    def gradients(self, step):
        return self.grads[step % self.GRADIENTS]


class FusedAdamW:
    """The yardstick: `optimizer.step()` as a PyTorch program calls it."""

    name = "PyTorch fused AdamW"
    bytes = 7 * FLOAT

    def __init__(self, model):
        self.model = model
        self.optimizer = torch.optim.AdamW(
            model.params, lr=LR, weight_decay=WEIGHT_DECAY, foreach=False, fused=True
        )

    def prepare(self, step):
        for param, grad in zip(self.model.params, self.model.gradients(step)):
            param.grad = grad

    def step(self):
        self.optimizer.step()


class FusedAdamWKernel:
    """The same without the Python code around it, on the same state."""

    name = "the same, its kernel alone"
    bytes = 7 * FLOAT

    def __init__(self, adamw):
        self.model = adamw.model
        adamw.prepare(0)
        adamw.step()
        state = [adamw.optimizer.state[p] for p in self.model.params]
        self.averages = [[s[k] for s in state] for k in ("exp_avg", "exp_avg_sq")]
        self.steps = [s["step"] for s in state]

    def prepare(self, step):
        self.grads = self.model.gradients(step)

    def step(self):
        with torch.no_grad():
            torch._fused_adamw_(
                self.model.params, self.grads, *self.averages, [], self.steps,
                lr=LR, beta1=0.9, beta2=0.999, weight_decay=WEIGHT_DECAY, eps=1e-8,
                amsgrad=False, maximize=False,
            )  # fmt: skip


class JaxAdamW:
    """Optax's AdamW, compiled, with buffers that are updated in place."""

    name = "JAX, optax.adamw compiled"
    bytes = 7 * FLOAT

    def __init__(self, model):
        import jax
        import optax

        def array(tensor):
            return jax.numpy.array(tensor.detach().numpy())

        def step(params, state, grads):
            updates, state = adamw.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        adamw = optax.adamw(LR, weight_decay=WEIGHT_DECAY)
        self.wait = jax.block_until_ready
        self.compiled = jax.jit(step, donate_argnums=(0, 1))
        self.params = [array(p) for p in model.params]
        self.grads = [array(g) for g in model.gradients(0)]
        self.state = adamw.init(self.params)

    def prepare(self, step):
        pass

    def step(self):
        self.params, self.state = self.compiled(self.params, self.state, self.grads)
        self.wait(self.params)


class Sonew:
    """A row of the table, through the C API."""

    def __init__(self, row, model, threads):
        self.name, self.model = row.name, model
        self.bytes = row.bytes()
        self.optimizer = libsonew.Optimizer(
            model.shapes,
            lr=LR,
            non_finite="skip" if row.check else "unchecked",
            chains=row.chains,
            state_dtype=row.state,
            weight_decay=WEIGHT_DECAY,
            threads=threads,
            **row.options(),
        )
        self.params = libsonew.pointers(model.params)
        self.all_grads = [libsonew.pointers(grads) for grads in model.grads]

    def prepare(self, step):
        self.grads = self.all_grads[step % len(self.all_grads)]

    def step(self):
        self.optimizer.step(self.params, self.grads)


class Stream:
    """The memory bandwidth: a += b over two arrays far beyond the caches, on
    huge pages where the system gives them. Each number of a is read and
    written, each of b read.
    """

    LEN = 1 << 26
    bytes = 3 * FLOAT
    name = "a += b, 2 x 268 MB"

    def __init__(self):
        self.a, self.b = self.array(), self.array()

    def array(self):
        memory = mmap.mmap(-1, self.LEN * FLOAT, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory.madvise(mmap.MADV_HUGEPAGE)
        return torch.frombuffer(memory, dtype=torch.float32).fill_(1e-3)

    def prepare(self, step):
        pass

    def step(self):
        torch.add(self.a, self.b, out=self.a)
