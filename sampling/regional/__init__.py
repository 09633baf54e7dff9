"""Regional Prompts: texts joined along their tokens, and the share of each at every position of the picture."""
