"""How the example workflows are laid out and what their notes say. Groups are columns, left to right."""

from __future__ import annotations

from transformer_pages import TRANSFORMERS
from workflow_page import PROMPT, SEED, WHAT_A_WORD_SEES, WHAT_IT_DID, WORDS, App, Group, Page

SD15 = [{
    "name": "v1-5-pruned-emaonly-fp16.safetensors",
    "url": "https://huggingface.co/Comfy-Org/stable-diffusion-v1-5-archive/resolve/main/v1-5-pruned-emaonly-fp16.safetensors",
    "directory": "checkpoints",
}]
SDXL = [{
    "name": "sd_xl_base_1.0.safetensors",
    "url": "https://huggingface.co/stabilityai/stable-diffusion-xl-base-1.0/resolve/main/sd_xl_base_1.0.safetensors",
    "directory": "checkpoints",
}]


SCFG_GROUPS = [
    Group(
        "1  Model and prompts",
        "**S-CFG** gives every region of the picture its own CFG scale.\n\nChoose a checkpoint and write a prompt. "
        "*Prompt with Words* encodes it like CLIP Text Encode and remembers which tokens each word became, so that the "
        "regions can be named.",
        ["loader", "positive", "negative", "latent", "seed"],
    ),
    Group(
        "2  Guidance",
        "**strength** 1 is the paper, 0 is plain CFG. **rate_min** and **rate_max** bound how much a region's scale "
        "may differ from cfg. Both samplers have the same seed, so that you see what S-CFG changes.",
        ["scfg", "guided", "plain"],
    ),
    Group("3  Pictures", "", ["guided_image", "plain_image", "save_guided", "save_plain"]),
    WHAT_IT_DID,
    WHAT_A_WORD_SEES,
]

ATTEND_EXCITE_GROUPS = [
    Group(
        "1  Model and prompt",
        "**Attend-and-Excite** keeps subjects from being left out. Name two things that your model likes to "
        "merge or to forget.",
        ["loader", "positive", "negative", "latent", "seed"],
    ),
    Group("2  Without", "The same seed, sampled as usual.", ["plain", "plain_image", "save_plain"]),
    Group(
        "3  With Attend-and-Excite",
        "**words** are the subjects that must be there, separated by commas, as they stand in the prompt. In "
        "the first half of the steps the latent is moved until the model attends to each of them.",
        ["excite", "excited", "excited_image", "save_excited"],
    ),
    Group(
        "4  What it did",
        "The curves show how strongly the model attends to each word, step by step; the maps show where. "
        "Dashes are what the refinements aim at.",
        ["curves"],
    ),
]

SEGA_GROUPS = [
    Group(
        "1  Model and prompt",
        "**SEGA** changes a picture in one respect and keeps the seed. Start from a prompt whose picture you "
        "like.",
        ["loader", "positive", "negative", "latent", "seed"],
    ),
    Group("2  Without", "The same seed, sampled as usual.", ["plain", "plain_image", "save_plain"]),
    Group(
        "3  The edit",
        "Write the concept alone, in a few words. **edit_guidance_scale** says how strongly it acts, "
        "**threshold** how little of the picture takes part, **warmup** when it begins. Connect a second "
        "SEGA Concept through **previous** for a second edit.",
        ["words", "concept", "sega"],
    ),
    Group("4  With", "", ["edited", "edited_image", "save_edited"]),
]

SCFG_APP = App(
    [PROMPT, WORDS, ("scfg", "strength", ""), SEED], ["save_guided", "save_plain", "save_regions", "save_words"]
)
ATTEND_EXCITE_APP = App([PROMPT, ("excite", "words", ""), SEED], ["save_excited", "save_plain", "curves"])
SEGA_APP = App(
    [PROMPT, ("words", "text", "change"), ("concept", "direction", ""), ("concept", "edit_guidance_scale", ""), SEED],
    ["save_edited", "save_plain"],
)
SEEN_GROUPS = [
    Group(
        "1  A picture",
        "Any latent will do: a sampled one as here, or a photograph through VAE Encode.",
        ["loader", "positive", "negative", "latent"],
    ),
    Group("2  Sampling", "", ["sampler", "image", "save_image"]),
    Group(
        "3  Where the model sees the words",
        "Write words or phrases of the prompt, separated by commas. **noise_level** is how much noise the "
        "latent gets before the model looks at it: more noise shows where the model plans things, less noise "
        "where it finds them.",
        ["words", "save_words"],
    ),
    Group(
        "4  As masks",
        "One mask per word, in the order of the words. Connect them to any node that takes a MASK.",
        ["mask_image", "save_masks"],
    ),
]
SEEN_APP = App(
    [PROMPT, WORDS, ("words", "noise_level", ""), ("sampler", "seed", "")], ["save_words", "save_image", "save_masks"]
)

SWEEP = {"0": "0", "2.5": "2_5", "5": "5", "10": "10", "20": "20"}  # edit_guidance_scale: the end of its nodes' names

PAGES = {
    "scfg_text_to_image": Page(
        "S-CFG text to image (SD 1.5)", SD15, SCFG_GROUPS, ["save_guided", "save_regions"], SCFG_APP
    ),
    "scfg_text_to_image_sdxl": Page(
        "S-CFG text to image (SDXL)", SDXL, SCFG_GROUPS, ["save_guided", "save_rates"], SCFG_APP
    ),
    "see_what_a_word_sees": Page("See what a word sees", SD15, SEEN_GROUPS, ["save_image", "save_words"], SEEN_APP),
    "see_what_a_word_sees_sdxl": Page(
        "See what a word sees (SDXL)", SDXL, SEEN_GROUPS, ["save_image", "save_words"], SEEN_APP
    ),
    "inpaint_by_a_word": Page(
        "Inpaint by a word",
        SD15,
        [
            Group(
                "1  A picture",
                "The picture to change. Replace the sampler by Load Image and VAE Encode to change a photograph; the "
                "prompt then says what is in it.",
                ["loader", "positive", "negative", "latent"],
            ),
            Group("2  Before", "", ["sampler", "image", "save_image"]),
            Group(
                "3  Mask by a word",
                "The mask is where the model sees the word. Grow it a little, so that the old outline goes too.",
                ["words", "grow", "save_words"],
            ),
            Group(
                "4  Paint something else",
                "Only the masked part is sampled again, with the new prompt.",
                ["new_prompt", "masked", "inpaint"],
            ),
            Group("5  After", "", ["inpainted", "save_inpainted"]),
        ],
        ["save_image", "save_inpainted"],
        App(
            [PROMPT, WORDS, ("new_prompt", "text", "new prompt"), ("grow", "expand", ""), ("sampler", "seed", "")],
            ["save_inpainted", "save_image", "save_words"],
        ),
    ),
    "attend_excite": Page(
        "Attend-and-Excite (SD 1.5)", SD15, ATTEND_EXCITE_GROUPS, ["save_plain", "save_excited"], ATTEND_EXCITE_APP
    ),
    "attend_excite_sdxl": Page(
        "Attend-and-Excite (SDXL)", SDXL, ATTEND_EXCITE_GROUPS, ["save_plain", "save_excited"], ATTEND_EXCITE_APP
    ),
    "sega_edit": Page(
        "SEGA concept editing (SD 1.5)", SD15, SEGA_GROUPS, ["save_plain", "save_edited"], SEGA_APP
    ),
    "sega_edit_sdxl": Page(
        "SEGA concept editing (SDXL)", SDXL, SEGA_GROUPS, ["save_plain", "save_edited"], SEGA_APP
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
    "all_together": Page(
        "All together (SD 1.5)",
        SD15,
        [
            Group(
                "1  Model and prompt",
                "**Attend-and-Excite**, **SEGA** and **S-CFG** on one model. Each of them takes a model and gives a "
                "model; put them one after the other, in any order.",
                ["loader", "positive", "negative", "latent"],
            ),
            Group("2  Without", "The same seed, sampled as usual.", ["plain", "plain_image", "save_plain"]),
            Group(
                "3  Keep the subjects, add a concept",
                "Attend-and-Excite sees to it that both **words** are drawn, early, while the layout is decided. The "
                "edit begins after its **warmup**, when the subjects have their places.",
                ["excite", "concept_words", "concept"],
            ),
            Group(
                "4  Guide every region",
                "S-CFG sets how strongly each region is guided; the edit is added to that.\n\nAt 0, "
                "**edit_guidance_scale** leaves out the edit and **strength** leaves out S-CFG.",
                ["sega", "scfg", "together"],
            ),
            Group("5  With", "", ["together_image", "save_together"]),
            Group(
                "6  What they did",
                "The attention to each word while the latent was moved, and the regions of the last step.",
                ["curves", "regions"],
            ),
        ],
        ["save_plain", "save_together"],
    ),
    "prompt_a_region_by_a_word": Page(
        "Prompt a region by a word",
        SD15,
        [
            Group(
                "1  A picture",
                "A prompt and a seed whose layout you like.",
                ["loader", "positive", "negative", "latent", "seed"],
            ),
            Group("2  Before", "", ["sampler", "image", "save_image"]),
            Group(
                "3  The region of a word",
                "The mask is where the model sees the word in that picture. Grow it if the new thing needs more room.",
                ["words", "grow", "elsewhere"],
            ),
            Group(
                "4  A prompt for it",
                "The region gets a prompt of its own, the rest keeps the first one.",
                ["region_prompt", "region", "rest", "both"],
            ),
            Group(
                "5  After",
                "The whole picture is sampled anew from the same noise, so that the two parts fit together; what is "
                "outside may change a little.",
                ["again", "again_image", "save_again"],
            ),
        ],
        ["save_image", "save_again"],
        App(
            [PROMPT, WORDS, ("region_prompt", "text", "prompt of the region"), ("grow", "expand", ""), SEED],
            ["save_again", "save_image"],
        ),
    ),
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
    "sega_scale_sweep": Page(
        "SEGA scale sweep (SD 1.5)",
        SD15,
        [
            Group(
                "1  Model and prompts",
                "The same seed and the same edit at growing **edit_guidance_scale**, side by side, to find the scale "
                "that your edit needs. The first picture, at 0, is the one without the edit.",
                ["loader", "positive", "negative", "latent", "words"],
            ),
            *(
                Group(
                    f"{number}  Scale {scale}", "",
                    [f"{kind}_{name}" for kind in ("concept", "sega", "sampled", "image")],
                )
                for number, (scale, name) in enumerate(SWEEP.items(), start=2)
            ),
            Group(
                "7  Side by side",
                f"From left to right: {', '.join(SWEEP)}.",
                [*(f"row_{name}" for name in list(SWEEP.values())[1:]), "save_sweep"],
            ),
        ],
        ["save_sweep"],
    ),
    **TRANSFORMERS,
}
