import pytest
import torch
from safetensors.torch import save_file

from core.contract import SolverConfig
from core.errors import UsageError
from core.model_settings import WanConfig
from core.models.wan import model as wan
from core.models.wan.dit import CausalDiT, DiTConfig
from core.models.wan.model import WanDenoiser, randomise
from core.models.wan.taehv import TAEHV, TAEHVConfig
from core.models.wan.vae import WanVAE, WanVAEConfig
from core.models.wan.weights import PUBLISHED, TO_DIFFUSERS, convert, find, load_into, read, to_ours
from core.operators.super_resolution import SuperResolution
from core.solver import Solver

CPU = torch.device("cpu")
DIT = DiTConfig(dim=48, ffn_dim=64, layers=2, heads=2, text_dim=8, text_len=4, freq_dim=16)
MODULES = {
    "dit": (CausalDiT, DIT),
    "wan-vae": (WanVAE, WanVAEConfig(base=8)),
    "taehv": (TAEHV, TAEHVConfig(encoder_width=8, decoder_widths=(8, 8, 8, 8))),
}


def make(kind, seed=0):
    module, config = MODULES[kind]
    return randomise(module, config, CPU, torch.float32, seed)


def same(model, state):
    return all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("kind", ["dit", "wan-vae"])
def test_the_layout_of_diffusers_loads_and_no_name_is_taken_twice(kind):
    state = make(kind).state_dict()
    theirs = {TO_DIFFUSERS[kind](name): value for name, value in state.items()}
    assert len(theirs) == len(state)
    assert same(make(kind, seed=1), make(kind, seed=1).state_dict())
    back = to_ours(theirs, kind, list(state))
    assert all(torch.equal(back[name], state[name]) for name in state)


@pytest.mark.parametrize("kind", ["dit", "wan-vae"])
def test_our_names_in_diffusers_are_those_of_diffusers(kind):
    diffusers = pytest.importorskip("diffusers")
    with torch.device("meta"):
        if kind == "dit":
            ours, theirs = CausalDiT(DiTConfig()), diffusers.WanTransformer3DModel(
                num_attention_heads=12, ffn_dim=8960, num_layers=30
            )  # fmt: skip
        else:
            ours, theirs = WanVAE(WanVAEConfig()), diffusers.AutoencoderKLWan()
    expected = {name: tuple(value.shape) for name, value in theirs.state_dict().items()}
    found = {TO_DIFFUSERS[kind](name): tuple(value.shape) for name, value in ours.state_dict().items()}
    assert found == expected


@pytest.mark.parametrize("wrap", ["generator_ema", "generator", "model", None])
def test_a_training_checkpoint_loads_with_whatever_its_wrappers_put_before_the_names(tmp_path, wrap):
    model = make("dit")
    state = {f"model._fsdp_wrapped_module.{name}": value for name, value in model.state_dict().items()}
    torch.save({wrap: state} if wrap else state, tmp_path / "checkpoint.pt")
    other = make("dit", seed=1)
    load_into(other, tmp_path / "checkpoint.pt", "dit")
    assert same(other, model.state_dict())


@pytest.mark.parametrize("kind", list(MODULES))
def test_conversion_keeps_every_tensor_to_bfloat16_and_loads_without_memory_of_its_own(tmp_path, kind):
    model = make(kind)
    torch.save(dict(model.state_dict()), tmp_path / "published.pth")
    names = list(model.state_dict())
    assert convert(tmp_path / "published.pth", tmp_path / "small.safetensors", kind, names) == len(names)
    module, config = MODULES[kind]
    with torch.device("meta"):
        empty = module(config)
    load_into(empty, tmp_path / "small.safetensors", kind)
    assert same(empty, {name: value.bfloat16() for name, value in model.state_dict().items()})
    assert not list(tmp_path.glob("*.part"))


def test_a_pickle_that_would_run_code_is_not_run(tmp_path, capsys):
    class Bomb:
        def __reduce__(self):
            return (print, ("boom",))

    torch.save({"a": Bomb()}, tmp_path / "bomb.pt")
    with pytest.raises(UsageError, match=r"bomb\.pt"):
        read(tmp_path / "bomb.pt")
    assert "boom" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["text.pth", "text.safetensors", "nothing.pth", "nothing.safetensors"])
def test_a_file_that_is_no_checkpoint_is_a_usage_error(tmp_path, name):
    (tmp_path / name).write_text("hello world\n" * 100 if name.startswith("text") else "")
    with pytest.raises(UsageError, match=r"expected a checkpoint or a safetensors file, found .*" + name):
        read(tmp_path / name)


def test_weights_of_another_model_are_refused_with_examples(tmp_path):
    save_file({"head.head.weight": torch.zeros(2)}, tmp_path / "odd.safetensors")
    with pytest.raises(UsageError, match=r"not weights of a dit .* tensors are missing"):
        load_into(make("dit"), tmp_path / "odd.safetensors", "dit")
    state = dict(make("dit").state_dict())
    state["head.head.weight"] = torch.zeros(3, 48)
    save_file(state, tmp_path / "odd.safetensors")
    with pytest.raises(UsageError, match=r"head.head.weight has shape \(3, 48\), expected \(64, 48\)"):
        load_into(make("dit"), tmp_path / "odd.safetensors", "dit")


def test_missing_weights_name_the_command_and_the_way_without(tmp_path):
    with pytest.raises(UsageError, match=r"`avis weights fetch taehv`.*`--weights random`"):
        wan.load("pretrained", CPU, "taehv", WanConfig(folder=tmp_path))


def test_converted_weights_are_preferred_to_published_ones(tmp_path):
    for name in (PUBLISHED["taehv"].files[0].path, PUBLISHED["taehv"].converted):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        assert find("taehv", tmp_path) == path


def test_a_model_loads_from_its_folder_with_a_prompt(tmp_path, monkeypatch):
    """`load` with files of small models in the places of the published ones."""
    monkeypatch.setattr(wan, "DiTConfig", lambda **_: DIT)
    monkeypatch.setattr(wan, "TAEHVConfig", lambda: MODULES["taehv"][1])
    for name, kind in (("self-forcing", "dit"), ("taehv", "taehv")):
        path = tmp_path / PUBLISHED[name].files[0].path
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"generator_ema": dict(make(kind).state_dict())}, path)
    save_file({"rows": torch.ones(2, DIT.text_dim)}, tmp_path / "prompt.safetensors")
    config = WanConfig(layers=DIT.layers, folder=tmp_path, prompt=tmp_path / "prompt.safetensors")
    codec, denoiser = wan.load("pretrained", CPU, "taehv", config)
    assert same(codec, make("taehv").state_dict())
    assert same(denoiser.dit, make("dit").state_dict())
    assert denoiser.context.keys.shape[2] == 3
    z, _ = codec.encode(torch.zeros(9, 3, 32, 32), None)
    assert denoiser(z, 0.1, denoiser.new_cache(32, 32))[0].shape == z.shape


def test_a_file_that_is_no_prompt_is_refused(tmp_path):
    save_file({"weight": torch.ones(2, 3)}, tmp_path / "odd.safetensors")
    with pytest.raises(UsageError, match="is no prompt embedding"):
        wan.prompt_rows(tmp_path / "odd.safetensors", DIT)
    with pytest.raises(UsageError, match="avis weights prompt"):
        wan.prompt_rows(tmp_path / "none.safetensors", DIT)


@pytest.mark.parametrize("codec", ["taehv", "wan-vae"])
def test_the_solver_runs_a_guided_and_a_plain_chunk_with_either_codec(codec):
    video = make(codec)
    video = video.pack() if codec == "wan-vae" else video
    dit = make("dit")
    with torch.inference_mode():
        denoiser = WanDenoiser(dit, dit.context(torch.zeros(0, DIT.text_dim)))
    solver = Solver(video, denoiser)
    operator = SuperResolution()
    operator.prepare(32, 48)
    state = solver.new_state(operator, 32, 48)
    guided = []
    for frames in (9, 12, 12):
        restored, state = solver.restore(torch.zeros(frames, 3, 8, 12), state, SolverConfig(reinject_every=2))
        guided.append(restored.guided)
        assert restored.x.shape == (frames, 3, 32, 48)
        assert torch.isfinite(restored.x).all()
    assert guided == [True, False, True]
    assert state.cache.chunks == 3
