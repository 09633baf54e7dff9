"""How the example workflows are laid out and what their notes say. Groups are columns, left to right."""

from __future__ import annotations

from finer_pages import FINER
from transformer_pages import TRANSFORMERS
from workflow_page import PROMPT, SD15, SDXL, SEED, WHAT_A_WORD_SEES, WHAT_IT_DID, WORDS, App, Group, Page

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
    **FINER,
    **TRANSFORMERS,
}
