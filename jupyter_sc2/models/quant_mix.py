"""Which type each tensor gets in a quantized GGUF: the mixtures that llama.cpp calls Q4_K_M and the like.

In a mixture the tensors that suffer most get more bits: the output layer, the values of the attention, and what
leads back into the residual stream, in some of the layers more than in others. The rules are llama.cpp's own, so
a file made here takes the memory and has the quality that users know by that name. No importance matrix is used.
"""

from __future__ import annotations

from collections.abc import Sequence

# A K-quant packs 256 weights of a row together; a row that does not divide so takes a type with blocks of 32.
WITHOUT_K = {"Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}


def tensor_type(
    name: str, shape: Sequence[int], mixture: str, *, layers: int, group: int, tied: bool
) -> str:
    """The type of one tensor, by its name in GGUF ("blk.3.ffn_down.weight") and its shape (rows, columns).

    `layers` is their number, `group` how many query heads share a key head, `tied` whether the embedding is also
    the output layer.
    """
    if len(shape) < 2:
        return "F32"  # norms and biases: next to nothing, and they are added, not multiplied
    if mixture == "F16":
        return "F16"
    part = name.removesuffix(".weight")
    layer = -1
    if part.startswith("blk."):
        _, number, part = part.split(".", 2)
        layer = int(number)
    chosen = _in_mixture(part, layer, mixture, layers=layers, group=group, tied=tied)
    columns = shape[-1]
    if columns % 256 and chosen in WITHOUT_K:
        output = part == "output" or (part == "token_embd" and tied)
        chosen = "Q8_0" if output else WITHOUT_K[chosen]
    return chosen if columns % 32 == 0 else "F16"


def _in_mixture(part: str, layer: int, mixture: str, *, layers: int, group: int, tied: bool) -> str:
    if part == "output" or (part == "token_embd" and tied):
        return "Q8_0" if mixture == "Q8_0" else "Q6_K"
    base = mixture.removesuffix("_M")
    early, more = layer < layers // 16, _gets_more(layer, layers)
    match mixture, part:
        case "Q2_K", "attn_v":
            return "Q4_K" if group >= 4 else "Q3_K"
        case "Q2_K", "attn_output" | "ffn_down":
            return "Q3_K"
        case "Q3_K_M", "attn_v":
            return "Q5_K" if layer < 2 else "Q4_K"
        case "Q3_K_M", "attn_output":
            return "Q4_K"
        case "Q3_K_M", "ffn_down":
            return "Q5_K" if early else "Q4_K"
        case "Q4_K_M" | "Q5_K_M", "attn_v" | "ffn_down":
            return "Q6_K" if more else base
    return base


def _gets_more(layer: int, layers: int) -> bool:
    """The first and the last eighth of the layers, and of those between each third."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2
