"""Membranes: composition is a sum, prompts open them each for itself, others' tools read them; what anchors them. On
small random models."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from earlib.chapters import composition
from earlib.concepts import Concept, PromptPair
from earlib.erasure import erase
from earlib.erasure.change import PARTS, applied, change_size, layer_range, spoken, student_parameters, tensor_names
from earlib.erasure.compose import Transport, compose, pooled_state
from earlib.erasure.files.peft import read_peft, write_peft
from earlib.erasure.naming import names_of
from earlib.erasure.presets import recipe
from earlib.erasure.retain import Retained, chances, gate_square, noised, own_words
from earlib.erasure.room import trained_parameters
from earlib.erasure.store import Erasure
from earlib.errors import UserError
from earlib.generators import draw, picture_seeds
from earlib.memory import KNOWN

from .conftest import sample, tiny_emu3, tiny_janus

PAIRS = (
    PromptPair("a red church on a hill", "a red house on a hill"),
    PromptPair("a church by the sea", "a tower by the sea"),
)
CHURCH = Concept(
    "church", "object", PAIRS, {"direct": ("a church",)}, {}, {}, ("a boat at night",), {}, {"window": 144}
)
MODULE = "layers.1.self_attn.v_proj"
OVERLAP = Transport({"church": ("church", "chapel"), "boat": ("sailing boat",)}, layer=None)


def membrane(generator, concept: str, seed: int, modules="attention", size=0.5, **fields) -> Erasure:
    """A membrane with numbers in it, as if it were trained."""
    names = tensor_names(recipe("spm", "custom", modules=modules), len(generator.decoder_layers))
    tensors = {n: p.detach() for n, p in student_parameters(generator.trunk, names, rank=1, seed=seed).items()}
    chance = torch.Generator().manual_seed(seed)
    tensors |= {n: size * torch.randn(t.shape, generator=chance) for n, t in tensors.items() if ".lora_B." in n}
    return Erasure("spm", {"name": "spm", "positions": "all"} | fields, concept, generator.fingerprint, tensors)


def product(erasure: Erasure, module: str = MODULE) -> torch.Tensor:
    return erasure.tensors[f"{module}.lora_B.weight"] @ erasure.tensors[f"{module}.lora_A.weight"]


def logits(generator, prompts, erasure=None) -> torch.Tensor:
    tokens_BT = (torch.arange(generator.num_codes) % generator.codebook_size).repeat(len(prompts), 1)
    read = lambda: generator.image_logits(generator.hidden_states(generator.encode(prompts), tokens_BT))
    with torch.no_grad():
        if erasure is None:
            return read()
        with erasure.on(generator):
            return read()


@pytest.fixture(scope="module")
def church(generator):
    return membrane(generator, "church", 1)


@pytest.fixture(scope="module")
def boat(generator):
    return membrane(generator, "boat", 2, "both")


# ---------------------------------------------------------------- composition


def test_composition_is_a_sum(generator, church, boat):
    """SPM's Eq. 9: W x + sum of gamma_c B_c A_c x, in the module and in the function of the whole model."""
    x = torch.randn(2, 5, 64)
    w = generator.trunk.get_submodule(MODULE).weight
    with compose([church, boat], [0.7, -2]).on(generator):
        y = generator.trunk.get_submodule(MODULE)(x)
    torch.testing.assert_close(y, x @ (w + 0.7 * product(church) - 2 * product(boat)).T, atol=1e-5, rtol=1e-5)
    for alone, strengths in ((church, [1, 0]), (boat, [0, 1])):
        torch.testing.assert_close(
            logits(generator, ["a church"], compose([church, boat], strengths)), logits(generator, ["a church"], alone)
        )
    both = logits(generator, ["a church"], compose([church, boat]))
    assert (
        (both - logits(generator, ["a church"], church)).abs().max()
        > 1e-2
        < (both - logits(generator, ["a church"], boat)).abs().max()
    )
    assert torch.equal(
        logits(generator, ["a church"], compose([church, boat], [0, 0])), logits(generator, ["a church"])
    )


def test_the_released_shortcut_is_no_sum(generator, church, boat):
    """Scaling both factors by gamma and adding them up: gamma squared on each concept, and terms that mix two
    of them."""
    gammas = (0.5, 0.8)
    a, b = ([e.tensors[f"{MODULE}.lora_{side}.weight"] for e in (church, boat)] for side in "AB")
    shortcut = sum(g * x for g, x in zip(gammas, b)) @ sum(g * x for g, x in zip(gammas, a))
    equation = sum(g * x @ y for g, x, y in zip(gammas, b, a))
    squares = sum(g * g * x @ y for g, x, y in zip(gammas, b, a))
    cross = gammas[0] * gammas[1] * (b[0] @ a[1] + b[1] @ a[0])
    ours = compose([church, boat], gammas).together()
    torch.testing.assert_close(product(ours), equation)
    torch.testing.assert_close(shortcut, squares + cross)
    assert (shortcut - equation).norm() > 0.3 * equation.norm() and cross.norm() > 0.1 * equation.norm()
    torch.testing.assert_close(
        (gammas[0] * b[0]) @ (gammas[0] * a[0]), gammas[0] ** 2 * product(church)
    )  # even of one concept


def test_prompts_name_several_concepts(generator):
    """A church at night opens the night's membrane too; a chapel opens only what else is named."""
    of_kind = {kind: composition.named_in(generator, ["church", "night"], kind) for kind in ("direct", "synonym")}
    assert of_kind["direct"]["own"].value == 1 and 0 < of_kind["direct"]["other"].value < 1
    chapels = composition.named_in(generator, ["church"], "synonym")
    assert chapels["own"].hits == chapels["other"].hits == 0 < of_kind["synonym"]["other"].hits


def test_the_chapters_measures_of_composition(generator, church):
    """Sizes are those of whole matrices; equal changes are alike, unrelated ones not."""
    car, gammas = membrane(generator, "car", 3), (0.5, 0.8)
    dense = lambda strengths: (
        sum(sum(s * product(e, m) for s, e in zip(strengths, (church, car))).square().sum() for m in modules)
        .sqrt()
        .item()
    )
    modules = sorted({name.rpartition(".lora_")[0] for name in church.tensors})
    found = composition.sizes(generator, [church, car], gammas)
    assert found["sum"] == pytest.approx(dense(gammas), rel=1e-5)
    mixed = composition.shortcut([church, car], gammas)
    parts = sum((product(mixed, m) - 0.5 * product(church, m) - 0.8 * product(car, m)).square().sum() for m in modules)
    assert found["difference"] == pytest.approx(parts.sqrt().item(), rel=1e-5) and found["cross"] > 0.1 * found["sum"]
    assert composition.sizes(generator, [church, car], (0.5, 0))["cross"] == pytest.approx(0, abs=1e-5)
    same = dataclasses.replace(church, concept="again")
    assert (
        composition.likeness(generator, church, same) == pytest.approx(1)
        and abs(composition.likeness(generator, church, car)) < 0.3
    )


def test_merged_and_saved_is_active(generator, church, boat, tmp_path):
    three = compose([church, boat, dataclasses.replace(membrane(generator, "car", 3), strength=0.3)])
    three.strength = 0.5
    active = logits(generator, ["a church"], three)
    assert (active - logits(generator, ["a church"])).abs().max() > 1e-2
    merged = three.merged(generator)
    assert not any(".lora_" in name for name in merged.tensors)
    torch.testing.assert_close(logits(generator, ["a church"], merged), active, atol=1e-4, rtol=1e-4)
    again = Erasure.load(three.save(tmp_path / "three"), generator)
    assert again.concept == "church + boat + car"
    torch.testing.assert_close(logits(generator, ["a church"], again), active)
    assert change_size(generator.trunk, again.tensors) == pytest.approx(
        change_size(generator.trunk, merged.tensors), rel=1e-4
    )


def test_membranes_at_words_compose_with_others(generator, church):
    """Each acts where it was trained to act: a blanked prompt sees only the one that acts everywhere."""
    words = membrane(generator, "boat", 2, positions="words")
    null = generator.null_like(generator.encode(["a church"]))
    tokens = torch.zeros(1, 1, dtype=torch.long)
    found = []
    for erasure in (church, compose([church, words])):
        with torch.no_grad(), erasure.on(generator):
            found.append(generator.hidden_states(null, tokens))
    torch.testing.assert_close(*found)
    assert (
        logits(generator, ["a church"], compose([church, words])) - logits(generator, ["a church"], church)
    ).abs().max() > 1e-3
    with pytest.raises(UserError, match="different positions"):
        compose([church, words]).together()


# ---------------------------------------------------------------- facilitated transport


def test_overlap_is_the_papers():
    gamma = lambda prompt: OVERLAP.gamma(None, prompt)
    assert gamma("A Church, on a hill") == {"church": 1.0, "boat": 0.0}
    assert gamma("a boat by a chapel") == {"church": 1.0, "boat": 0.5}
    assert gamma("") == gamma("a churchyard") == {"church": 0.0, "boat": 0.0}


@pytest.mark.parametrize("layer", [0, 0.5, 1])
def test_similarity_is_of_mean_states_at_words(generator, layer):
    raw, centre = Transport({"church": ("church",)}, layer), ("a house", "a tree in the snow", "")
    centred = Transport({"church": ("church",)}, layer, centre)
    s, c = pooled_state(generator, "a boat", layer), pooled_state(generator, "church", layer)
    mean = (pooled_state(generator, "a house", layer) + pooled_state(generator, "a tree in the snow", layer)) / 2
    cosine = lambda x, y: torch.cosine_similarity(x, y, 0).item()
    assert raw.gamma(generator, "a boat")["church"] == pytest.approx(max(0, cosine(s, c)))
    assert centred.gamma(generator, "a boat")["church"] == pytest.approx(max(0, cosine(s - mean, c - mean)))
    assert centred.gamma(generator, "church")["church"] == 1 and raw.gamma(generator, "") == {"church": 0}
    if layer == 0:  # input embeddings
        ids = generator.tokenizer("a boat", add_special_tokens=False, return_tensors="pt")["input_ids"][0]
        torch.testing.assert_close(s, generator.trunk.get_input_embeddings()(ids).double().mean(0).detach())


@pytest.mark.parametrize("make", [tiny_janus, tiny_emu3])
def test_a_prompt_that_opens_nothing_is_drawn_by_the_base_model(make):
    """Bit for bit, with its unconditional row, although prompts beside it in the batch open their membranes, each as
    far as it says."""
    generator = make()
    church, boat = membrane(generator, "church", 1), membrane(generator, "boat", 2, "both")
    prompts = ["a red house at night", "a church by the sea", "a boat by a church", "a boat"]
    seeds = picture_seeds(0, prompts)
    base = generator.sample(prompts, seeds, guidance=3.0)
    opened = compose([church, boat], transport=OVERLAP)
    with opened.on(generator):
        found = generator.sample(prompts, seeds, guidance=3.0)
        alone = [generator.sample([p], [s], guidance=3.0)[0] for p, s in zip(prompts, seeds)]
    assert torch.equal(found[0], base[0]) and not any(torch.equal(f, b) for f, b in zip(found[1:], base[1:]))
    assert all(torch.equal(f, a) for f, a in zip(found, alone)), "what a prompt opens must not hang on its batch"
    for i, gammas in ((1, [1, 0]), (2, [1, 0.5]), (3, [0, 0.5])):
        with compose([church, boat], gammas).on(generator):
            assert torch.equal(found[i], generator.sample([prompts[i]], [seeds[i]], guidance=3.0)[0])
    assert torch.equal(generator.sample(prompts, seeds, guidance=3.0), base) and generator.gates is None


def test_gamma_stands_in_the_rows_of_its_prompt(generator, church, boat):
    """In the conditional and the unconditional rows, in whatever order they are read, and with similarity read from the
    base model."""
    transport = Transport({"church": ("church",), "boat": ("boat",)}, 0.5)
    members = compose([church, boat], transport=transport)
    prompts = ["a red house at night", "a church", "a boat by the sea"]
    expected = [list(transport.gamma(generator, p).values()) for p in prompts]
    with members.on(generator):
        for order in ([0, 1, 2], [2, 0], [1]):
            batch = generator.encode([prompts[i] for i in order])
            rows = batch.stack(generator.null_like(batch))[torch.tensor([*range(2 * len(order))])]
            generator.hidden_states(rows, torch.zeros(len(rows), 1, dtype=torch.long))
            torch.testing.assert_close(generator.gates.gamma_BC, torch.tensor([expected[i] for i in order] * 2))
        with pytest.raises(ValueError, match="do not say what they were asked for"):
            generator.hidden_states(type(batch)(batch.ids_BP, batch.mask_BP), torch.zeros(1, 1, dtype=torch.long))
        with pytest.raises(UserError, match="switched on already"), members.on(generator):
            pass


def test_a_recorded_step_draws_the_same(generator, church, boat):
    """`StaticDrawer` calls the trunk itself after the first token; batches of other prompts follow at the same
    addresses."""
    prompts = ["a red house at night", "a church by the sea", "a boat", "a church at night", "a red tree"]
    seeds = picture_seeds(0, prompts)
    with compose([church, boat], transport=OVERLAP).on(generator):
        plain, static = (
            sample(generator, prompts, seeds, 3.0, batch_size=2, graphs=graphs) for graphs in (False, True)
        )
    assert torch.equal(plain, static)


def test_one_interface_with_an_erasure(generator, church, boat):
    members = compose([church, boat], transport=OVERLAP)
    pictures = draw(generator, ["a church", "a tree"], erasure=members, progress=False)
    base = draw(generator, ["a church", "a tree"], progress=False)
    assert (pictures[1] == base[1]).all() and (pictures[0] != base[0]).any()
    json.dumps(members.recipe)
    assert members.megabytes == pytest.approx(church.megabytes + boat.megabytes)
    assert members.gamma(generator, "a boat") == {"church": 0.0, "boat": 0.5}
    assert names_of([CHURCH]) == {"church": ("church",)}
    for refused in (members.together, lambda: members.merged(generator), lambda: members.save("nowhere")):
        with pytest.raises(UserError, match="switched on prompt by prompt"):
            refused()


def test_on_the_command_line(mini, tmp_path, capsys):
    """Several erasures are composed; --by-prompt opens each by the words of a prompt."""
    from PIL import Image

    from earlib.__main__ import main

    for seed, concept in enumerate(("church", "boat")):
        membrane(mini, concept, seed, size=2).save(tmp_path / concept)
    (tmp_path / "prompts.txt").write_text("a church\na red tree\n")
    flags = ["--erasure", str(tmp_path / "church"), "--erasure", str(tmp_path / "boat")]
    files = {}
    for name, more in {"base": [], "all": flags, "asked": [*flags, "--by-prompt"]}.items():
        assert (
            main(
                [
                    "generate",
                    "--prompts",
                    str(tmp_path / "prompts.txt"),
                    "--out",
                    str(tmp_path / name),
                    "--device",
                    "cpu",
                    *more,
                ]
            )
            == 0
        )
        files[name] = {f.name: Image.open(f).tobytes() for f in (tmp_path / name).glob("*.png")}
    tree = next(name for name in files["base"] if "tree" in name)
    assert files["asked"][tree] == files["base"][tree] != files["all"][tree]
    assert all(files["asked"][name] != files["base"][name] for name in files["base"] if name != tree)
    assert (
        main(["generate", "--prompts", str(tmp_path / "prompts.txt"), "--out", str(tmp_path / "no"), "--by-prompt"])
        == 2
    )
    assert "--by-prompt switches erasures on prompt by prompt" in capsys.readouterr().err


# ---------------------------------------------------------------- peft's files


def test_files_are_in_pefts_layout(generator, church, tmp_path):
    """As its guide to checkpoints documents them: names with both wrappers' prefixes and without an adapter's name, [r,
    in] and [out, r], a minimal config."""
    church.save(tmp_path)
    config, tensors = (
        json.loads((tmp_path / "adapter_config.json").read_text()),
        load_file(tmp_path / "adapter_model.safetensors"),
    )
    assert (
        config["peft_type"] == "LORA"
        and config["r"] == config["lora_alpha"] == 1
        and config["bias"] == "none"
        and config["task_type"] is None
    )
    assert len(config["target_modules"]) == 12 and all(
        isinstance(generator.trunk.get_submodule(m), torch.nn.Linear) for m in config["target_modules"]
    )
    assert set(tensors) == {
        f"base_model.model.{m}.lora_{side}.weight" for m in config["target_modules"] for side in "AB"
    }
    q = generator.trunk.get_submodule(MODULE)
    assert tensors[f"base_model.model.{MODULE}.lora_A.weight"].shape == (1, q.in_features)
    assert tensors[f"base_model.model.{MODULE}.lora_B.weight"].shape == (q.out_features, 1)
    again = Erasure.load(tmp_path, generator)
    assert again.concept == "church" and torch.equal(
        logits(generator, ["a church"], again), logits(generator, ["a church"], church)
    )


def test_adapters_of_others_are_read(generator, church, boat, tmp_path):
    """Without a file of ours, with their own scale, ranks that differ and rslora."""
    both = compose([church, boat]).together()
    write_peft(both.tensors, tmp_path / "two")
    config = json.loads((tmp_path / "two" / "adapter_config.json").read_text())
    assert (
        config["r"] == 2 and set(config["rank_pattern"].values()) == {1} and len(config["rank_pattern"]) == 9
    )  # the MLPs, which only one has
    found = Erasure.load(tmp_path / "two", generator)
    assert found.concept == "two" and torch.equal(
        logits(generator, ["a church"], found), logits(generator, ["a church"], both)
    )
    for change, scale in (
        ({"lora_alpha": 6, "alpha_pattern": {}, "rank_pattern": {}}, 3),
        ({"use_rslora": True, "alpha_pattern": {}}, 2 / 2**0.5),
    ):
        (tmp_path / "two" / "adapter_config.json").write_text(json.dumps(config | change))
        torch.testing.assert_close(product(Erasure.load(tmp_path / "two", generator)), scale * product(both))


def test_words_only_is_not_written_as_what_it_is_not(generator, tmp_path):
    words = membrane(generator, "boat", 2, positions="words")
    words.save(tmp_path)
    assert not (tmp_path / "adapter_config.json").exists()
    assert torch.equal(
        logits(generator, ["a boat"], Erasure.load(tmp_path, generator)), logits(generator, ["a boat"], words)
    )


def test_peft_itself_computes_the_same(generator, church, boat, tmp_path):
    import peft  # seconds, and one test wants it

    both = compose([church, boat], [1, 0.5]).together()
    both.save(tmp_path)
    wrapped = peft.PeftModel.from_pretrained(tiny_janus().trunk, str(tmp_path))
    x = torch.randn(2, 7, 64)
    with torch.no_grad(), both.on(generator):
        ours = generator.trunk(inputs_embeds=x).last_hidden_state
        torch.testing.assert_close(wrapped(inputs_embeds=x).last_hidden_state, ours, atol=1e-5, rtol=1e-5)


# ---------------------------------------------------------------- places and sizes


def test_the_vision_tower_learns_nothing_from_drawing(generator):
    """It is read for captions only: a membrane there gets a gradient of exactly zero from what draws, and changes no
    picture."""
    vision = SimpleNamespace(trunk=generator.model.model.vision_model)
    names = [
        f"{name}.weight"
        for name, m in vision.trunk.named_modules()
        if name.endswith(("q_proj", "k_proj", "v_proj")) and isinstance(m, torch.nn.Linear)
    ]
    eyes = student_parameters(vision.trunk, names, rank=1, seed=1)
    for n, p in eyes.items():
        p.data.normal_(generator=torch.Generator().manual_seed(len(n)))
    names = tensor_names(recipe("spm", "custom"), len(generator.decoder_layers))
    mind = student_parameters(generator.trunk, names, rank=1, seed=1)
    tokens = torch.arange(16)[None]
    with applied(vision, eyes), applied(generator, mind):
        z = generator.image_logits(generator.hidden_states(generator.encode(["a church"]), tokens))
        loss = torch.nn.functional.cross_entropy(z[0], tokens[0])
        grads = torch.autograd.grad(loss, [*eyes.values(), *mind.values()], materialize_grads=True)
        pixels = torch.rand(1, 3, 16, 16)
        seen = vision.trunk(pixels).last_hidden_state
    assert len(eyes) >= 6 and not any(g.any() for g in grads[: len(eyes)])
    assert any(g.any() for g in grads[len(eyes) :])
    torch.testing.assert_close(
        z, logits(generator, ["a church"])
    )  # the student's B is still zero: what else would draw otherwise
    assert (seen - vision.trunk(pixels).last_hidden_state).abs().max() > 1e-3, "it must do something where it is"


@pytest.mark.parametrize(
    "profile, attention, mlp, both",
    [("janus-pro-7b", 983_040, 1_359_360, 2_342_400), ("janus-pro-1b", 393_216, 552_960, 946_176)],
)
def test_sizes_on_the_true_shapes(profile, attention, mlp, both):
    from transformers import LlamaModel

    from earlib.generators.files.shapes import SHAPES, shape_config

    with torch.device("meta"):
        trunk = LlamaModel(shape_config(**SHAPES[f"{profile}-shape"]).text_config)
    for modules, count in (("attention", attention), ("mlp", mlp), ("both", both)):
        spm = recipe("spm", "custom", modules=modules)
        assert trained_parameters(KNOWN[profile], spm) == count
        student = student_parameters(trunk, tensor_names(spm, KNOWN[profile].layers), rank=1)
        assert sum(p.numel() for p in student.values()) == count


def test_a_subset_of_mlps():
    """What "7 MLP modules" may mean: the first seven, the last seven, seven spread over the depth; attention stays in
    all layers."""
    mlps = lambda depth, **s: sorted(
        {
            int(n.split(".")[1])
            for n in tensor_names(recipe("spm", "custom", modules="both", **s), depth)
            if ".mlp." in n
        }
    )
    assert mlps(30, mlp_layers=(0, 7 / 30)) == [0, 1, 2, 3, 4, 5, 6] and mlps(30, mlp_layers=(23 / 30, 1)) == [
        *range(23, 30)
    ]
    assert mlps(30, mlp_layers="0,0.9", mlp_every=4) == [0, 4, 8, 12, 16, 20, 24]
    assert mlps(24, mlp_layers=(0, 7 / 24)) == [*range(7)] and mlps(8, mlp_every=2) == [0, 2, 4, 6]
    names = tensor_names(recipe("spm", "custom", modules="both", mlp_every=4), 8)
    assert sum(".self_attn." in n for n in names) == 32 and sum(".mlp." in n for n in names) == 6
    with pytest.raises(UserError, match="trains nothing in 8 layers"):
        tensor_names(recipe("spm", "custom", modules="mlp", layers=(0, 0.5), mlp_layers=(0.5, 1)), 8)


# ---------------------------------------------------------------- anchoring


RETAIN = ["a boat at night", "a red tree", "a house by the sea", "a church"]


def test_chances_are_the_papers_equation(generator):
    targets = generator.encode([pair.target for pair in PAIRS])
    spelled = [
        generator.tokenizer.decode(ids[row])
        for ids, row in zip(targets.ids_BP, own_words(generator, targets, PAIRS) & generator.word_mask(targets))
    ]
    assert spelled == ["church", "church"]
    embed = lambda text: generator.trunk.get_input_embeddings()(
        generator.tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"][0]
    )
    cosines = torch.stack([torch.cosine_similarity(embed(p).mean(0), embed("church")[0], 0) for p in RETAIN]).double()
    for alpha in (0, 1, 3):
        weight = (1 - cosines.abs()) ** alpha
        torch.testing.assert_close(
            chances(generator, RETAIN, PAIRS, alpha), (weight / weight.sum()).detach(), atol=1e-6, rtol=1e-5
        )
    assert chances(generator, RETAIN, PAIRS, 5).argmin() == 3, "the concept itself is the last to be drawn"


def test_noise_stands_for_the_name_alone(generator):
    """As long as the embeddings that it stands for, the same for teacher and student, nowhere else."""
    targets = generator.encode([pair.target for pair in PAIRS])
    names_BP = own_words(generator, targets, PAIRS) & generator.word_mask(targets)
    embed = generator.trunk.get_input_embeddings()
    own = embed(targets.ids_BP)
    noise = lambda seed: spoken(generator, *noised(generator, targets, names_BP, seed))
    with noise(3):
        noisy, again = embed(targets.ids_BP), embed(targets.ids_BP)
    with noise(4):
        other = embed(targets.ids_BP)
    assert torch.equal(noisy, again) and torch.equal(embed(targets.ids_BP), own)
    assert torch.equal((noisy != own).any(-1), names_BP) and not torch.equal(noisy[names_BP], other[names_BP])
    torch.testing.assert_close(noisy[names_BP].norm(dim=-1), own[names_BP].norm(dim=-1))


@pytest.mark.parametrize("kind", ["prompts", "weighted", "noise", "sparsity"])
def test_what_is_retained(kind, generator):
    """Nothing to pay while the student is the teacher, but for sparsity, which looks at the gates; a gradient as soon
    as it is another."""
    r = recipe("spm", "custom", pairs=2, **{"retain.weight": 2.0, "retain.kind": kind, "retain.pictures": 3})
    retained = Retained(generator, RETAIN, r, pairs=PAIRS)
    student = student_parameters(generator.trunk, tensor_names(r, 3), rank=1, seed=1)
    loss_of = retained.preservation(0, 5, student)  # the teacher's part is read with the student switched off
    with applied(generator, student):
        loss = loss_of(1.0)
        assert loss_of(0.5).item() == pytest.approx(loss.item() / 2, abs=1e-6)
        assert loss.item() > 1e-2 if kind == "sparsity" else abs(loss.item()) < 1e-5
        for n, p in student.items():
            if ".lora_B." in n:
                p.data.normal_(generator=torch.Generator().manual_seed(len(n)))
        loss = loss_of(1.0)
        grads = torch.autograd.grad(loss, list(student.values()), materialize_grads=True)
    assert loss.item() > 1e-2 and any(g.any() for g in grads)


def test_sparsity_is_the_mean_square_behind_the_gates(generator):
    name = "layers.0.self_attn.q_proj"
    student = student_parameters(generator.trunk, [f"{name}.weight"], rank=2, seed=1)
    batch, tokens = generator.encode(["a boat", "a red tree at night"]), torch.zeros(2, 16, dtype=torch.long)
    found = []
    hook = generator.trunk.get_submodule(name).register_forward_pre_hook(lambda m, args: found.append(args[0]))
    value = gate_square(generator, student, batch, tokens, "all")
    hook.remove()
    keep = torch.nn.functional.pad(batch.mask_BP.bool(), (0, 15), value=True)
    torch.testing.assert_close(value, (found[0][keep] @ student[f"{name}.lora_A.weight"].T).square().mean())
    words = gate_square(generator, student, batch, tokens, "words")
    torch.testing.assert_close(
        words,
        (found[0][:, : batch.ids_BP.shape[1]][generator.word_mask(batch)] @ student[f"{name}.lora_A.weight"].T)
        .square()
        .mean(),
    )


@pytest.mark.parametrize("kind", ["weighted", "noise", "sparsity"])
def test_anchored_training_ends_nearer_to_the_base(kind, generator, monkeypatch):
    """A strong anchor holds the model on what it retains; and a training with one is another than without."""
    monkeypatch.setattr("earlib.erasure.retain_prompts", lambda *a, **k: RETAIN[:3])
    quick = {"pairs": 2, "batch": 2, "passes": 8, "lr": 3e-2, "retain.kind": kind, "prefix": "target"}
    drift = []
    for weight in (1e-9, 100.0):
        erasure = erase(generator, CHURCH, recipe("spm", "custom", **quick | {"retain.weight": weight}), progress=False)
        drift.append((logits(generator, RETAIN[:3], erasure) - logits(generator, RETAIN[:3])).square().mean().item())
    assert drift[1] < drift[0]


# ---------------------------------------------------------------- what is wrong is said in one line


def test_wrong_input_is_one_line(generator, church, boat, tmp_path):
    deeper = Erasure(
        "spm",
        {},
        "sea",
        generator.fingerprint,
        {n.replace("layers.1.", "layers.9."): t for n, t in church.tensors.items()},
    )
    wider = Erasure(
        "spm",
        {},
        "sea",
        generator.fingerprint,
        {n: torch.zeros(2 * len(t), 1) if "_B" in n else t for n, t in church.tensors.items()},
    )
    half = Erasure("spm", {}, "sea", generator.fingerprint, {n: t for n, t in church.tensors.items() if "_A" in n})
    other = membrane(tiny_janus(seed=8), "boat", 1)
    whole = Erasure("ear", {}, "boat", generator.fingerprint, {f"{MODULE}.weight": torch.zeros(64, 64)})
    config, tensors = tmp_path / "x" / "adapter_config.json", tmp_path / "x" / "adapter_model.safetensors"
    church.save(tmp_path / "x")
    (tmp_path / "x" / "erasure.json").unlink()
    good = json.loads(config.read_text())

    def folder(text=None, weights=None):
        config.write_text(json.dumps(good) if text is None else text)
        if weights is not None:
            save_file(weights, tensors)
        return Erasure.load(tmp_path / "x", generator)

    cases = [
        (
            lambda: logits(generator, ["a"], deeper),
            "has a membrane for layers.9.self_attn.q_proj, and tiny has no such linear layer .*0-2",
        ),
        (lambda: logits(generator, ["a"], compose([church, deeper])), "layers.9"),
        (lambda: logits(generator, ["a"], wider), "made for another model"),
        (lambda: logits(generator, ["a"], half), "only one of lora_A and lora_B"),
        (lambda: logits(generator, ["a"], other), "made for a model with fingerprint"),
        (lambda: compose([church, other]), "made for different models"),
        (lambda: compose([church, church]), "two erasures of 'church'"),
        (lambda: compose([church, whole]), "not made of adapters"),
        (lambda: compose([]), "nothing to compose"),
        (lambda: compose([church], [1, 2]), "2 strengths for 1"),
        (lambda: compose([church, boat], [1, "much"]), "strength of 'boat' is 'much', which is no number"),
        (lambda: compose([church], [float("nan")]), "no number"),
        (
            lambda: logits(generator, ["a"], dataclasses.replace(church, strength="all")),
            "strength of 'church' is 'all', which is no number",
        ),
        (lambda: logits(generator, ["a"], dataclasses.replace(compose([church, boat]), strength=True)), "no number"),
        (lambda: compose([church, boat], transport=Transport({"church": ("church",)})), "no name for concept 'boat'"),
        (lambda: Transport({"church": ()}), "needs a list of words that name concept 'church'"),
        (lambda: Transport({"church": "church"}), "needs a list of words that name"),
        (lambda: Transport({"church": ("church",)}, 2), "a layer is given as a share of the depth"),
        (lambda: folder('{"peft_type": "IA3"}'), "only LORA can be read"),
        (lambda: folder("[]"), "only LORA can be read"),
        (lambda: folder(json.dumps(good | {"use_dora": True})), "use_dora=true cannot be read"),
        (
            lambda: folder(weights={"base_model.model.layers.7.mlp.up_proj.lora_A.weight": torch.zeros(1, 64)}),
            "no such linear layer",
        ),
        (lambda: folder(weights={"layers.0.weight": torch.zeros(2, 2)}), "no adapter of a linear layer"),
        (lambda: Erasure.load(tmp_path / "x"), "load it together with a generator"),
        (lambda: write_peft(whole.tensors, tmp_path / "y"), "adapters that act at every position"),
        (lambda: (tensors.write_bytes(b"no"), read_peft(tmp_path / "x")), "broken or missing"),
        (lambda: recipe("spm", "custom", **{"retain.kind": "noise"}), "without a retain.weight"),
        (lambda: recipe("spm", "custom", **{"retain.kind": "loud"}), "retain.kind='loud' is not possible"),
        (lambda: recipe("spm", "custom", **{"retain.alpha": 2, "retain.weight": 1}), "retain.alpha has no meaning"),
        (lambda: recipe("ear-shared", "custom", **{"retain.kind": "sparsity", "retain.weight": 1}), "needs a rank"),
        (lambda: recipe("spm", "custom", mlp_every=2), "has no MLPs"),
        (lambda: recipe("spm", "custom", modules="both", mlp_every=0), "out of range"),
        (lambda: recipe("spm", "custom", modules="both", mlp_layers="1,0"), "mlp_layers=.*two shares of the depth"),
    ]
    for wrong, line in cases:
        with pytest.raises(UserError, match=line) as error:
            wrong()
        assert "\n" not in str(error.value)


def test_layers_without_a_choice_are_what_they_were():
    for modules in ("attention", "mlp", "both", "kv", "no-kv", "down"):
        r = recipe("obliviate", "custom", modules=modules)
        assert tensor_names(r, 8) == [
            f"layers.{i}.{part}.weight" for i in layer_range(r.layers, 8) for part in PARTS[modules]
        ]
