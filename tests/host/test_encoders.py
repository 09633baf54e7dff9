"""Prompt with Words on the host's text encoders beside CLIP's, whose columns say which token they are of."""

from __future__ import annotations

import unicodedata

import comfy.text_encoders.hunyuan_video
import nodes as host_nodes
import pytest
import safetensors.torch
import torch
import transformers
from host import tiny_encoders

from semantic_guidance.nodes.prompt import SemanticGuidancePrompt
from semantic_guidance.words.filler import without_words
from semantic_guidance.words.phrases import check_phrases, find_phrase
from semantic_guidance.words.prompt import CONDITIONING_KEY, PROBLEM_KEY, PromptWords, Word, prompt_words

# The column of "red" in "a red cat, 猫 and an ant", counted by hand in the template that each encoder keeps.
# T5 writes "a" as two pieces. Lumina 2, NewBie: <s>. PixelDiT: <s> and the last piece of its template.
# Z-Image, Klein, Ideogram 4, HiDream-O1: <|im_start|> user \n. JoyImage: user \n. Ovis: ":".
# Flux 2: the whole template, cut into letters by the small vocabulary; in the same way Lens.
RED = {
    "SD3": 2, "Flux": 2, "Flux 2": 125, "Flux 2 Klein": 4, "AuraFlow": 1, "Chroma": 2, "CogVideoX": 2, "Cosmos": 2,
    "Mochi": 2, "LTX": 2, "Wan": 1, "Anima": 1, "Lumina 2": 2, "NetaYume": 2, "NewBie": 2, "PixelDiT": 3, "Z-Image": 4,
    "Qwen-Image": 1, "Mage-Flow": 1, "Krea 2": 1, "JoyImage": 3, "Boogu": 30, "Ideogram 4": 4, "OmniGen 2": 24,
    "Ovis": 2, "LongCat": 1, "HunyuanImage": 1, "HunyuanVideo 1.5": 1, "Kandinsky 5": 1, "Kandinsky 5 Image": 1,
    "HiDream": 2, "HiDream-O1": 4, "Lens": 19, "MiniMax H3": 1, "Ernie": 2,
}  # fmt: skip
T5 = ("Flux", "Chroma", "CogVideoX", "Cosmos", "Mochi", "LTX", "HiDream")
WITHOUT_WEIGHTS = (
    "Flux 2", "Flux 2 Klein", "NetaYume", "NewBie", "PixelDiT", "Z-Image", "Qwen-Image", "Mage-Flow", "Krea 2",
    "JoyImage", "Boogu", "Ideogram 4", "Ovis", "LongCat", "HunyuanImage", "HunyuanVideo 1.5", "Kandinsky 5",
    "Kandinsky 5 Image", "HiDream-O1", "Lens", "MiniMax H3", "Ernie",
)  # fmt: skip
A, RED_ZH, CAT = "\u4e00\u53ea", "\u7ea2\u8272", "\u732b"
PEACE, WORLD = "\u05e9\u05dc\u05d5\u05dd", "\u05e2\u05d5\u05dc\u05dd"
NASTY = (
    "", " ", "\n", "((", "\\(a\\)", "a:1.2)", "</s>", "<unk>", "a <|im_end|> b", "embedding:missing cat", "\x00",
    "\U0001f3f3\ufe0f\u200d\U0001f308 flag", "e\u0301 \u0130 \ufb01 \u00b4 \u2026 \u201cquoted\u201d",
    "\u200b a\u200db",
    "\u0928\u092e\u0938\u094d\u0924\u0947 \u0e41\u0e21\u0e27 \u05e9\u05dc\u05d5\u05dd", "{x} ^_^ ~ `", "a\ufffdb",
    "zqxjkvwbpygfumclrdhsinoate0123456789", "<|im_start|>user\na cat<|im_end|>\n",
)  # fmt: skip


def encode(clip, text: str) -> tuple[torch.Tensor, dict]:
    with torch.inference_mode():
        ((columns, extra),) = SemanticGuidancePrompt.execute(clip, text).result[0]
        (((theirs, without),),) = host_nodes.CLIPTextEncode().encode(clip, text)
    assert torch.equal(columns, theirs)
    assert extra.keys() - without.keys() in ({CONDITIONING_KEY}, {PROBLEM_KEY})
    return columns, extra


def words(clip, text: str) -> PromptWords:
    columns, extra = encode(clip, text)
    found = extra[CONDITIONING_KEY]
    assert found.length == columns.shape[1]
    return found


def texts(found: PromptWords) -> list[str]:
    return [word.text for word in found.words]


def inner(clip):
    """The tokenizer that the conditioning's columns are of."""
    names = [name for name in clip.tokenize("a") if name not in ("l", "g")]
    return getattr(clip.tokenizer, f"clip_{names[0]}", None) or getattr(clip.tokenizer, names[0])


def normal(text: str) -> str:
    letters = unicodedata.normalize("NFKC", text).casefold().replace("\u200d", "")
    return "".join(letters.split())


def spelled(clip, columns: torch.Tensor, tokens: tuple[int, ...]) -> str:
    """What the tokens of these columns spell, by the tokenizer's own decoder."""
    return inner(clip).tokenizer.decode([int(columns[0, column, 0]) for column in tokens])


@pytest.mark.parametrize("name", RED)
class TestEveryEncoder:
    def test_columns_hold_the_tokens_of_their_words(self, name):
        clip = tiny_encoders.clip(name)
        text = "a red cat, \u732b and an ant"
        columns, extra = encode(clip, text)
        found = extra[CONDITIONING_KEY]
        read = found.part("t5xxl").words if name == "SD3" else found.words
        known = [] if name in (*T5, "SD3") else ["\u732b"]
        assert [word.text for word in read] == ["a", "red", "cat", ",", *known, "and", "an", "ant"]
        assert find_phrase(found, "red") == (RED[name],)
        for word in read:
            assert normal(spelled(clip, columns, word.tokens)) == normal(word.text)

    def test_words_of_the_template_are_not_those_of_the_prompt(self, name):
        clip = tiny_encoders.clip(name)
        start = find_phrase(words(clip, "red"), "red")[0]
        for text in ("ant", "assistant", "user", "the image", "a", "Describe"):
            word = words(clip, text).words[0]
            assert word.text == text.split()[0]
            assert word.tokens[0] - start in (0, 1)  # T5 writes "a" as two pieces

    def test_weights_are_read_or_told_of(self, name, caplog):
        clip = tiny_encoders.clip(name)
        found = words(clip, "a (red:1.3) cat")
        if name in WITHOUT_WEIGHTS:
            assert texts(found) == ["a", "(", "red", ":", "1", ".", "3", ")", "cat"]
            assert caplog.text.count('has no weights: it reads "(red:1.3)" as text') == 1
            caplog.clear()
            words(clip, "a cat (left) and a dog")
        else:
            assert texts(found) == ["a", "red", "cat"]
        assert not caplog.text

    def test_a_word_gives_way_to_as_many_fillers_wherever_it_stands(self, name):
        """What stands for nothing itself stays what it is."""
        clip = tiny_encoders.clip(name)
        columns, extra = encode(clip, "red cat, and the red balloon on a house")
        found = extra[CONDITIONING_KEY]

        def without(phrase: str) -> torch.Tensor:
            filled = without_words(clip, found, [phrase], extra.keys())
            keep = {"llama"} if name == "HiDream" else set()
            assert {note.split()[0] for note in filled.notes} >= keep
            ((changed, beside),) = clip.encode_from_tokens_scheduled(filled.tokens)
            assert changed.shape == columns.shape
            if name == "Anima" and phrase == "red":
                own = dict.fromkeys(column for word in found.token_ids if word.text == phrase for column in word.tokens)
                assert (beside["t5xxl_ids"] != extra["t5xxl_ids"]).nonzero().flatten().tolist() == list(own)
            return (changed != columns).any(dim=-1)[0].nonzero().flatten().tolist()

        every = [word for part in found.parts for word in part.words]
        assert without("red") == [column for word in every if word.text == "red" for column in word.tokens]
        (column,) = find_phrase(found, "red")[:1]
        assert without(f"#{column}") == ([] if name == "Anima" else [column])  # where it is of the ids
        assert name == "SD3" or not all(map(without, ("a", "the")))  # CLIP's filler is "a", T5's is "the"

    def test_no_prompt_fails(self, name):
        """And what is named is right, also where not all is."""
        clip = tiny_encoders.clip(name)
        for text in NASTY[: -1 if name == "JoyImage" else None]:  # on the last the host's own node fails
            columns, extra = encode(clip, text)
            for word in extra.get(CONDITIONING_KEY, PromptWords((), 0)).words if name != "SD3" else ():
                assert normal(word.text) in normal(spelled(clip, columns, word.tokens)).replace("\ufffd", "")


def test_llamas_words_where_its_tokenizer_keeps_spaces(monkeypatch):
    """As before transformers 5. HunyuanVideo cuts its template off at both ends, but for <|eot_id|>."""
    module = comfy.text_encoders.hunyuan_video
    monkeypatch.setattr(module, "LlamaTokenizerFast", transformers.PreTrainedTokenizerFast)
    clip = tiny_encoders.clip.__wrapped__("HunyuanVideo")
    columns, extra = encode(clip, "a red cat, \u732b and an ant")
    found = extra[CONDITIONING_KEY]
    assert texts(found) == ["a", "red", "cat", ",", "\u732b", "and", "an", "ant"]
    assert find_phrase(found, "red") == (1,)
    for word in found.words:
        assert normal(spelled(clip, columns, word.tokens)) == word.text


class TestEmbeddings:
    """Of encoders beside CLIP."""

    @pytest.fixture
    def folder(self, tmp_path):
        vectors = {"t5xxl": torch.full((3, 1), -1.0), "clip_l": torch.full((2, 1), -1.0)}
        safetensors.torch.save_file(vectors, tmp_path / "style.safetensors")
        wide = {name: torch.zeros(rows, 4096) for name, rows in (("clip_l", 2), ("clip_g", 2), ("t5xxl", 3))}
        safetensors.torch.save_file(wide, tmp_path / "wide.safetensors")
        return str(tmp_path)

    def test_of_t5(self, folder):
        clip = tiny_encoders.clip("Flux", folder)
        columns, extra = encode(clip, "red embedding:style, cat (embedding:style:1.0)")
        found = extra[CONDITIONING_KEY]
        assert texts(found) == ["red", "(embedding)", ",", "cat", "(embedding)"]
        assert [len(word.tokens) for word in found.words] == [1, 3, 1, 1, 3]
        for word in found.words:
            values = columns[0, list(word.tokens), 0]
            assert (values == -1).all() if word.text == "(embedding)" else (values > 0).all()

    def test_of_sd3(self, folder):
        clip, t5 = words(tiny_encoders.clip("SD3", folder), "red embedding:wide cat").parts
        assert [word.tokens for word in clip.words] == [(1,), (2, 3), (4,)]
        assert [word.tokens for word in t5.words] == [(77,), (78, 79, 80), (81,)]

    def test_of_sd3_without_clip(self, folder):
        found = words(tiny_encoders.clip("SD3", folder, clip_l=False, clip_g=False), "red embedding:wide cat")
        assert [word.tokens for word in found.words] == [(0,), (1, 2, 3), (4,)]

    def test_of_ids_that_are_handed_on(self, folder):
        """Anima's T5 has no width to compare with. ComfyUI 0.30 fails to encode such a prompt; later ones write ids."""
        clip, text = tiny_encoders.clip("Anima", folder), "red embedding:style cat"
        tokens = clip.tokenize(text)
        found, _ = prompt_words(clip, text, len(tokens["qwen3_06b"][0]), ["t5xxl_ids"])
        assert found.token_ids == (Word("red", (0,)), Word("(embedding)", (1, 2, 3)), Word("cat", (4,)))
        assert [isinstance(entry[0], int) for entry in tokens["t5xxl"][0][:5]] == [True, False, False, False, True]


def test_the_host_has_encoders_whose_words_are_not_known(caplog):
    """Llama 3's tokenizer loses all spaces under transformers 5; HunyuanDiT's is of a kind of its own."""
    for name in ("HunyuanVideo", "HunyuanDiT"):
        caplog.clear()
        columns, extra = encode(tiny_encoders.clip(name), "a red cat")
        reason = extra[PROBLEM_KEY]
        assert "without the spaces between them" in reason
        assert caplog.text.count("WARNING") == 1
        assert reason in caplog.text
        conditioning = [[columns, extra]]
        check_phrases(conditioning, ["#2"], "Word Mask")
        with pytest.raises(ValueError, match="Word Mask: cannot find .cat., because .* the spaces .* #5"):
            check_phrases(conditioning, ["cat"], "Word Mask")


def note(caplog) -> str:
    """The one warning that the node gives."""
    messages = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    (message,) = [message for message in messages if message.startswith("Prompt with Words: ")]
    return message


class TestSD3:
    def test_clip_is_read_and_t5_stands_apart(self):
        found = words(tiny_encoders.clip("SD3"), "a red cat")
        clip, t5 = found.parts
        assert (clip.name, clip.columns, t5.name, t5.columns) == ("clip", range(77), "t5xxl", range(77, 154))
        assert found.words == clip.words
        assert [word.tokens for word in clip.words] == [(1,), (2,), (3,)]
        assert [word.tokens for word in t5.words] == [(78,), (79,), (80,)]

    def test_a_long_prompt_has_t5_behind_all_chunks_of_clip(self):
        found = words(tiny_encoders.clip("SD3"), "a cat " * 100 + "dog")
        assert found.part("clip").columns == range(3 * 77)
        assert find_phrase(found, "dog") == (2 * 77 + 51,)
        assert found.part("t5xxl").words[-1].tokens == (3 * 77 + 300,)  # it writes "a" as two pieces

    @pytest.mark.parametrize(
        ("missing", "names", "red"),
        [({"t5": False}, ["clip"], 2), ({"clip_l": False}, ["clip", "t5xxl"], 2),
         ({"clip_l": False, "clip_g": False}, ["t5xxl"], 2)],
    )  # fmt: skip
    def test_without_some_of_its_encoders(self, missing, names, red):
        found = words(tiny_encoders.clip("SD3", **missing), "a red cat")
        assert [part.name for part in found.parts] == names
        assert find_phrase(found, "red") == (red,)

    def test_hidream_without_t5_has_no_columns_to_name(self, caplog):
        _, extra = encode(tiny_encoders.clip("HiDream", t5=False), "a red cat")
        assert extra[PROBLEM_KEY] == "g makes 77 tokens of the prompt, and the conditioning has 128 columns"

    def test_a_prompt_of_as_many_t5_as_clip_columns_is_not_taken_for_clips(self):
        """Flux: 4 chunks of CLIP and 308 tokens of T5."""
        clip = tiny_encoders.clip("Flux")
        found = words(clip, "cat " * 306 + "dog")
        assert (found.length, find_phrase(found, "dog"), found.part("clip")) == (308, (306,), None)


class TestAnima:
    def test_words_are_those_of_the_token_ids_that_the_model_reads(self):
        columns, extra = encode(tiny_encoders.clip("Anima"), "a (red:1.3) cat's T-shirt")
        found = extra[CONDITIONING_KEY]
        assert [word.tokens for word in found.words] == [(0,), (2,), (3,), (4,), (5,), (6,), (6,)]
        assert [word.tokens for word in found.token_ids] == [(1,), (2,), (3,), (4, 5), (6,), (7,), (8,)]
        assert extra["t5xxl_weights"][2] == pytest.approx(1.3)
        assert found.seen == found.token_ids

    def test_what_t5_does_not_know_cannot_be_named(self, caplog):
        columns, extra = encode(tiny_encoders.clip("Anima"), "a cat and \u732b\u54aa")
        assert "t5xxl does not know \"\u732b\u54aa\"" in note(caplog)
        with pytest.raises(ValueError, match="is not in the prompt. Its words are: a, cat, and."):
            check_phrases([[columns, extra]], ["\u732b\u54aa"], "Word Mask")


class TestTheUnhappy:
    def test_t5_does_not_know_all_characters(self, caplog):
        found = words(tiny_encoders.clip("Flux"), "a ni\u00f1o, \u732b\u54aa {cat} \U0001f408 and dog")
        assert texts(found) == ["a", ",", "cat", "and", "dog"]
        assert note(caplog).startswith('Prompt with Words: t5xxl does not know "ni\u00f1o", "\u732b\u54aa".')

    @pytest.mark.parametrize(("name", "room"), [("HiDream", 127), ("LongCat", 512), ("Lens", 512)])
    def test_a_prompt_that_is_longer_than_its_encoder_takes(self, name, room, caplog):
        clip = tiny_encoders.clip(name)
        found = words(clip, "red " * room + "dog, house")
        assert set(texts(found)) == {"red"}
        assert len(found.words) <= room
        assert "has no room for all of the prompt" in note(caplog)
        assert '"dog", ",", "house"' in note(caplog) or "and more" in note(caplog)

    @pytest.mark.parametrize("name", ["Qwen-Image", "Z-Image", "Flux 2 Klein"])
    def test_a_template_in_the_prompt(self, name):
        """It takes the place of the encoder's own. Where tokens are left out of it, nobody knows which."""
        _, extra = encode(tiny_encoders.clip(name), "<|im_start|>user\na cat<|im_end|>\n")
        if name == "Z-Image":
            assert "cat" in texts(extra[CONDITIONING_KEY])

    def test_other_columns_than_the_tokens_make(self, caplog):
        """As NegPip's, which has two for a token."""
        clip = tiny_encoders.clip("Flux").clone()
        plain = clip.encode_from_tokens_scheduled
        clip.encode_from_tokens_scheduled = lambda tokens: [
            [columns.repeat(1, 2, 1), extra] for columns, extra in plain(tokens)
        ]
        _, extra = encode(clip, "a cat")
        assert extra[PROBLEM_KEY] == "t5xxl makes 256 tokens of the prompt, and the conditioning has 512 columns"


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("Qwen-Image", f"{A}{RED_ZH}\u7684{CAT}, {CAT}\u54aa",
         [(A, 1), (RED_ZH, 1), ("\u7684", 1), (CAT, 1), (",", 1), (CAT, 3), ("\u54aa", 1)]),
        ("Qwen-Image", f"{PEACE} {WORLD}", [(PEACE, 1), (WORLD, 2)]),
        ("AuraFlow", "ni\u00f1o \U0001f408!", [("ni\u00f1o", 2), ("\U0001f408", 4), ("!", 1)]),
        ("Qwen-Image", "don't, cat's long_hair in 2024", [("don", 1), ("'t", 1), (",", 1), ("cat", 1), ("'s", 1),
         ("long", 1), ("_", 1), ("hair", 2), ("in", 1), ("2024", 4)]),
        ("Wan", "red (red:1.2)balloon,red", [("red", 1), ("red", 1), ("balloon", 1), (",", 1), ("red", 1)]),
        ("Flux", "\\(red\\) \"cat\".", [("(", 1), ("red", 1), (")", 1), ('"', 1), ("cat", 1), ('"', 1), (".", 1)]),
        ("LongCat", 'a "red" cat', [("a", 1), ('"', 1), ("red", 3), ('"', 1), ("cat", 1)]),
    ],
)  # fmt: skip
def test_words_and_how_many_tokens_they_have(name, text, expected):
    found = words(tiny_encoders.clip(name), text)
    assert [(word.text, len(word.tokens)) for word in found.words] == expected
