"""The workflows of guidance by place, by word and over time: notes and layout."""

from __future__ import annotations

from workflow_page import PROMPT, SD15, SEED, App, Group, Page

FINER = {
    "regions_from_boxes": Page(
        "Regions from boxes (SD 1.5)",
        SD15,
        [
            Group(
                "1  Model and base prompt",
                "**Regional Prompts** gives parts of the picture prompts of their own, at any cfg and without more "
                "model calls. The base prompt says what the whole picture shows.",
                ["loader", "positive", "negative", "latent", "seed"],
            ),
            Group("2  Without", "The same seed, sampled as usual.", ["plain", "plain_image", "save_plain"]),
            Group(
                "3  Left",
                "A prompt and its box, in pixels of a canvas of 512 x 512. A mask does as well, or the boxes that you "
                "draw in *Create Bounding Boxes*. **strength** is the share of this prompt; the base prompt has the "
                "rest.",
                ["one_prompt", "one_box", "one"],
            ),
            Group(
                "4  Right",
                "The next region, chained through **previous**. Where regions overlap, the first one wins.",
                ["two_prompt", "two_box", "two"],
            ),
            Group(
                "5  With regions",
                "**width** and **height** are those of the canvas on which the boxes were drawn. Both outputs go to "
                "the sampler: the model and the conditioning.",
                ["regions", "guided", "guided_image", "save_guided"],
            ),
            Group("6  What it did", "Where each prompt acted, and in what share.", ["preview"]),
        ],
        ["save_plain", "save_guided"],
        App(
            [PROMPT, ("one_prompt", "text", "left"), ("two_prompt", "text", "right"), ("one", "strength", "share left"),
             ("two", "strength", "share right"), SEED],
            ["save_guided", "save_plain", "preview"],
        ),
    ),
    "one_word_stronger": Page(
        "One word stronger (SD 1.5)",
        SD15,
        [
            Group(
                "1  Model and prompt",
                "**Word Strength** makes words of the prompt count more or less. It works where the text encoder reads "
                "*(word:1.3)* as text, too, and at cfg 1.",
                ["loader", "positive", "negative", "latent", "seed"],
            ),
            Group("2  Without", "The same seed, sampled as usual.", ["plain", "plain_image", "save_plain"]),
            Group(
                "3  One word stronger",
                "**words** as they stand in the prompt. A **strength** of 3 is as if the word stood there three times; "
                "0 takes it out, below 0 steers away from it. Both outputs go to the sampler: the model and the "
                "conditioning.",
                ["strength", "guided", "guided_image", "save_guided"],
            ),
            Group(
                "4  Attention to the word",
                "How strongly the model attends to the word, step by step, and where, as it would be at strength 1. "
                "*Word Mask* completes such a map, and tells better where a word is.",
                ["curves"],
            ),
        ],
        ["save_plain", "save_guided"],
        App(
            [PROMPT, ("strength", "words", ""), ("strength", "strength", ""), SEED],
            ["save_guided", "save_plain", "curves"],
        ),
    ),
    "attention_loss": Page(
        "Attention Loss with boxes (SD 1.5)",
        SD15,
        [
            Group(
                "1  Model and prompt",
                "**Attention Loss** tells Attend-and-Excite what else to move the latent for: here, that one subject "
                "is on the left and the other on the right.",
                ["loader", "positive", "negative", "latent", "seed"],
            ),
            Group("2  Without", "The same seed, sampled as usual.", ["plain", "plain_image", "save_plain"]),
            Group(
                "3  Left",
                "The loss *inside* draws **words** into a box, in pixels of the picture. A mask does as well, or the "
                "boxes that you draw in *Create Bounding Boxes*.",
                ["one_box", "one"],
            ),
            Group(
                "4  Right",
                "The next loss, chained through **previous**. Losses add up; a larger **weight** counts more.\n\nThe "
                "loss *overlap* needs no box: it keeps two subjects from attending to each other's places.",
                ["two_box", "two"],
            ),
            Group(
                "5  With both",
                "In the first half of the steps the latent is moved so that the losses fall. The **words** of "
                "Attend-and-Excite itself keep both subjects in the picture; they may stay empty.",
                ["excite", "excited", "excited_image", "save_excited"],
            ),
            Group(
                "6  What it did",
                "The curves show how strongly the model attends to each word, step by step; the maps show where.",
                ["curves"],
            ),
        ],
        ["save_plain", "save_excited"],
        App(
            [PROMPT, ("excite", "words", "subjects"), ("one", "words", "left"), ("two", "words", "right"), SEED],
            ["save_excited", "save_plain", "curves"],
        ),
    ),
    "guidance_over_time": Page(
        "Guidance over time (SD 1.5)",
        SD15,
        [
            Group(
                "1  Model and prompt",
                "**Guidance Schedule** changes cfg while sampling. *Prompt with Words* lets it find words.",
                ["loader", "positive", "negative", "latent"],
            ),
            Group("2  One scale", "The same seed, one cfg from start to end.",
                  ["meter_plain", "plain", "plain_image", "save_plain"]),
            Group(
                "3  Over time",
                "**preset** says how guidance changes. *linear* begins without any and ends with twice as much; on "
                "average it is your cfg. A **clamp** of 2 or so keeps some from the start.",
                ["schedule", "meter", "guided", "guided_image", "save_guided"],
            ),
            Group(
                "4  By words",
                "A number after a word is a factor on cfg - 1 where the model sees it: 0 is no guidance there, 2 twice "
                "as much.",
                ["schedule_words", "meter_words", "by_words", "words_image", "save_words"],
            ),
            Group(
                "5  What it came to",
                "**Guidance Meter** measures the CFG scale that the picture really got at each step, here over time "
                "against one scale (dashed), and then at each word. A constant cfg of the same mean is a fair "
                "comparison.",
                ["curves", "word_curves"],
            ),
        ],
        ["save_plain", "save_guided", "curves"],
    ),
    "characteristic_guidance": Page(
        "Characteristic Guidance (SD 1.5)",
        SD15,
        [
            Group(
                "1  Model and prompt",
                "**Characteristic Guidance** corrects what plain CFG gets wrong at a high cfg. Both samplers have the "
                "same seed and the same high cfg.",
                ["loader", "positive", "negative", "latent", "seed"],
            ),
            Group("2  Plain CFG", "", ["meter_plain", "plain", "plain_image", "save_plain"]),
            Group(
                "3  Corrected",
                "With 5 **iterations** a step takes up to 6 times as long. Where a step does not converge, it is plain "
                "CFG: raise **iterations** or **regularization**.",
                ["characteristic", "meter", "guided", "guided_image", "save_guided"],
            ),
            Group(
                "4  What it came to",
                "**Guidance Meter** measures the CFG scale that each picture really got, step by step; plain CFG is "
                "dashed. The correction lowers it. To judge the correction itself, compare it with plain CFG at a cfg "
                "of that mean.",
                ["curves"],
            ),
        ],
        ["save_plain", "save_guided", "curves"],
        App(
            [PROMPT, ("characteristic", "iterations", ""), ("characteristic", "regularization", ""), SEED],
            ["save_guided", "save_plain", "curves"],
        ),
    ),
}
