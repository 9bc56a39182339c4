"""The next-scale family on tiny random models, with both quantisers: the identities that must hold, and what is
refused."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from earlib.erasure.presets import SCALE_PRESETS as PRESETS
from earlib.erasure.presets import with_settings
from earlib.erasure.steering import NegativePrompt, steered
from earlib.errors import UserError
from earlib.generators import load, load_generator
from earlib.generators.sampling import guided
from earlib.generators.var.config import NextScaleConfig
from earlib.generators.var.draw import draw_batch
from earlib.generators.var.generator import NextScaleGenerator
from earlib.generators.var.model import NextScaleModel
from earlib.generators.var.tokenizer import resize_matrix

TINY = dict(
    image_size=24,
    strides=(2, 2),
    channels=(8, 16),
    schedule=(1, 2, 3, 6),
    code_width=6,
    codebook_size=40,
    text_length=16,
    text_width=32,
    text_layers=1,
    width=32,
    layers=2,
    head_width=16,
)
PROMPTS = ["a red church on a hill", "a boat", "a sketch of a blue car at night", "a boat"]
SEEDS = [3, 4, 5, 2**61 + 7]


class Usual:
    """The usual guidance, as a way of steering that keeps the logits of both rows at every scale."""

    def __init__(self):
        self.seen = []

    def rows(self, generator, prompts, guidance):
        return [prompts, generator.null_like(prompts)]

    def combine(self, logits, guidance, scale):
        self.seen.append(logits)
        return guided(logits, guidance, None)

    def watching(self, generator):
        return ()


def published(name, **settings):
    """A preset of next-scale models with its published numbers, whatever the model."""
    return with_settings(PRESETS[name], settings)


def tiny(quantiser="bsq", seed=0, **flags):
    """An untrained generator in which every weight matters: layers that start at zero are given numbers."""
    from earlib.miniworld.models import build_tokenizer

    torch.manual_seed(seed)
    words = build_tokenizer()
    model = NextScaleModel(NextScaleConfig(vocabulary=len(words), quantiser=quantiser, **(TINY | flags)), words)
    for layer in (model.trunk.modulation, model.trunk.head_modulation, model.trunk.head):
        torch.nn.init.normal_(layer.weight, std=0.3)
    return NextScaleGenerator(model)


@pytest.fixture(scope="module", params=["bsq", "vq", "bsq-phi"])
def generator(request):
    quantiser, _, phi = request.param.partition("-")
    return tiny(quantiser, phis=2 if phi else 0)


@pytest.fixture(scope="module")
def codes(generator):
    return generator.sample(PROMPTS, SEEDS, guidance=2.0)


def pictures(n=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, 24, 24, 3), dtype=np.uint8)


# ------------------------------------------------------------------ what must hold of any next-scale model


def test_scale_by_scale_logits_are_those_of_one_masked_pass(generator, codes):
    batch, usual = generator.encode(PROMPTS), Usual()
    with steered(generator, usual):
        assert torch.equal(generator.sample(PROMPTS, SEEDS, 2.0), codes)
    for row, prompts in enumerate((batch, generator.null_like(batch))):
        cached = torch.cat([logits[row] for logits in usual.seen], 1)
        assert (cached - generator.logits(prompts, codes)).abs().max() < 1e-4
        assert cached.std() > 0.1


def test_drawing_reads_what_training_builds(generator):
    read = []
    handle = generator.trunk.enter.register_forward_pre_hook(lambda module, args: read.append(args[0]))
    batch = generator.encode(PROMPTS)
    codes = draw_batch(generator, [batch], torch.tensor(SEEDS), 1.0, 1.0)
    handle.remove()
    assert torch.equal(torch.cat(read, 1), generator.inputs_of(codes))


def test_training_on_a_picture_builds_what_its_codes_give(generator):
    tokenizer = generator.tokenizer
    f = torch.randn(3, 6, 6, 6)
    added = []

    def corrupt(clean, k):
        added.append(generator.quantiser.corrupt(clean, torch.full((3, 1, 1), 0.3)))
        return added[-1]

    codes, inputs, steps = tokenizer.pyramid(f)
    again, f_hat = tokenizer.accumulate(codes)
    assert torch.equal(inputs, again) and torch.equal(steps[-1], f_hat)
    clean, inputs, steps = tokenizer.pyramid(f, corrupt)
    again, f_hat = tokenizer.accumulate(torch.cat(added, 1))
    assert torch.equal(inputs, again) and torch.equal(steps[-1], f_hat)
    first, later = generator.spans[0], generator.spans[-1]
    assert torch.equal(clean[:, first], codes[:, first])  # targets of a scale stay clean
    assert not torch.equal(clean[:, later], codes[:, later])  # later ones spell what the changed codes have left


def test_no_scale_sees_itself_or_what_follows(generator, codes):
    batch = generator.encode(PROMPTS)
    before = generator.logits(batch, codes)
    flipped = codes ^ 1
    for k, span in enumerate(generator.spans[:-1]):
        changed = codes.clone()
        changed[:, span] = flipped[:, span]
        after = generator.logits(batch, changed)
        assert torch.equal(after[:, : span.stop], before[:, : span.stop])
        following = generator.spans[k + 1]
        assert (after[:, following] - before[:, following]).abs().max() > 1e-3


def test_pictures_of_codes_are_those_of_f_hat(generator):
    tokenizer = generator.tokenizer
    pixels = torch.from_numpy(pictures()).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        codes, _, steps = tokenizer.pyramid(tokenizer.encoder(pixels))
        assert torch.equal(generator.tokenize(pictures()), codes)
        assert torch.allclose(tokenizer.rebuild(codes), tokenizer.decoder(steps[-1]), atol=1e-5)
    drawn = generator.decode(codes)
    assert drawn.shape == (3, 24, 24, 3) and drawn.dtype == np.uint8


def test_cross_entropy_of_bits_is_that_of_their_labels():
    generator = tiny("bsq")
    codes = generator.sample(PROMPTS, SEEDS)
    logits = generator.logits(generator.encode(PROMPTS), codes)
    assert logits.shape == (*codes.shape, 2)
    by_torch = F.cross_entropy(logits.permute(0, 3, 1, 2), codes, reduction="none")  # [B, 2, L, C] against [B, L, C]
    assert torch.allclose(generator.quantiser.cross_entropy(logits, codes), by_torch, atol=1e-5)


def test_cross_entropy_of_tokens_is_that_of_their_labels():
    generator = tiny("vq")
    codes = generator.sample(PROMPTS, SEEDS)
    logits = generator.logits(generator.encode(PROMPTS), codes)
    assert logits.shape == (*codes.shape, 40)
    by_hand = -logits.log_softmax(-1).gather(-1, codes.unsqueeze(-1))[..., 0]
    assert torch.allclose(generator.quantiser.cross_entropy(logits, codes), by_hand, atol=1e-5)


# ------------------------------------------------------------------ drawing


@pytest.mark.parametrize("mode", ["area", "bilinear", "bicubic", "nearest"])
@pytest.mark.parametrize("size, to", [(6, 4), (6, 1), (1, 6), (4, 6), (6, 6)])
def test_resizing_by_matrix_is_resizing(mode, size, to):
    x = torch.randn(2, 3, size, size)
    options = {} if mode in ("area", "nearest") else {"align_corners": False}
    matrix = resize_matrix(size, to, mode)
    assert torch.allclose(matrix @ x @ matrix.T, F.interpolate(x, (to, to), mode=mode, **options), atol=1e-5)


def test_text_enters_by_all_three_routes():
    generator = tiny()
    trunk, codes = generator.trunk, generator.sample(PROMPTS, SEEDS)
    one, other = generator.encode(["a red church"]), generator.encode(["a blue boat"])
    inputs = generator.inputs_of(codes[:1])
    a, b = (trunk.condition(p.ids_BP, p.mask_BP) for p in (one, other))
    base = trunk(a, inputs)
    from dataclasses import replace

    for route in ("words_BPE", "start_BD", "modulation_B6D"):
        assert (trunk(replace(a, **{route: getattr(b, route)}), inputs) - base).abs().max() > 1e-4, route


def test_prompts_do_not_see_padding():
    generator = tiny()
    ids, mask = generator.encode(["a red church"]).ids_BP, generator.encode(["a red church"]).mask_BP
    other = torch.where(mask.bool(), ids, 7)
    inputs = generator.inputs_of(generator.sample(["a boat"], [1]))
    assert torch.equal(
        generator.trunk(generator.trunk.condition(ids, mask), inputs),
        generator.trunk(generator.trunk.condition(other, mask), inputs),
    )


def test_temperature_zero_takes_the_likeliest(generator):
    codes = generator.sample(PROMPTS, SEEDS, guidance=1.0, temperature=0.0)
    assert torch.equal(generator.logits(generator.encode(PROMPTS), codes).argmax(-1), codes)


def test_given_scales_are_kept_and_continued(generator, codes):
    stop = generator.spans[1].stop
    assert torch.equal(generator.sample(PROMPTS, SEEDS, guidance=2.0, given=codes[:, :stop]), codes)
    changed = codes[:, :stop] ^ 1
    again = generator.sample(PROMPTS, SEEDS, guidance=2.0, given=changed)
    assert torch.equal(again[:, :stop], changed) and not torch.equal(again[:, stop:], codes[:, stop:])
    with pytest.raises(UserError, match="3 given codes are no whole scales; those end at 1, 5, 14, 50"):
        generator.sample(PROMPTS, SEEDS, given=codes[:, :3])


def test_what_is_drawn_from_is_what_one_masked_pass_gives(generator, codes):
    """Guided log-probabilities along given codes, scale by scale, are those of teacher forcing."""
    batch = generator.encode(PROMPTS)
    with torch.no_grad():
        told, untold = generator.logits(batch, codes), generator.logits(generator.null_like(batch), codes)
    logits = untold + 3 * (told - untold)
    expected = (logits if generator.quantiser.code_shape else logits.unsqueeze(2)).log_softmax(-1)
    torch.testing.assert_close(
        generator.log_probabilities(PROMPTS, codes, guidance=3.0), expected, atol=1e-4, rtol=1e-3
    )


def test_a_negative_prompt_takes_the_place_of_none(generator):
    with steered(generator, NegativePrompt("a boat")):
        away = generator.sample(PROMPTS, SEEDS, guidance=2.0)
    same = generator.sample(PROMPTS, SEEDS, guidance=1.0)
    assert torch.equal(away[[1, 3]], same[[1, 3]])  # away from oneself, guidance cancels
    assert not torch.equal(away[0], same[0])


def test_no_pictures_and_too_long_prompts(generator):
    assert len(generator.decode(generator.sample([], []))) == 0
    with pytest.raises(UserError, match="a prompt of 21 words is too long: 16 fit; it begins 'church"):
        generator.sample(["a boat", "church " * 20], [1, 2])
    assert generator.unknown_words(["a church atop a Xylophone"]) == ["atop", "xylophone"]


# ------------------------------------------------------------------ quantisers


def test_a_bit_code_is_a_unit_vector_of_signs():
    quantiser = tiny("bsq").quantiser
    z = torch.randn(5, 7, 6)
    vectors = quantiser.vectors(quantiser.quantise(z))
    assert torch.allclose(vectors.norm(dim=-1), torch.ones(5, 7)) and torch.equal(vectors > 0, z > 0)


def test_a_codebook_code_is_the_nearest_row():
    quantiser = tiny("vq").quantiser
    z = torch.randn(5, 7, 6)
    assert torch.equal(quantiser.quantise(z), torch.cdist(z, quantiser.codebook.expand(5, -1, -1)).argmin(-1))


def test_codes_change_at_the_asked_rate(generator):
    codes = torch.zeros((2, 4000) if generator.config.quantiser == "vq" else (2, 4000, 6), dtype=torch.long)
    rate = torch.tensor([0.0, 0.3]).view(2, 1, 1)
    changed = generator.quantiser.corrupt(codes, rate, torch.Generator().manual_seed(0)) != codes
    assert not changed[0].any()
    assert abs(changed[1].float().mean() - 0.3) < 0.03


# ------------------------------------------------------------------ files


def test_a_saved_model_draws_what_it_drew(generator, codes, tmp_path):
    generator.model.save_pretrained(tmp_path)
    loaded = load_generator(tmp_path)
    halves = {name: tensor.half().float() for name, tensor in generator.model.state_dict().items()}
    assert all(torch.equal(tensor, halves[name]) for name, tensor in loaded.model.state_dict().items())
    assert loaded.config == generator.config and loaded.profile == "custom"
    assert (loaded.sample(PROMPTS, SEEDS, guidance=2.0) == codes).float().mean() > 0.9  # but for near ties
    assert (tmp_path / "model.safetensors").stat().st_size < 2.2 * sum(
        p.numel() for p in generator.model.parameters()
    ) + 20_000
    assert NextScaleModel.from_pretrained(tmp_path).config == generator.config


@pytest.fixture
def folder(tmp_path):
    tiny("vq").model.save_pretrained(tmp_path)
    return tmp_path


def edit(folder, **flags):
    path = folder / "config.json"
    path.write_text(json.dumps({k: v for k, v in (json.loads(path.read_text()) | flags).items() if v is not ...}))


@pytest.mark.parametrize(
    "flags, message",
    [
        (
            {"resize_up": "bilinear"},
            "config.json says resize_up = bilinear, but the weights were trained with bicubic; restore config.json",
        ),
        ({"quantiser": "bsq"}, "config.json says quantiser = bsq, but the weights were trained with vq"),
        ({"schedule": [1, 3, 6]}, "config.json says schedule = .1, 3, 6., but the weights"),
        ({"schedule": [1, 2, 3, 5]}, r"the scale schedule \(1, 2, 3, 5\) must end at the latent size 6"),
        ({"code_width": 8}, "config.json says code_width = 8, but the weights were trained with 6"),
        ({"resize_down": ...}, "the flag 'resize_down' is missing"),
        ({"shedule": [1]}, "unknown flag 'shedule'; did you mean 'schedule'"),
        ({"quantiser": "lfq"}, "unknown quantiser 'lfq'"),
    ],
)
def test_a_checkpoint_with_other_flags_is_refused(folder, flags, message):
    edit(folder, **flags)
    with pytest.raises(UserError, match=message) as error:
        load_generator(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", ["[]", "3", "{"])
def test_broken_words_are_named(folder, name, content):
    (folder / name).write_text(content)
    with pytest.raises(UserError, match="tokenizer.json or tokenizer_config.json cannot be read") as error:
        load_generator(folder)
    assert "\n" not in str(error.value)


def test_defaults_for_drawing_may_be_edited(folder):
    edit(folder, guidance=3.5)
    assert load_generator(folder).guidance == 3.5


def test_a_codebook_of_the_wrong_width_is_refused(folder):
    from safetensors import safe_open
    from safetensors.torch import save_file

    path = folder / "model.safetensors"
    with safe_open(path, "pt") as file:
        about, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}
    tensors["tokenizer.quantiser.codebook"] = torch.zeros(40, 9, dtype=torch.float16)
    save_file(tensors, path, about)
    with pytest.raises(UserError, match=r"quantiser.codebook has shape \[40, 9\], but config.json makes it \[40, 6\]"):
        load_generator(folder)
    tensors.pop("tokenizer.quantiser.codebook")
    save_file(tensors, path, about)
    with pytest.raises(
        UserError, match="1 tensors do not fit config.json; the first, tokenizer.quantiser.codebook, is missing from"
    ):
        load_generator(folder)


def test_folders_that_hold_no_model_are_refused(folder, tmp_path_factory, monkeypatch):
    monkeypatch.setitem(load.PROFILES, "mini-var", tmp_path_factory.mktemp("untrained"))
    with pytest.raises(
        UserError, match="'mini-var' is missing from .*; make it with: python -m .*miniworld.make --out .* var"
    ):
        load_generator("mini-var")
    with pytest.raises(UserError, match="no model 'mini-vat'.*mini-var"):
        load_generator("mini-vat")
    with pytest.raises(UserError, match="it holds no config.json"):
        load_generator(tmp_path_factory.mktemp("empty"))
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="broken or cut short"):
        load_generator(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match="config.json"):
        load_generator(folder)


@pytest.mark.parametrize(
    "flags, message",
    [
        ({"schedule": (1, 2, 4)}, "must end at the latent size 6"),
        ({"schedule": (2, 3, 6)}, "must rise from 1 to 6"),
        ({"schedule": ()}, "must end at the latent size 6"),
        ({"strides": (5, 2)}, "do not divide pictures of 24 pixels"),
        ({"width": 40}, "multiples of the head width 16"),
        ({"resize_up": "cubic"}, "unknown resize_up 'cubic'; did you mean 'bicubic'"),
    ],
)
def test_sizes_that_do_not_belong_together_are_refused(flags, message):
    with pytest.raises(UserError, match=message):
        NextScaleConfig(**(TINY | flags))


# ------------------------------------------------------------------ training
