"""The pages of the workflows for models that come in three files."""

from __future__ import annotations

from workflow_page import PROMPT, SEED, WHAT_A_WORD_SEES, WHAT_IT_DID, WORDS, App, Group, Page

HUGGING_FACE = "https://huggingface.co/{}/resolve/main/{}{}/{}"


def files(*places: tuple[str, str, str], within: str = "split_files/") -> list[dict[str, str]]:
    """Of (repository, folder, name) each. The host's own templates name the same files."""
    return [
        {"name": name, "url": HUGGING_FACE.format(repository, within, folder, name), "directory": folder}
        for repository, folder, name in places
    ]


ANIMA = files(
    ("circlestone-labs/Anima", "diffusion_models", "anima-base-v1.0.safetensors"),
    ("circlestone-labs/Anima", "text_encoders", "qwen_3_06b_base.safetensors"),
    ("circlestone-labs/Anima", "vae", "qwen_image_vae.safetensors"),
)
Z_IMAGE = files(
    ("Comfy-Org/z_image", "diffusion_models", "z_image_bf16.safetensors"),
    ("Comfy-Org/z_image_turbo", "text_encoders", "qwen_3_4b.safetensors"),
    ("Comfy-Org/z_image_turbo", "vae", "ae.safetensors"),
)
Z_IMAGE_TURBO = files(
    ("Comfy-Org/z_image_turbo", "diffusion_models", "z_image_turbo_bf16.safetensors"),
    ("Comfy-Org/z_image_turbo", "text_encoders", "qwen_3_4b.safetensors"),
    ("Comfy-Org/z_image_turbo", "vae", "ae.safetensors"),
)
QWEN_IMAGE = files(
    ("Comfy-Org/Qwen-Image_ComfyUI", "diffusion_models", "qwen_image_fp8_e4m3fn.safetensors"),
    ("Comfy-Org/Qwen-Image_ComfyUI", "text_encoders", "qwen_2.5_vl_7b_fp8_scaled.safetensors"),
    ("Comfy-Org/Qwen-Image_ComfyUI", "vae", "qwen_image_vae.safetensors"),
)
KLEIN = files(
    ("Comfy-Org/flux2-klein", "diffusion_models", "flux-2-klein-base-4b.safetensors"),
    ("Comfy-Org/flux2-klein", "text_encoders", "qwen_3_4b.safetensors"),
    ("Comfy-Org/flux2-dev", "vae", "flux2-vae.safetensors"),
)
KREA_2 = files(
    ("Comfy-Org/Krea-2", "diffusion_models", "krea2_turbo_fp8_scaled.safetensors"),
    ("Comfy-Org/Krea-2", "text_encoders", "qwen3vl_4b_fp8_scaled.safetensors"),
    ("Comfy-Org/Krea-2", "vae", "qwen_image_vae.safetensors"),
    within="",
)
WAN = files(
    ("Comfy-Org/Wan_2.1_ComfyUI_repackaged", "diffusion_models", "wan2.1_t2v_1.3B_fp16.safetensors"),
    ("Comfy-Org/Wan_2.1_ComfyUI_repackaged", "text_encoders", "umt5_xxl_fp8_e4m3fn_scaled.safetensors"),
    ("Comfy-Org/Wan_2.1_ComfyUI_repackaged", "vae", "wan_2.1_vae.safetensors"),
)

UNSEEN = "Tested with a tiny stand-in of this model; what it draws with the real one we have not seen."
EDIT = ["concept_words", "concept", "sega"]
CHANGES = (
    "**SEGA** changes one thing, here to {}, and **S-CFG** gives every region its own scale. At 0, "
    "**edit_guidance_scale** leaves out the edit and **strength** leaves out S-CFG. This model has no start token by "
    "which to tell a foreground, so **reference** is the whole image."
)
APP = [
    PROMPT, WORDS, ("concept_words", "text", "change"), ("concept", "edit_guidance_scale", ""),
    ("scfg", "strength", ""),
]  # fmt: skip


def start(model: str, nodes: list[str]) -> Group:
    return Group(
        "1  Model and prompts",
        f"The files and settings are those of ComfyUI's own {model} template. *Prompt with Words* encodes like CLIP "
        f"Text Encode and remembers which tokens each word became.\n\n{UNSEEN}",
        ["unet", "clip", "vae", *nodes, "positive", "negative", "latent"],
    )


def guided(model: str, models: list[dict[str, str]], first: list[str], guiding: list[str], seed, note: str) -> Page:
    """A word mask, and what guides this model: SEGA and S-CFG beside plain CFG, with the regions."""
    return Page(
        f"Word Mask, SEGA and S-CFG ({model})",
        models,
        [
            start(model, first),
            Group("2  Guidance", f"{CHANGES.format('a red balloon')}\n\n{note}", [*EDIT, "scfg", *guiding]),
            Group("3  Pictures", "", ["guided_image", "plain_image", "save_guided", "save_plain"]),
            WHAT_IT_DID,
            WHAT_A_WORD_SEES,
        ],
        [],
        App([*APP, seed], ["save_guided", "save_plain", "save_regions", "save_words"]),
    )


def one_seed(model: str, models: list[dict[str, str]], first: list[str]) -> Page:
    return guided(model, models, [*first, "seed"], ["guided", "plain"], SEED, "Both samplers have the same seed.")


TRANSFORMERS = {
    "anima": one_seed("Anima", ANIMA, []),
    "z_image": one_seed("Z-Image", Z_IMAGE, ["shift"]),
    "two_subjects": Page(
        "Two subjects, cfg 1 (Z-Image Turbo)",
        Z_IMAGE_TURBO,
        [
            start("Z-Image Turbo", ["shift", "seed"]),
            Group(
                "2  Without",
                "The same seed, sampled as usual. At cfg 1 there is no guidance to change.\n\nThe pictures in the "
                "list of templates are of Sticker World, the small model that this project tests with.",
                ["plain", "plain_image", "save_plain"],
            ),
            Group(
                "3  With Keep Apart",
                "**words** are the subjects as they stand in the prompt, each with its colour, separated by commas. "
                "Where the model sees one of them, the words of the others are taken away. **emphasis** makes all of "
                "them count more.",
                ["apart", "guided", "guided_image", "save_guided"],
            ),
            Group("4  Whose each place was", "At the chosen **step**; -1 is the last, 0 shows all.", ["preview"]),
            Group(
                "5  Attention to each subject",
                "The curves show how strongly the model attends to each subject, step by step; the maps show where.",
                ["curves"],
            ),
        ],
        ["save_plain", "save_guided"],
        App(
            [PROMPT, ("apart", "words", "subjects"), ("apart", "strength", ""), ("apart", "emphasis", ""), SEED],
            ["save_guided", "save_plain", "preview", "curves"],
        ),
    ),
    "qwen_image": one_seed("Qwen-Image", QWEN_IMAGE, ["shift"]),
    "flux2_klein": guided(
        "Flux.2 Klein", KLEIN, [],
        ["noise", "sampler", "sigmas", "guider", "guided", "plain_guider", "plain"], ("noise", "noise_seed", "seed"),
        "Both guiders share noise, sampler and schedule. Use a *base* model with a cfg above 1, as here: the distilled "
        "ones run at cfg 1, where there is no guidance to divide.",
    ),
    "krea2": Page(
        "Word Mask and inpainting (Krea 2)",
        KREA_2,
        [
            start("Krea 2 Turbo", []),
            Group(
                "2  Before",
                "This model is distilled to cfg 1: it has no guidance for S-CFG to divide, and SEGA's scales were made "
                "for more. Where it sees a word can be seen all the same.",
                ["sampler", "image", "save_image"],
            ),
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
        [],
        App(
            [PROMPT, WORDS, ("new_prompt", "text", "new prompt"), ("grow", "expand", ""), ("sampler", "seed", "")],
            ["save_inpainted", "save_image", "save_words"],
        ),
    ),
    "wan": Page(
        "Word Mask, SEGA and S-CFG (Wan 2.1 video)",
        WAN,
        [
            start("Wan 2.1", ["shift"]),
            Group(
                "2  Guidance",
                f"{CHANGES.format('falling snow')} A region is a tube: one word keeps its scale through the clip; "
                "four frames of the video share one frame of the latent, and with it their regions.",
                [*EDIT, "scfg", "guided"],
            ),
            Group("3  Video", "", ["guided_image", "video", "save_video"]),
            Group("4  What it did", "The regions in every frame of the latent.", ["regions", "save_regions"]),
            Group(
                "5  What a word sees",
                "One more forward pass shows where the model sees each word: a mask and a heat map for each frame.",
                ["words", "save_words"],
            ),
        ],
        [],
        App([*APP, ("guided", "seed", "")], ["save_video", "save_regions", "save_words"]),
    ),
}
