"""What is known of the host's samplers by their names."""

from __future__ import annotations

from comfy.samplers import Sampler


def sampler_name(sampler: Sampler) -> str:
    """The name under which the host lists a sampler, such as "dpmpp_2m"; "ddim" is "euler" to the host."""
    function = getattr(sampler, "sampler_function", None)
    return getattr(function, "__name__", type(sampler).__name__).removeprefix("sample_")
