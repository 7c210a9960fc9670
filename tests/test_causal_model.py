"""Causal models of Hugging Face, small and with random weights, in the comparison with fine-tuning.

Skipped without the extra `hub`; to run them: pip install -e ".[plots,sklearn,test,hub]".
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

transformers: Any = pytest.importorskip("transformers")

from iclkit import cli  # noqa: E402
from iclkit.analysis.inside.causal_model import (  # noqa: E402
    PromptedCausalModel,
    load_causal_model,
    untrained_causal_model,
)
from iclkit.analysis.inside.fine_tuning import compare_fine_tuning  # noqa: E402
from iclkit.analysis.inside.prompted import Prompts, read  # noqa: E402
from iclkit.analysis.inside.token_prompts import TokenEpisode, token_prompts  # noqa: E402
from iclkit.errors import UserError  # noqa: E402

VOCABULARY, LABELS, EPISODES, DEMONSTRATIONS = 40, 3, 4, 5
SPECIAL = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}


def config(kind: str, **changes: Any) -> Any:
    if kind == "gpt2":
        sizes = {"n_positions": 64, "n_embd": 16, "n_layer": 2, "n_head": 2, **changes}
        return transformers.GPT2Config(vocab_size=VOCABULARY, **SPECIAL, **sizes)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "max_position_embeddings": 64}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True, **changes}
    return transformers.LlamaConfig(vocab_size=VOCABULARY, **SPECIAL, **sizes, **heads)


def made(kind: str, **changes: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config(kind, **changes))
        # Weights as they start are so small that nothing attends to anything.
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.data.mul_(8.0)
    return model.double().eval()


def episodes(lengths: tuple[int, ...] = (3,)) -> list[TokenEpisode]:
    generator = torch.Generator().manual_seed(1)

    def tokens(place: int) -> list[int]:
        return torch.randint(LABELS, VOCABULARY, (lengths[place % len(lengths)],), generator=generator).tolist()

    found = []
    for episode in range(EPISODES):
        labels = torch.randint(LABELS, (DEMONSTRATIONS + 1,), generator=generator).tolist()
        shown = [tokens(episode + place) for place in range(DEMONSTRATIONS)]
        found.append(TokenEpisode(shown, labels[:-1], tokens(episode), labels[-1]))
    return found


def plain_fine_tuning(model: Any, episode: TokenEpisode, choices: Tensor, rate: float) -> Any:
    """What fine-tuning is, for one episode, written down with torch's own SGD."""
    tuned = copy.deepcopy(model).requires_grad_(False)
    moved = [
        (name, parameter)
        for name, parameter in tuned.named_parameters()
        if any(part in name for part in ("c_attn", "k_proj", "v_proj"))
    ]
    first = {name: parameter.detach().clone() for name, parameter in moved}
    for _, parameter in moved:
        parameter.requires_grad_(True)
    optimizer = torch.optim.SGD([parameter for _, parameter in moved], lr=rate)
    for shown, label in zip(episode.demonstrations, episode.labels, strict=True):
        optimizer.zero_grad()
        logits = tuned(torch.tensor([shown])).logits[0, -1, choices]
        F.cross_entropy(logits, torch.searchsorted(choices, label)).backward()
        optimizer.step()
        with torch.no_grad():
            for name, parameter in moved:
                if "c_attn" in name:
                    third = parameter.shape[-1] // 3
                    parameter[..., :third] = first[name][..., :third]
    return tuned


@pytest.mark.parametrize("lengths", [(3,), (1, 4, 2)], ids=["one length", "filled up"])
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_every_episode_is_fine_tuned_as_if_it_were_alone(kind: str, lengths: tuple[int, ...]) -> None:
    model = made(kind)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    attention = model.config._attn_implementation
    data = episodes(lengths)
    prompts, choices = token_prompts(data)
    prompted = PromptedCausalModel(model, choices)
    prompted.check(prompts)
    found = compare_fine_tuning(prompted, prompts, rate=0.05)
    answers: dict[str, list[Tensor]] = {"zero-shot": [], "in context": [], "fine-tuned": []}
    with torch.no_grad():
        for episode in data:
            alone = torch.tensor([episode.query])
            pairs = zip(episode.demonstrations, episode.labels, strict=True)
            whole = torch.tensor([[t for shown, label in pairs for t in [*shown, label]] + list(episode.query)])
            answers["zero-shot"].append(model(alone).logits[0, -1, choices])
            answers["in context"].append(model(whole).logits[0, -1, choices])
            with torch.enable_grad():
                tuned = plain_fine_tuning(model, episode, choices, 0.05)
            answers["fine-tuned"].append(tuned(alone).logits[0, -1, choices])
    for setting, logits in answers.items():
        expected = F.cross_entropy(torch.stack(logits), prompts.target, reduction="none")
        torch.testing.assert_close(found.losses[setting], expected, rtol=0, atol=1e-9)
    assert (found.losses["fine-tuned"] - found.losses["zero-shot"]).abs().max() > 1e-3
    assert len(found.layers) == 2
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.config._attn_implementation == attention


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_scores_are_those_before_the_softmax(kind: str) -> None:
    model = made(kind)
    prompts, choices = token_prompts(episodes())
    prompted = PromptedCausalModel(model, choices)
    seen = read(prompted, prompted.moved, prompts.in_context, shared=True)
    model.set_attn_implementation("eager")
    patterns = model(prompts.in_context, output_attentions=True).attentions
    for scores, pattern in zip(seen.scores, patterns, strict=True):
        # Llama's own softmax is float32.
        torch.testing.assert_close(scores.softmax(-1), pattern[:, :, -1].detach(), rtol=0, atol=1e-7)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_model_is_loaded_from_its_folder(kind: str, tmp_path: Path) -> None:
    model = made(kind).float()
    model.save_pretrained(tmp_path)
    loaded = load_causal_model(tmp_path)
    prompts, _ = token_prompts(episodes())
    torch.testing.assert_close(loaded(prompts.in_context).logits, model(prompts.in_context).logits)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_an_untrained_model_is_a_function_of_its_seed() -> None:
    state = torch.get_rng_state()
    model = made("llama").float()
    one, same, other = (untrained_causal_model(model, seed).lm_head.weight for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)


def write_tokenizer(folder: Path) -> None:
    """Words "w0" to "w39", which are the tokens 0 to 39."""
    tokenizers = pytest.importorskip("tokenizers")
    words = {f"w{token}": token for token in range(VOCABULARY)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w39"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)


def test_the_command_reads_tokens_and_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, data, out = tmp_path / "hub", tmp_path / "data.jsonl", tmp_path / "out"
    made("gpt2").float().save_pretrained(folder)
    lines = [vars(episode) for episode in episodes((1, 4, 2))]
    printed = []
    for text in (False, True):
        if text:
            write_tokenizer(folder)
            for line in lines:
                line["demonstrations"] = [" ".join(f"w{t}" for t in shown) for shown in line["demonstrations"]]
                line["query"] = " ".join(f"w{t}" for t in line["query"])
                line["labels"] = [f"w{label}" for label in line["labels"]]
        data.write_text("".join(json.dumps(line) + "\n" for line in lines))
        files = ["--hub", str(folder), "--data", str(data), "--out", str(out)]
        assert cli.main(["fine-tuning", *files, "--rate", "0.1"]) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    assert printed[0].startswith("GPT2LMHeadModel in ")
    assert (out / "fine-tuning.png").is_file()
    data.write_text(json.dumps({**lines[0], "label": "w1 w2"}))
    assert cli.main(["fine-tuning", "--hub", str(folder), "--data", str(data)]) == 2
    assert "line 1: a label is one token, given 'w1 w2' of 2" in capsys.readouterr().err


def prompts_of(model: Any, data: list[TokenEpisode]) -> tuple[PromptedCausalModel, Prompts]:
    prompts, choices = token_prompts(data)
    return PromptedCausalModel(model, choices), prompts


def test_mistakes_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no config\.json"):
        load_causal_model(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "nonsense"}')
    with pytest.raises(UserError, match="no causal language model"):
        load_causal_model(tmp_path)
    model = made("gpt2")
    prompted, prompts = prompts_of(model, [TokenEpisode([[VOCABULARY]], [1], [2], 1)])
    with pytest.raises(UserError, match=f"token {VOCABULARY}, but"):
        prompted.check(prompts)
    prompted, prompts = prompts_of(model, [TokenEpisode([[1] * 64], [1], [2], 1)])
    with pytest.raises(UserError, match="66 tokens"):
        prompted.check(prompts)
    with pytest.raises(UserError, match="neither modules k_proj"):
        PromptedCausalModel(_Other().eval(), torch.arange(2))
    with pytest.raises(UserError, match="in training mode"):
        PromptedCausalModel(made("gpt2").train(), torch.arange(2))
    windowed = made("llama")
    windowed.config.layer_types = ["full_attention", "sliding_attention"]
    with pytest.raises(UserError, match="sliding_attention"):
        PromptedCausalModel(windowed, torch.arange(2))


class _Other(nn.Linear):
    """A model of another kind."""

    def __init__(self) -> None:
        super().__init__(1, 1)
        self.config = transformers.GPT2Config()
