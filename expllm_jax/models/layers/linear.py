"""Linear layer with an optional low-rank adapter beside its kernel."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from expllm_jax.models.layers.dropout import dropout
from expllm_jax.models.lora import LoRAConfig
from expllm_jax.models.quantize import from_int8, to_int8
from expllm_jax.parallel import gather_stored, product

INIT_STD = 0.02  # of every dense kernel and embedding, as in DINOv2 and LLaMA
BASES = ("full", "int8")  # how a kernel is stored


class Linear(nnx.Module):
    """y = x @ kernel + bias [+ scaling * dropout(x) @ lora_a @ lora_b].

    `stack` prepends layer axes to every parameter: one module then describes L equal layers, and `jax.lax.scan` walks
    along the first axis. The adapter is computed in float32 whatever the compute dtype is; its result is cast back.
    The kernel starts with standard deviation init_std, or 1 / sqrt(inputs) if that is 0. With base "int8" it is stored
    as int8 beside a float32 `kernel_scale` of every output, is frozen, and y = (x @ kernel) * kernel_scale + ....
    `path` is the layer's, or the end of it, in `parallel.PARAM_RULES`: kernel and adapter are gathered by it.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        rngs: nnx.Rngs,
        bias: bool = True,
        stack: tuple[int, ...] = (),
        lora: LoRAConfig | None = None,
        dtype: str = "float32",
        param_dtype: str = "float32",
        init_std: float = INIT_STD,
        base: str = "full",
        path: str = "",
    ):
        self.dtype, self.path = dtype, path
        kernel = (init_std or inputs**-0.5) * jax.random.normal(rngs.params(), (*stack, inputs, outputs), jnp.float32)
        if base == "int8":
            kernel, scale = to_int8(kernel)
            self.kernel, self.kernel_scale = nnx.Param(kernel), nnx.Param(scale)
        else:
            self.kernel, self.kernel_scale = nnx.Param(kernel.astype(param_dtype)), None
        self.bias = nnx.Param(jnp.zeros((*stack, outputs), param_dtype)) if bias else None
        self.lora = lora if lora is not None and lora.rank else None
        if self.lora:
            bound = inputs**-0.5  # kaiming_uniform(a=sqrt(5)), the usual start of A
            a = jax.random.uniform(rngs.params(), (*stack, inputs, lora.rank), jnp.float32, -bound, bound)
            self.lora_a = nnx.LoRAParam(a)
            self.lora_b = nnx.LoRAParam(jnp.zeros((*stack, lora.rank, outputs), jnp.float32))

    def __call__(self, x: jax.Array, dropout_key: jax.Array | None = None, wide: jax.Array | None = None) -> jax.Array:
        """x (..., inputs) -> (..., outputs) in the compute dtype; adapter dropout only when a key is given.

        `wide` is x in float32, which the adapter reads. Layers that share x share it as well: then the gradients of
        their kernels by x are added up before those of the adapters join, and devices that split the kernels exchange
        one sum instead of one per layer.
        """
        # One matrix of all tokens: for a (B, T, D) operand XLA's CPU backend transposes on the way to the kernel's
        # gradient, which makes that product nearly twice as slow.
        rows = x.astype(self.dtype).reshape(-1, x.shape[-1])
        kernel = self.kernel[...]
        if self.kernel_scale is None:
            kernel = kernel.astype(self.dtype)
        if self.path:
            kernel = gather_stored(kernel, f"{self.path}/kernel")
        y = product(rows, kernel.astype(self.dtype)).reshape(*x.shape[:-1], -1)
        if self.kernel_scale is not None:  # per output, so it may follow the sum; int8 is exact in every float dtype
            y = (y * self.kernel_scale[...]).astype(self.dtype)
        if self.bias is not None:
            y = y + self.bias[...].astype(self.dtype)
        if self.lora:
            z = x.astype(jnp.float32) if wide is None else wide
            if dropout_key is not None and self.lora.dropout:
                z = dropout(z, dropout_key, self.lora.dropout)
            a, b = self.lora_a[...], self.lora_b[...]
            if self.path:
                a, b = gather_stored(a, f"{self.path}/lora_a"), gather_stored(b, f"{self.path}/lora_b")
            delta = product(product(z, a), b, like=y) * self.lora.scaling
            y = y + delta.astype(self.dtype)
        return y

    def folded(self) -> jax.Array:
        """One kernel (..., inputs, outputs) in the compute dtype that does what kernel and adapter do together."""
        kernel = self.kernel[...]
        if self.kernel_scale is not None:
            kernel = from_int8(kernel, self.kernel_scale[...])
        if self.lora:
            delta = jnp.matmul(self.lora_a[...], self.lora_b[...], precision="highest") * self.lora.scaling
            kernel = kernel.astype(jnp.float32) + delta
        return kernel.astype(self.dtype)
