import pytest
import torch
from safetensors import safe_open

from core.errors import UsageError
from core.models.wan import umt5
from core.models.wan.dit import DiTConfig
from core.models.wan.model import prompt_rows
from core.models.wan.weights import PUBLISHED

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

SMALL = transformers.UMT5Config(
    vocab_size=20, d_model=16, d_kv=4, d_ff=24, num_layers=2, num_heads=4,
    feed_forward_proj="gated-gelu", dropout_rate=0.0,
)  # fmt: skip
WORDS = {"</s>": 1, "<unk>": 2, "a": 3, "cat": 4, "walks": 5}


def make_tokenizer():
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(WORDS, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    return tokenizer


def published_names(state):
    """The tensors of transformers under the authors' names."""
    names = {theirs: ours for ours, theirs in umt5.NAMES.items()}
    out = {"token_embedding.weight": state["shared.weight"], "norm.weight": state["encoder.final_layer_norm.weight"]}
    for key, value in state.items():
        if key.startswith("encoder.block."):
            layer, inner = key.removeprefix("encoder.block.").removesuffix(".weight").split(".", 1)
            out[f"blocks.{layer}.{names[inner]}.weight"] = value
    return out


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    encoder = transformers.UMT5EncoderModel(SMALL).eval()
    weights, _, tokenizer, *_ = (tmp_path / file.path for file in PUBLISHED["umt5-xxl"].files)
    tokenizer.parent.mkdir(parents=True)
    torch.save(published_names(encoder.state_dict()), weights)
    make_tokenizer().save(str(tokenizer))
    return tmp_path, encoder


def test_a_prompt_becomes_the_rows_the_encoder_gives_when_padding_is_masked(folder):
    path, encoder = folder
    target = path / "out" / "prompt.safetensors"
    assert umt5.make_prompt("a  cat\nwalks", target, path, config=SMALL) == 4
    ids = torch.tensor([[3, 4, 5, 1, 0, 0, 0]])
    with torch.inference_mode():
        expected = encoder(ids, attention_mask=(ids > 0).long()).last_hidden_state[0, :4]
    rows = prompt_rows(target, DiTConfig(text_dim=16))
    assert ((rows.float() - expected).abs().max() / expected.abs().max()) < 2e-2
    with safe_open(target, "pt") as file:
        assert file.metadata()["prompt"] == "a  cat\nwalks"


def test_a_prompt_is_cleaned_cut_and_ended():
    tokenizer = make_tokenizer()
    assert umt5.clean(" a &amp;amp; b\u2019s\n cat ") == "a & b's cat"
    assert umt5.tokenize(tokenizer, "") == [1]
    long = umt5.tokenize(tokenizer, "cat " * 600)
    assert len(long) == umt5.TEXT_LEN
    assert long[-1] == 1


def test_a_missing_encoder_names_the_command(tmp_path):
    with pytest.raises(UsageError, match="avis weights fetch umt5-xxl"):
        umt5.make_prompt("a cat", tmp_path / "p.safetensors", tmp_path)


def test_the_published_shape_has_5680910336_parameters():
    with torch.device("meta"):
        encoder = transformers.UMT5EncoderModel(umt5.XXL)
    assert sum(p.numel() for p in encoder.parameters()) == 5_680_910_336
