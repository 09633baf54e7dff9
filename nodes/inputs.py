"""What the widgets of several nodes share."""

MAP_SCALES = {"auto": None, "1/2": 2, "1/4": 4, "1/8": 8}

ONE_GRID = "Only Stable Diffusion 1 and 2 and SDXL have several grids; for other models use 'auto'."

MAP_SCALE_TOOLTIP = (
    "The finest attention grid used, as a share of the latent's size; the next coarser one is used as well. 'auto' is "
    f"the paper's 1/4 and 1/8, or the coarsest that the model has. {ONE_GRID}"
)

COMPLETION_TOOLTIP = (
    "How token maps are spread over whole objects with the help of self-attention. 'as released' is what the authors' "
    "code computes, 'power series' what the paper writes, 'none' leaves the maps as they are."
)

LATENT_TOOLTIP = (
    "The latent that the sampler returned. It makes this node wait for the sampler, and tells which of its runs to "
    "show."
)
