"""The door to Infinity: a small random model in the authors' layout, against their equations written out; and what the
loader refuses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from earlib.__main__ import main
from earlib.concepts import Concept, PromptPair
from earlib.erasure import erase
from earlib.erasure.change import tensor_names
from earlib.erasure.presets import SCALE_PRESETS as PRESETS
from earlib.erasure.steering import steered
from earlib.errors import UserError
from earlib.generators.files.infinity import load_infinity
from earlib.generators.load import family_of, load_generator
from earlib.generators.var.config import NextScaleConfig
from earlib.generators.var.infinity import SCHEDULE, InfinityTrunk

from .test_nextscale import Usual, published

WIDTH, HEADS, TEXT, LENGTH, BITS, HIDDEN, CHUNKS, PIXELS = 64, 2, 96, 48, 8, 96, 2, 8
SIDES = (1, 2, 4)
PROMPTS = ["a red church on a hill", "a boat"]
CHANNELS = (32, 64)


def stored_trunk(chunked=True) -> dict[str, torch.Tensor]:
    """A random transformer of four blocks in the layout of Infinity's state dict."""
    generator = torch.Generator().manual_seed(0)
    r = lambda *shape, std=0.2: torch.randn(shape, generator=generator) * std
    linear = lambda name, out, wide, bias=True: (
        {f"{name}.weight": r(out, wide)} | ({f"{name}.bias": r(out)} if bias else {})
    )
    out = {
        "cfg_uncond": r(LENGTH, TEXT),
        "text_norm.weight": 1 + r(TEXT),
        "pos_start": r(1, 1, WIDTH),
        "lvl_embed.weight": r(15, WIDTH, std=1),
    }
    pool = "text_proj_for_sos.ca"
    out |= {
        f"{pool}.mat_q": r(1, HEADS, WIDTH // HEADS, std=1),
        f"{pool}.v_bias": r(WIDTH),
        f"{pool}.zero_k_bias": torch.zeros(WIDTH),
    }
    out |= linear(f"{pool}.mat_kv", 2 * WIDTH, TEXT, False) | linear(f"{pool}.proj", WIDTH, WIDTH)
    out |= (
        linear("text_proj_for_ca.0", WIDTH, TEXT)
        | linear("text_proj_for_ca.2", WIDTH, WIDTH)
        | linear("word_embed", WIDTH, BITS)
    )
    out |= (
        linear("shared_ada_lin.1", 6 * WIDTH, WIDTH)
        | linear("head_nm.ada_lin.1", 2 * WIDTH, WIDTH)
        | linear("head", 2 * BITS, WIDTH)
    )
    for i in range(4):
        b = f"block_chunks.{i // 2}.module.{i % 2}" if chunked else f"blocks.{i}"
        out |= {
            f"{b}.ada_gss": r(1, 1, 6, WIDTH, std=0.5),
            f"{b}.ca_norm.weight": 1 + r(WIDTH),
            f"{b}.ca_norm.bias": r(WIDTH),
        }
        out |= {
            f"{b}.sa.scale_mul_1H11": math.log(4) + r(1, HEADS, 1, 1, std=2),
            f"{b}.sa.q_bias": r(WIDTH),
            f"{b}.sa.v_bias": r(WIDTH),
        }
        out |= {
            f"{b}.sa.zero_k_bias": torch.zeros(WIDTH),
            f"{b}.ca.zero_k_bias": torch.zeros(WIDTH),
            f"{b}.ca.v_bias": r(WIDTH),
        }
        out |= (
            linear(f"{b}.sa.mat_qkv", 3 * WIDTH, WIDTH, False)
            | linear(f"{b}.sa.proj", WIDTH, WIDTH)
            | linear(f"{b}.ca.mat_q", WIDTH, WIDTH)
        )
        out |= linear(f"{b}.ca.mat_kv", 2 * WIDTH, WIDTH, False) | linear(f"{b}.ca.proj", WIDTH, WIDTH)
        out |= linear(f"{b}.ffn.fc1", HIDDEN, WIDTH) | linear(f"{b}.ffn.fc2", WIDTH, HIDDEN)
    return out


def stored_vae() -> dict[str, torch.Tensor]:
    """A random tokenizer's decoder, and a tensor of its encoder."""
    generator = torch.Generator().manual_seed(1)
    r = lambda *shape: torch.randn(shape, generator=generator) * 0.1
    conv = lambda name, out, wide, size=3: {
        f"{name}.conv.weight": r(out, wide, size, size),
        f"{name}.conv.bias": r(out),
    }
    norm = lambda name, n: {f"{name}.norm.weight": 1 + r(n), f"{name}.norm.bias": r(n)}

    def block(name, before, after):
        found = (
            norm(f"{name}.norm1", before)
            | conv(f"{name}.conv1", after, before)
            | norm(f"{name}.norm2", after)
            | conv(f"{name}.conv2", after, after)
        )
        return found | (conv(f"{name}.nin_shortcut", after, before, 1) if before != after else {})

    fine, coarse = CHANNELS
    out = conv("conv_in", coarse, BITS) | block("mid.block_1", coarse, coarse) | block("mid.block_2", coarse, coarse)
    out |= (
        block("up.1.block.0", coarse, coarse)
        | block("up.1.block.1", coarse, coarse)
        | conv("up.1.upsample.conv", coarse, coarse)
    )
    out |= (
        block("up.0.block.0", coarse, fine)
        | block("up.0.block.1", fine, fine)
        | norm("norm_out", fine)
        | conv("conv_out", 3, fine)
    )
    return {f"decoder.{name}": t for name, t in out.items()} | {
        "encoder.conv_in.conv.weight": r(32, 3, 3, 3),
        "quantizer.lfq.mask": torch.zeros(BITS),
    }


def write(folder, trunk=None, vae=None, text=True):
    from transformers import T5Config, T5EncoderModel

    from earlib.miniworld.models import build_tokenizer

    folder.mkdir(exist_ok=True)
    torch.save(stored_trunk() if trunk is None else trunk, folder / "infinity_2b_reg.pth")
    torch.save({"vae": stored_vae()} if vae is None else vae, folder / "infinity_vae_d32reg.pth")
    if text:
        words = build_tokenizer()
        torch.manual_seed(2)
        sizes = dict(d_model=TEXT, d_kv=8, d_ff=32, num_layers=1, num_heads=2, vocab_size=len(words))
        T5EncoderModel(T5Config(**sizes)).save_pretrained(folder / "t5")
        words.save_pretrained(folder / "t5")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("infinity"))


@pytest.fixture(scope="module")
def generator(folder):
    return load_infinity(folder, PIXELS)


# ------------------------------------------------------------------ the authors' equations, picture by picture and head
# by head


def reference(stored, features_PE, inputs_NC):
    """Logits [L, bits, 2] of one picture: `features_PE` are T5's of its words, `inputs_NC` what the scales after the
    first one read."""
    line = lambda name, x: F.linear(x, stored[f"{name}.weight"], stored.get(f"{name}.bias"))
    layer_norm = lambda x: (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()
    d = WIDTH // HEADS
    zero = torch.zeros(WIDTH)

    def heads(q_NHd, k_PHd, v_PHd, scale, mask=None):
        out = []
        for h in range(HEADS):
            scores = q_NHd[:, h] @ k_PHd[:, h].T * scale
            out.append((scores if mask is None else scores.masked_fill(~mask, -math.inf)).softmax(-1) @ v_PHd[:, h])
        return torch.cat(out, -1)

    x = features_PE * (features_PE.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * stored["text_norm.weight"]
    pool = "text_proj_for_sos.ca"
    kv = F.linear(x, stored[f"{pool}.mat_kv.weight"], torch.cat([zero, stored[f"{pool}.v_bias"]])).view(-1, 2, HEADS, d)
    cond = line(f"{pool}.proj", heads(stored[f"{pool}.mat_q"], kv[:, 0], kv[:, 1], d**-0.5))[0]
    words = line("text_proj_for_ca.2", F.gelu(line("text_proj_for_ca.0", x), approximate="tanh"))
    shared = line("shared_ada_lin.1", F.silu(cond)).view(6, WIDTH)

    scale_L = [k for k, side in enumerate(SIDES) for _ in range(side * side)]
    mask = torch.tensor([[q <= p for q in scale_L] for p in scale_L])
    turn = []
    for side in SIDES:
        for row in range(side):
            for column in range(side):
                f = [10_000 ** (-2 * j / (d // 2)) for j in range(d // 4)]
                turn.append([round(row * 64 / side) * a for a in f] + [round(column * 64 / side) * a for a in f])
    turn = torch.polar(torch.ones(len(turn), d // 2), torch.tensor(turn))[:, None]
    rotate = lambda t: torch.view_as_real(torch.view_as_complex(t.unflatten(-1, (-1, 2)).contiguous()) * turn).flatten(
        -2
    )

    h = (
        torch.cat([(cond + stored["pos_start"][0, 0])[None], line("word_embed", inputs_NC)])
        + stored["lvl_embed.weight"][scale_L]
    )
    for i in range(4):
        b = f"block_chunks.{i // 2}.module.{i % 2}"
        gate1, gate2, scale1, scale2, shift1, shift2 = stored[f"{b}.ada_gss"][0, 0] + shared
        bias = torch.cat([stored[f"{b}.sa.q_bias"], zero, stored[f"{b}.sa.v_bias"]])
        q, k, v = (
            F.linear(layer_norm(h) * (1 + scale1) + shift1, stored[f"{b}.sa.mat_qkv.weight"], bias)
            .view(-1, 3, HEADS, d)
            .unbind(1)
        )
        factor = stored[f"{b}.sa.scale_mul_1H11"].clamp(max=math.log(100)).exp().view(HEADS, 1)
        q, k = rotate(q / q.norm(dim=-1, keepdim=True) * factor), rotate(k / k.norm(dim=-1, keepdim=True))
        h = h + gate1 * line(f"{b}.sa.proj", heads(q, k, v, 1.0, mask))
        y = layer_norm(h) * stored[f"{b}.ca_norm.weight"] + stored[f"{b}.ca_norm.bias"]
        kv = F.linear(words, stored[f"{b}.ca.mat_kv.weight"], torch.cat([zero, stored[f"{b}.ca.v_bias"]])).view(
            -1, 2, HEADS, d
        )
        h = h + line(f"{b}.ca.proj", heads(line(f"{b}.ca.mat_q", y).view(-1, HEADS, d), kv[:, 0], kv[:, 1], d**-0.5))
        h = h + gate2 * line(
            f"{b}.ffn.fc2", F.gelu(line(f"{b}.ffn.fc1", layer_norm(h) * (1 + scale2) + shift2), approximate="tanh")
        )
    scale, shift = line("head_nm.ada_lin.1", F.silu(cond)).view(2, WIDTH)
    return line("head", layer_norm(h) * (1 + scale) + shift).view(-1, BITS, 2)


def inputs_by_interpolation(codes_LC):
    """What the scales after the first one read: f_hat of the scales before, resized by torch."""
    f_hat, start, out = torch.zeros(1, BITS, 4, 4), 0, []
    for k, side in enumerate(SIDES[:-1]):
        bits = codes_LC[start : start + side * side].float() * 2 - 1
        u = (bits / BITS**0.5).T.view(1, BITS, side, side)
        f_hat = f_hat + F.interpolate(u.unsqueeze(2), (1, 4, 4), mode="trilinear").squeeze(2)
        start += side * side
        out.append(F.interpolate(f_hat, (SIDES[k + 1],) * 2, mode="area").flatten(2)[0].T)
    return torch.cat(out)


def test_logits_are_those_of_the_authors_equations(generator):
    stored, batch = stored_trunk(), generator.encode(PROMPTS)
    codes = torch.randint(2, (2, 21, BITS), generator=torch.Generator().manual_seed(3))
    told, blank = generator.logits(batch, codes), generator.logits(generator.null_like(batch), codes)
    features = generator.trunk.text(input_ids=batch.ids_BP, attention_mask=batch.mask_BP).last_hidden_state
    for i, words in enumerate(batch.mask_BP.sum(1).tolist()):
        inputs = inputs_by_interpolation(codes[i])
        assert torch.allclose(told[i], reference(stored, features[i, :words], inputs), atol=2e-4)
        assert torch.allclose(blank[i], reference(stored, stored["cfg_uncond"][:words], inputs), atol=2e-4)
    assert told.std() > 0.3 and (told - blank).abs().max() > 0.1


def test_pictures_are_those_of_the_authors_decoder(generator):
    stored = {name.removeprefix("decoder."): t for name, t in stored_vae().items()}
    conv = lambda name, x: F.conv2d(
        x,
        stored[f"{name}.conv.weight"],
        stored[f"{name}.conv.bias"],
        padding=stored[f"{name}.conv.weight"].shape[-1] // 2,
    )
    norm = lambda name, x: F.silu(F.group_norm(x, 32, stored[f"{name}.norm.weight"], stored[f"{name}.norm.bias"], 1e-6))

    def block(name, x):
        h = conv(f"{name}.conv2", norm(f"{name}.norm2", conv(f"{name}.conv1", norm(f"{name}.norm1", x))))
        return h + (conv(f"{name}.nin_shortcut", x) if f"{name}.nin_shortcut.conv.weight" in stored else x)

    codes = generator.sample(PROMPTS, [1, 2])
    h = conv("conv_in", generator.tokenizer.accumulate(codes)[1])
    for name in ("mid.block_1", "mid.block_2", "up.1.block.0", "up.1.block.1"):
        h = block(name, h)
    h = conv("up.1.upsample.conv", F.interpolate(h, scale_factor=2, mode="nearest"))
    pixels = conv("conv_out", norm("norm_out", block("up.0.block.1", block("up.0.block.0", h))))
    assert torch.allclose(generator.tokenizer.rebuild(codes), pixels, atol=1e-5)
    images = generator.decode(codes)
    assert images.shape == (2, PIXELS, PIXELS, 3) and images.dtype == np.uint8 and images.std() > 3


def test_scale_by_scale_logits_are_those_of_one_masked_pass(generator):
    batch, usual = generator.encode(PROMPTS), Usual()
    with steered(generator, usual):
        codes = generator.sample(PROMPTS, [5, 6], 3.0, 0.5)
    for row, prompts in enumerate((batch, generator.null_like(batch))):
        assert (
            torch.cat([logits[row] for logits in usual.seen], 1) - generator.logits(prompts, codes)
        ).abs().max() < 1e-4
    assert torch.equal(generator.sample(PROMPTS, [5, 6], guidance=3.0, temperature=0.5), codes)
    assert torch.equal(generator.sample(PROMPTS[::-1], [6, 5], guidance=3.0, temperature=0.5).flip(0), codes)


def test_the_unconditional_prompt_is_as_long_as_the_prompt(generator):
    batch = generator.encode(PROMPTS)
    codes = generator.sample(PROMPTS[:1], [1]).repeat(2, 1, 1)
    a, b = generator.logits(generator.null_like(batch), codes)
    assert (a - b).abs().max() > 1e-3


def test_in_half_precision_it_is_the_same_model(folder, generator):
    half = load_infinity(folder, PIXELS, dtype="bfloat16")
    assert (
        half.dtype == torch.bfloat16 and half.fingerprint == generator.fingerprint
    )  # an erasure made with one fits the other
    codes, batch = generator.sample(PROMPTS, [1, 2], temperature=0.0), generator.encode(PROMPTS)
    assert (half.sample(PROMPTS, [1, 2], temperature=0.0) == codes).float().mean() > 0.9
    assert (half.logits(batch, codes).float() - generator.logits(batch, codes)).std() < 0.02 * generator.logits(
        batch, codes
    ).std()


@pytest.mark.parametrize("name", PRESETS)
def test_what_erases_from_minivar_erases_from_infinity(name, generator):
    pairs = (
        PromptPair("a red church on a hill", "a red house on a hill"),
        PromptPair("a church by the sea", "a tower by the sea"),
    )
    concept = Concept("church", "object", pairs, {"direct": ("a church",)}, {}, {}, ("a boat at night",), {})
    changes = {"scales": (0, 1), "relevance": 0.0, "threshold": 1e9} if name == "scale-erasure-style" else {}
    if hasattr(PRESETS[name], "passes"):
        changes = {"passes": 2, "lr": 0.02} | ({"retain.prompts": "neutral"} if name == "sace-style" else {})
    base = generator.sample(PROMPTS, [1, 2])
    erasure = erase(generator, concept, published(name, **changes), progress=False)
    with erasure.on(generator):
        assert not torch.equal(generator.sample(PROMPTS, [1, 2]), base)
    assert torch.equal(generator.sample(PROMPTS, [1, 2]), base)


def test_recomputed_activations_change_no_gradient(generator, monkeypatch):
    batch, codes = generator.encode(PROMPTS), generator.sample(PROMPTS, [1, 2])
    weight = generator.trunk.blocks[0].cross_attention.kv.weight.requires_grad_(True)
    try:
        saved = torch.autograd.grad(generator.logits(batch, codes).square().sum(), weight)[0]
        monkeypatch.setattr(
            "earlib.generators.var.infinity.checkpoint", lambda block, *args, use_reentrant: block(*args)
        )
        kept = torch.autograd.grad(generator.logits(batch, codes).square().sum(), weight)[0]
    finally:
        weight.requires_grad_(False)
    assert torch.allclose(saved, kept, rtol=1e-5) and saved.abs().max() > 0


def test_sizes_are_those_of_infinity_2b():
    """On the meta device. 1.61 billion weights in cross-attention and feed-forward, as S-VARE trains; about 2.2 billion
    in all."""
    sizes = dict(
        image_size=1024,
        strides=(2,) * 4,
        channels=(32,) * 4,
        schedule=SCHEDULE,
        code_width=32,
        text_length=512,
        text_width=2048,
    )
    config = NextScaleConfig(**sizes, resize_up="bilinear", width=2048, layers=32, head_width=128, mlp_ratio=4.0)
    with torch.device("meta"):
        trunk = InfinityTrunk(config, None)
    assert config.length == 10_521
    assert sum(p.numel() for p in trunk.parameters()) == pytest.approx(2.2e9, rel=0.02)
    trained = tensor_names(PRESETS["s-vare"], len(trunk.blocks), trunk)
    assert sum(trunk.get_parameter(n).numel() for n in trained if n.endswith("weight")) == 32 * 12 * 2048**2


def test_files_may_be_those_of_training_and_blocks_may_come_without_chunks(generator, tmp_path):
    again = load_infinity(write(tmp_path / "f", {"trainer": {"gpt_fsdp": stored_trunk(chunked=False)}}), PIXELS)
    ours, theirs = generator.trunk.state_dict(), again.trunk.state_dict()
    # the same numbers under other names: random tensors were made in the same order
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


# ------------------------------------------------------------------ what cannot be read


def changed(**tensors):
    stored = stored_trunk()
    for name, t in tensors.items():
        if t is None:
            stored.pop(name)
        else:
            stored[name] = t
    return stored


BLOCK0 = "block_chunks.0.module.0"


@pytest.mark.parametrize(
    "trunk, vae, line",
    [
        (changed(**{f"{BLOCK0}.ffn.fcg.weight": torch.zeros(1)}), None, "has gated feed-forward layers"),
        (changed(**{f"{BLOCK0}.ada_lin.1.weight": torch.zeros(1)}), None, "shared_aln=0"),
        (changed(**{f"{BLOCK0}.ca.surprise": torch.zeros(1)}), None, "ca.surprise, which has no place"),
        (changed(**{f"{BLOCK0}.ca.proj.weight": None}), None, "blocks.0.cross_attention.out.weight is missing there"),
        (
            changed(**{f"{BLOCK0}.ca.proj.weight": torch.zeros(3, 3)}),
            None,
            r"out.weight is \(3, 3\) there, and must be \(64, 64\)",
        ),
        (changed(**{"word_embed.weight": torch.zeros(WIDTH, 4 * BITS)}), None, "two by two cells"),
        (changed(**{"word_embed.weight": torch.zeros(WIDTH, 5)}), None, "codes have 5 bits and the tokenizer's 8"),
        ({"something": torch.zeros(1)}, None, "is no transformer of Infinity"),
        (None, {"vae": {"encoder.x": torch.zeros(1)}}, "is no tokenizer of Infinity"),
        (
            None,
            {"vae": stored_vae() | {"decoder.mid.attn_1.q.conv.weight": torch.zeros(1)}},
            "decoder's mid.attn_1.q.weight is not that",
        ),
    ],
)
def test_other_kinds_are_refused(trunk, vae, line, tmp_path):
    with pytest.raises(UserError, match=line) as error:
        load_infinity(write(tmp_path / "f", trunk, vae), PIXELS)
    assert "\n" not in str(error.value)


def test_missing_and_broken_files_are_one_line(folder, tmp_path, capfd):
    with pytest.raises(UserError, match="holds no infinity_.*it must hold one, the transformer"):
        load_infinity(tmp_path)
    place = write(tmp_path / "f", text=False)
    with pytest.raises(UserError, match="holds no text encoder; put google/flan-t5-xl into"):
        load_infinity(place, PIXELS)
    whole = (place / "infinity_2b_reg.pth").read_bytes()
    (place / "infinity_2b_reg.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="infinity_2b_reg.pth: broken or cut short"):
        load_infinity(place, PIXELS)
    (place / "infinity_vae_d32reg.pth").unlink()
    (place / "infinity_2b_reg.pth").write_bytes(whole)
    with pytest.raises(UserError, match=r"holds no infinity_vae\*.pth"):
        load_infinity(place, PIXELS)
    with pytest.raises(UserError, match="pixels a side, not of 10"):
        load_infinity(folder, 10)
    assert family_of(folder) == "next-scale"
    with pytest.raises(
        UserError, match="pixels a side, not of 1024"
    ):  # the small one has two levels: 1024 pixels would be 512 cells
        load_generator(folder)
    with pytest.raises(UserError, match="the encoder of Infinity's tokenizer is not read"):
        load_infinity(folder, PIXELS).tokenize(np.zeros((1, 8, 8, 3), np.uint8))
    assert (
        main(
            ["erase", "--model", str(folder), "--recipe", "ear", "--concept", "church", "--out", str(tmp_path / "out")]
        )
        == 2
    )
    assert "recipe 'ear' is for next-token models" in capfd.readouterr().err
