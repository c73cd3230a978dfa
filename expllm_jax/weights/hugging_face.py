"""Names of the parts whose files other tools read: `LlamaForCausalLM`, and our own of the projector."""

from __future__ import annotations

from expllm_jax.models import DecoderConfig, ProjectorConfig
from expllm_jax.weights.naming import SAME, TRANSPOSED, Source

# Hugging Face name inside `model.layers.N.` -> our path inside `blocks/`
_LLAMA_BLOCK = {
    "input_layernorm.weight": "norm1/scale",
    "self_attn.q_proj.weight": "attn/q/kernel",
    "self_attn.k_proj.weight": "attn/k/kernel",
    "self_attn.v_proj.weight": "attn/v/kernel",
    "self_attn.o_proj.weight": "attn/o/kernel",
    "post_attention_layernorm.weight": "norm2/scale",
    "mlp.gate_proj.weight": "mlp/gate/kernel",
    "mlp.up_proj.weight": "mlp/up/kernel",
    "mlp.down_proj.weight": "mlp/down/kernel",
}
_QKV_BIAS = {f"self_attn.{name}_proj.bias": f"attn/{name}/bias" for name in "qkv"}


def llama_table(config: DecoderConfig) -> dict[str, Source]:
    """Hugging Face `LlamaForCausalLM` name -> where it goes (no `lm_head.weight` when it is tied)."""
    table = {"model.embed_tokens.weight": Source("embedding"), "model.norm.weight": Source("norm/scale")}
    if not config.tied:
        table["lm_head.weight"] = Source("lm_head/kernel", transform=TRANSPOSED)
    block = _LLAMA_BLOCK | (_QKV_BIAS if config.qkv_bias else {})
    for layer in range(config.depth):
        for name, path in block.items():
            transform = TRANSPOSED if path.endswith("/kernel") else SAME
            table[f"model.layers.{layer}.{name}"] = Source(f"blocks/{path}", layer, transform)
    return table


def projector_table(config: ProjectorConfig) -> dict[str, Source]:
    """`layers.N.weight` and `.bias`, laid out as PyTorch's Linear."""
    table = {}
    for layer in range(config.depth):
        table[f"layers.{layer}.weight"] = Source(f"layers/{layer}/kernel", transform=TRANSPOSED)
        table[f"layers.{layer}.bias"] = Source(f"layers/{layer}/bias")
    return table
