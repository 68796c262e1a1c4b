"""A prompt's embedding by the text encoder of Wan2.1 (UMT5-XXL): made once, never at serve time.

Needs the extra `wan` (transformers, tokenizers, ftfy), so nothing else imports it.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from pathlib import Path

import ftfy
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor
from transformers import UMT5Config, UMT5EncoderModel

from core.errors import UsageError
from core.model_settings import FOLDER
from core.models.wan.weights import PUBLISHED, read
from core.written import written

TEXT_LEN = 512
"""rows the transformer attends to; the tokens beyond them are cut off"""

XXL = UMT5Config(
    vocab_size=256384,
    d_model=4096,
    d_kv=64,
    d_ff=10240,
    num_layers=24,
    num_heads=64,
    relative_attention_num_buckets=32,
    relative_attention_max_distance=128,
    feed_forward_proj="gated-gelu",
    dropout_rate=0.0,
)

NAMES = {
    "norm1": "layer.0.layer_norm",
    "norm2": "layer.1.layer_norm",
    "attn.q": "layer.0.SelfAttention.q",
    "attn.k": "layer.0.SelfAttention.k",
    "attn.v": "layer.0.SelfAttention.v",
    "attn.o": "layer.0.SelfAttention.o",
    "pos_embedding.embedding": "layer.0.SelfAttention.relative_attention_bias",
    "ffn.gate.0": "layer.1.DenseReluDense.wi_0",
    "ffn.fc1": "layer.1.DenseReluDense.wi_1",
    "ffn.fc2": "layer.1.DenseReluDense.wo",
}
"""A block's tensors: the authors' name to that of transformers"""


def clean(prompt: str) -> str:
    """The prompt as the model was trained on it: broken encodings mended, HTML undone, one space between words."""
    text = html.unescape(html.unescape(ftfy.fix_text(prompt)))
    return re.sub(r"\s+", " ", text).strip()


def to_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The authors' tensors under the names of transformers' UMT5EncoderModel."""
    out: dict[str, Tensor] = {}
    for key, value in state.items():
        match = re.fullmatch(r"blocks\.(\d+)\.(.+)\.weight", key)
        if match is not None and match[2] in NAMES:
            out[f"encoder.block.{match[1]}.{NAMES[match[2]]}.weight"] = value
        elif key == "token_embedding.weight":
            out["shared.weight"] = out["encoder.embed_tokens.weight"] = value
        elif key == "norm.weight":
            out["encoder.final_layer_norm.weight"] = value
        else:
            raise UsageError(f"the text encoder's file holds {key}, which is unknown")
    return out


def load_encoder(path: Path, config: UMT5Config = XXL) -> UMT5EncoderModel:
    """The encoder with the tensors in `path`, as they are stored there (the published file: bfloat16, 11.4 GB)."""
    with torch.device("meta"):
        encoder = UMT5EncoderModel(config)
    encoder.load_state_dict(to_transformers(read(path)), strict=True, assign=True)
    if not encoder.get_input_embeddings().weight.any():
        raise UsageError(f"{path}: the token embeddings are all zero")
    return encoder.eval()


def tokenize(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """Token numbers of a cleaned prompt, at most TEXT_LEN, the last one the end of the sentence."""
    ids: list[int] = tokenizer.encode(clean(prompt)).ids
    end = tokenizer.token_to_id("</s>")
    if end is None:
        raise ValueError("the tokenizer knows no </s>: it is not UMT5's")
    if not ids or ids[-1] != end:
        ids.append(end)
    return ids if len(ids) <= TEXT_LEN else [*ids[: TEXT_LEN - 1], end]


@torch.inference_mode()
def embed(encoder: UMT5EncoderModel, ids: list[int]) -> Tensor:
    """The rows [n, width] of a prompt that are not padding: padding is masked, so it need not be computed."""
    device = encoder.get_input_embeddings().weight.device
    rows: Tensor = encoder(torch.tensor([ids], device=device)).last_hidden_state[0]
    if not torch.isfinite(rows).all():
        raise FloatingPointError("the prompt's embedding is not finite")
    return rows


def make_prompt(prompt: str, target: Path, folder: Path = FOLDER, device: str = "cpu", config: UMT5Config = XXL) -> int:
    """Writes the embedding of `prompt` to `target`; returns its number of rows.

    Raises UsageError, naming the command to run, when the text encoder is not in `folder`.
    """
    weights, tokenizer = (folder / PUBLISHED["umt5-xxl"].files[index].path for index in (0, 2))
    for path in (weights, tokenizer):
        if not path.is_file():
            raise UsageError(f"{path.name} is not in {folder}: fetch it with `avis weights fetch umt5-xxl`")
    ids = tokenize(Tokenizer.from_file(str(tokenizer)), prompt)
    rows = embed(load_encoder(weights, config).to(device), ids).to("cpu", torch.bfloat16).contiguous()
    with written(target) as part:
        save_file({"rows": rows}, part, metadata={"prompt": prompt})
    return len(rows)
