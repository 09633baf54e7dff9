"""Prompt with Words on the host's own tokenizers, text encoders and conditioning nodes."""

from __future__ import annotations

import comfy.hooks
import nodes as host_nodes
import pytest
import safetensors.torch
import torch
from comfy_extras import nodes_hooks
from host import tiny_clip

from semantic_guidance.nodes.prompt import SemanticGuidancePrompt, SemanticGuidanceWords
from semantic_guidance.words.phrases import find_phrase, nearest_phrase, token_labels, word_list
from semantic_guidance.words.prompt import CONDITIONING_KEY, PROBLEM_KEY, PromptWords, Word

FAMILIES = ("sd1", "sd2", "sdxl")
PROMPTS = (
    "",
    "a cat and a red balloon",
    "(red:1.3) balloon, ((tall)) [small] \\(escaped\\) tower",
    "an Antidisestablishmentarianism Backpack with a T-shirt",
    " ".join(f"animal {number}," for number in range(30)),
    "a very long description of a small house, " * 20,
)


@pytest.fixture(scope="module")
def clips():
    return {family: tiny_clip.clip(family) for family in FAMILIES}


@pytest.fixture(scope="module")
def clip(clips):
    return clips["sd1"]


def encode(clip, text: str) -> list:
    with torch.inference_mode():
        return SemanticGuidancePrompt.execute(clip, text).result[0]


def words(clip, text: str) -> PromptWords:
    ((_, extra),) = encode(clip, text)
    return extra[CONDITIONING_KEY]


def tokens_of(clip, text: str) -> list[int]:
    return [token for chunk in next(iter(clip.tokenize(text).values())) for token, _ in chunk]


def ids(clip, text: str) -> list[int]:
    """The tokens of a text alone, without start, end and padding."""
    tokenizer = next(value for name, value in vars(clip.tokenizer).items() if name in ("clip_g", "clip_h", "clip_l"))
    return tokenizer.tokenizer(text)["input_ids"][1:-1]


class TestEncoding:
    @pytest.mark.parametrize("family", FAMILIES)
    @pytest.mark.parametrize("text", PROMPTS)
    def test_is_that_of_clip_text_encode_bit_for_bit(self, clips, family, text):
        ours = encode(clips[family], text)
        with torch.inference_mode():
            (theirs,) = host_nodes.CLIPTextEncode().encode(clips[family], text)
        assert len(ours) == len(theirs) == 1
        assert torch.equal(ours[0][0], theirs[0][0])
        assert torch.equal(ours[0][1]["pooled_output"], theirs[0][1]["pooled_output"])
        assert ours[0][1].keys() - theirs[0][1].keys() == {CONDITIONING_KEY}
        assert ours[0][1][CONDITIONING_KEY].length == ours[0][0].shape[1]

    def test_clip_skip_is_kept(self, clip):
        (skipped,) = host_nodes.CLIPSetLastLayer().set_last_layer(clip, -2)
        with torch.inference_mode():
            (theirs,) = host_nodes.CLIPTextEncode().encode(skipped, "a cat")
        assert torch.equal(encode(skipped, "a cat")[0][0], theirs[0][0])
        assert not torch.equal(encode(skipped, "a cat")[0][0], encode(clip, "a cat")[0][0])

    def test_prompt_lengths(self, clips):
        lengths = [encode(clips["sd1"], text)[0][0].shape[1] for text in PROMPTS]
        assert lengths == [77, 77, 77, 77, 154, 231]

    def test_no_text_encoder_is_told(self):
        with pytest.raises(ValueError, match="no text encoder"):
            SemanticGuidancePrompt.execute(None, "a cat")


class TestWords:
    @pytest.mark.parametrize("family", FAMILIES)
    @pytest.mark.parametrize("text", PROMPTS[1:])
    def test_columns_hold_the_tokens_of_the_word(self, clips, family, text):
        found, tokens = words(clips[family], text), tokens_of(clips[family], text)
        assert found.words
        for word in found.words:
            assert [tokens[column] for column in word.tokens] == ids(clips[family], word.text)
        columns = [column for word in found.words for column in word.tokens]
        assert columns == sorted(set(columns))
        special = {column for column in range(found.length)} - set(columns)
        assert {tokens[column] for column in special} <= {49406, 49407, 0}

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("a cat", ["a", "cat"]),
            ("(red:1.3) balloon", ["red", "balloon"]),
            ("a T-Shirt, red", ["a", "T", "-", "Shirt", ",", "red"]),
            ("don't", ["don", "'t"]),
            ("Caf\u00e9 nai\u0308ve", ["Caf\u00e9", "na\u00efve"]),
            ("\u732b\u54aa and \U0001f408", ["\u732b", "\u54aa", "and", "\U0001f408"]),
            ("in 2024", ["in", "2024"]),
            ("\\(red\\) car", ["(", "red", ")", "car"]),
            ("", []),
        ],
    )
    def test_texts(self, clip, text, expected):
        assert [word.text for word in words(clip, text).words] == expected

    def test_a_word_of_several_tokens_is_one_word(self, clip):
        (word,) = words(clip, "antidisestablishmentarianism").words
        assert len(word.tokens) > 1
        assert word.tokens == tuple(range(1, 1 + len(word.tokens)))

    @pytest.mark.parametrize("filler", [73, 74, 75, 149])
    def test_words_around_the_border_of_a_chunk(self, clip, filler):
        """The text is one long run, which the host breaks wherever a chunk is full, also inside a word."""
        found = words(clip, "a " * filler + "antidisestablishmentarianism cat")
        word, cat = found.words[-2:]
        assert (word.text, cat.text) == ("antidisestablishmentarianism", "cat")
        tokens = tokens_of(clip, "a " * filler + "antidisestablishmentarianism cat")
        assert [tokens[column] for column in word.tokens] == ids(clip, "antidisestablishmentarianism")
        assert not any(column % 77 in (0, 76) for column in word.tokens)

    def test_short_weighted_words_move_to_the_next_chunk_whole(self, clip):
        found = words(clip, "a " * 74 + "(antidisestablishmentarianism:1.2)")
        assert found.words[-1].tokens[0] == 78

    def test_another_kind_of_text_encoder_has_no_words(self, caplog):
        class Other:
            class tokenizer:
                pass

            def tokenize(self, text, return_word_ids=False):
                return {"t5xxl": [[(5, 1.0, 1)]]}

            def encode_from_tokens_scheduled(self, tokens):
                return [[torch.zeros(1, 1, 8), {}]]

        ((_, extra),) = SemanticGuidancePrompt.execute(Other(), "a cat").result[0]
        assert CONDITIONING_KEY not in extra
        assert extra[PROBLEM_KEY] == "the text encoder (t5xxl) does not show its vocabulary"
        assert extra[PROBLEM_KEY] in caplog.text


    @pytest.mark.parametrize("tokens", [[[5, 6]], {"l": [[5, 6]]}, {"l": None}, None])
    def test_tokens_of_any_make_do_no_harm(self, clip, tokens, caplog):
        class Other:
            tokenizer, cond_stage_model = clip.tokenizer, clip.cond_stage_model

            def tokenize(self, text, return_word_ids=False):
                return tokens

            def encode_from_tokens_scheduled(self, tokens):
                return [[torch.zeros(1, 2, 8), {}]]

        ((_, extra),) = SemanticGuidancePrompt.execute(Other(), "a cat").result[0]
        assert "not made as ComfyUI's are" in extra[PROBLEM_KEY]
        assert caplog.text.count(extra[PROBLEM_KEY]) == 1


class TestWordsOfAPrompt:
    """For what other packs have encoded."""

    def test_words_are_those_of_prompt_with_words_and_the_rest_stays(self, clip):
        given = host_nodes.CLIPTextEncode().encode(clip, "a (red:1.2) cat")[0]
        (area,) = host_nodes.ConditioningSetArea().append(given, 64, 64, 0, 0, 1.0)
        (out,) = SemanticGuidanceWords.execute(clip, "a (red:1.2) cat", given + area).result
        assert [extra[CONDITIONING_KEY] for _, extra in out] == [words(clip, "a (red:1.2) cat")] * 2
        for (columns, extra), (before, kept) in zip(out, given + area, strict=True):
            assert columns is before and CONDITIONING_KEY not in kept
            assert {key: value for key, value in extra.items() if key != CONDITIONING_KEY} == kept

    def test_entries_that_the_text_does_not_fit_are_told(self, clip, caplog):
        short, long = (host_nodes.CLIPTextEncode().encode(clip, text)[0] for text in ("a cat", "a cat " * 80))
        (out,) = SemanticGuidanceWords.execute(clip, "a cat", short + long + long).result
        assert [CONDITIONING_KEY in extra for _, extra in out] == [True, False, False]
        assert caplog.text.count("l makes 77 tokens of the prompt, and the conditioning has 231 columns") == 1

    def test_a_text_that_fits_nowhere_is_an_error(self, clip):
        given = host_nodes.CLIPTextEncode().encode(clip, "a cat " * 80)[0]
        with pytest.raises(ValueError, match="Words of a Prompt: .* 77 tokens .* 231 columns.* Is this the text"):
            SemanticGuidanceWords.execute(clip, "a cat", given)
        with pytest.raises(ValueError, match="Words of a Prompt: The conditioning has no text"):
            SemanticGuidanceWords.execute(clip, "a cat", [[None, {}]])
        with pytest.raises(ValueError, match="Words of a Prompt: there is no text encoder"):
            SemanticGuidanceWords.execute(None, "a cat", given)

    def test_words_recorded_before_are_replaced(self, clip):
        (out,) = SemanticGuidanceWords.execute(clip, "a dog", encode(clip, "a cat")).result
        assert find_phrase(out[0][1][CONDITIONING_KEY], "dog") == (2,)


class TestEmbeddings:
    """Textual inversion files."""

    @pytest.fixture
    def folder(self, tmp_path):
        vectors = torch.linspace(-1, 1, 3 * 64).view(3, 64)
        safetensors.torch.save_file({"emb_params": vectors}, tmp_path / "style.safetensors")
        safetensors.torch.save_file({"emb_params": vectors[:, :48].clone()}, tmp_path / "narrow.safetensors")
        return tmp_path

    def test_an_embedding_is_one_word(self, folder):
        clip = tiny_clip.clip("sd1", folder)
        found = words(clip, "a embedding:style cat")
        assert found.words == (Word("a", (1,)), Word("(embedding)", (2, 3, 4)), Word("cat", (5,)))

    def test_two_embeddings_are_two_words(self, folder):
        clip = tiny_clip.clip("sd1", folder)
        found = words(clip, "embedding:style embedding:style, (embedding:style:1.2) cat")
        assert [word.tokens for word in found.words] == [(1, 2, 3), (4, 5, 6), (7,), (8, 9, 10), (11,)]
        assert [word.text for word in found.words] == ["(embedding)", "(embedding)", ",", "(embedding)", "cat"]

    @pytest.mark.parametrize("text", ["a embedding:style cat", "a embedding:narrow cat", "a embedding:missing cat"])
    def test_columns_are_those_that_the_encoder_gives(self, folder, text):
        """The column of a word is the one that changes first, going from left to right, when the word changes."""
        clip = tiny_clip.clip("sd1", folder)
        (column,) = find_phrase(words(clip, text), "cat")
        changed = (encode(clip, text)[0][0] - encode(clip, text.replace("cat", "dog"))[0][0]).abs().amax(dim=-1)[0]
        assert changed.nonzero()[0].item() == column
        assert words(clip, text).length == 77

    def test_encoding_is_that_of_clip_text_encode(self, folder):
        clip = tiny_clip.clip("sd1", folder)
        with torch.inference_mode():
            (theirs,) = host_nodes.CLIPTextEncode().encode(clip, "a embedding:style cat")
        assert torch.equal(encode(clip, "a embedding:style cat")[0][0], theirs[0][0])


class TestFindPhrase:
    TEXT = "A (Red:1.2) balloon, a T-shirt, caf\u00e9 2024 \U0001f408 and a red balloon, antidisestablishmentarianism"

    @pytest.mark.parametrize(
        ("phrase", "expected"),
        [
            ("red balloon", (2, 3)),
            ("RED  Balloon", (2, 3)),
            ("balloon", (3,)),
            ("t-shirt", (6, 7, 8)),
            ("T shirt", ()),
            ("shirt", (8,)),
            ("ball", ()),
            ("red car", ()),
            ("balloon and", ()),
            ("cafe\u0301", (10,)),
            ("2024", (11, 12, 13, 14)),
            ("\U0001f408", (15, 16)),
            ("and a red balloon", (17, 18, 19, 20)),
            ("#5", (5,)),
            ("#0", (0,)),
            ("#76", (76,)),
            ("#77", ()),
            ("#0000000000005", (5,)),
            ("#" + "9" * 5000, ()),
            ("# 5", ()),
        ],
    )
    def test_phrases(self, clip, phrase, expected):
        assert find_phrase(words(clip, self.TEXT), phrase) == expected

    def test_all_tokens_of_a_long_word(self, clip):
        found = words(clip, self.TEXT)
        assert find_phrase(found, "antidisestablishmentarianism") == found.words[-1].tokens
        assert len(found.words[-1].tokens) > 2

    def test_a_word_in_the_third_chunk(self, clip):
        found = words(clip, "house, " * 90 + "cat")
        assert find_phrase(found, "cat")[0] > 154

    @pytest.mark.parametrize(("typed", "near"), [("ballon", "balloon"), ("red baloon", "red balloon"), ("xyz", None)])
    def test_the_nearest_phrase(self, clip, typed, near):
        assert nearest_phrase(words(clip, "a cat and a red balloon"), typed) == near

    def test_word_list_leaves_out_punctuation_and_repeats(self, clip):
        assert word_list(words(clip, "a cat, a dog... \U0001f408")) == ["a", "cat", "dog", "\U0001f408"]


class TestSurvival:
    """The words stay with the cond through the host's own nodes."""

    @pytest.fixture
    def cat(self, clip):
        return encode(clip, "a cat")

    @pytest.fixture
    def dog(self, clip):
        return encode(clip, "a large dog")

    @staticmethod
    def texts(conditioning) -> list[list[str] | None]:
        recorded = [extra.get(CONDITIONING_KEY) for _, extra in conditioning]
        return [None if found is None else [word.text for word in found.words] for found in recorded]

    def test_combine(self, cat, dog):
        (out,) = host_nodes.ConditioningCombine().combine(cat, dog)
        assert self.texts(out) == [["a", "cat"], ["a", "large", "dog"]]

    def test_set_area(self, cat):
        (out,) = host_nodes.ConditioningSetArea().append(cat, 64, 64, 0, 0, 1.0)
        assert self.texts(out) == [["a", "cat"]]

    def test_set_area_percentage(self, cat):
        (out,) = host_nodes.ConditioningSetAreaPercentage().append(cat, 0.5, 0.5, 0.0, 0.0, 1.0)
        assert self.texts(out) == [["a", "cat"]]

    def test_set_mask(self, cat):
        (out,) = host_nodes.ConditioningSetMask().append(cat, torch.ones(1, 64, 64), "default", 1.0)
        assert self.texts(out) == [["a", "cat"]]

    def test_timestep_range(self, cat):
        (out,) = host_nodes.ConditioningSetTimestepRange().set_range(cat, 0.2, 0.8)
        assert self.texts(out) == [["a", "cat"]]

    def test_concat_keeps_the_columns_of_the_first_prompt_and_numbers_those_of_the_second(self, cat, dog):
        (out,) = host_nodes.ConditioningConcat().concat(cat, dog)
        ((text, extra),) = out
        assert text.shape[1] == 154
        assert self.texts(out) == [["a", "cat"]]
        labels = token_labels(extra[CONDITIONING_KEY], text.shape[1])
        assert labels[:4] == ["", "a", "cat", ""]
        assert labels[77:80] == ["#77", "#78", "#79"]

    def test_average(self, cat, dog):
        (out,) = host_nodes.ConditioningAverage().addWeighted(cat, dog, 0.5)
        assert self.texts(out) == [["a", "cat"]]

    def test_cond_set_props_with_mask_hooks_and_range(self, cat, dog):
        hooks = comfy.hooks.create_hook_lora({}, 1.0, 1.0)
        (out,) = nodes_hooks.ConditioningSetPropertiesAndCombine().set_properties(
            cat, dog, 1.0, "default", torch.ones(1, 64, 64), hooks, (0.2, 0.8)
        )
        assert self.texts(out) == [["a", "cat"], ["a", "large", "dog"]]
        assert {"mask", "hooks", "start_percent"} <= out[1][1].keys()

    def test_default_conds(self, cat, dog):
        (out,) = nodes_hooks.ConditioningSetDefaultAndCombine().set_default_and_combine(cat, dog)
        assert self.texts(out) == [["a", "cat"], ["a", "large", "dog"]]

    def test_scheduled_clip_hooks_record_the_words_in_every_cond(self, clip):
        name = "clip_l.transformer.text_model.encoder.layers.0.mlp.fc1.weight"
        weight = clip.patcher.model.state_dict()[name]
        hooks = comfy.hooks.create_hook_model_as_lora(None, {name: 2 * weight}, 1.0, 1.0)
        (first,) = nodes_hooks.CreateHookKeyframe().create_hook_keyframe(1.0, 0.0)
        (keyframes,) = nodes_hooks.CreateHookKeyframe().create_hook_keyframe(0.0, 0.5, first)
        (hooks,) = nodes_hooks.SetHookKeyframes().set_hook_keyframes(hooks, keyframes)
        (hooked,) = nodes_hooks.SetClipHooks().apply_hooks(clip, True, True, hooks)

        out = encode(hooked, "a cat")
        with torch.inference_mode():
            (theirs,) = host_nodes.CLIPTextEncode().encode(hooked, "a cat")

        assert len(out) == len(theirs) == 2
        assert all(torch.equal(ours[0], their[0]) for ours, their in zip(out, theirs, strict=True))
        assert not torch.equal(out[0][0], out[1][0])
        assert self.texts(out) == [["a", "cat"], ["a", "cat"]]

    def test_without_our_node_there_are_no_words(self, clip):
        with torch.inference_mode():
            (plain,) = host_nodes.CLIPTextEncode().encode(clip, "a cat")
        assert self.texts(plain) == [None]
        assert token_labels(None, 3) == ["#0", "#1", "#2"]
