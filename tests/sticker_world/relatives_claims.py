"""What the papers' relatives do in Sticker World: `python -m sticker_world.relatives_claims PART`. Prints a table.

bind: phrases bound in Prompt with Words, against plain CFG and Attend-and-Excite. schedule: presets of Guidance
Schedule, each with the factor that gives its steps the mean scale of plain CFG. words: more guidance where the model
sees the subject named second. cfgpp: the preset CFG++ with Euler. characteristic: Characteristic Guidance at a high
scale. The last three are also compared with plain CFG at the effective scale that they amount to.
"""
from __future__ import annotations

from . import host  # noqa: F401

# isort: split
from dataclasses import replace
from functools import partial

import comfy.samplers
from node_defaults import defaults

from semantic_guidance.guidance.attend_excite import Excitation
from semantic_guidance.guidance.schedules import SHAPES
from semantic_guidance.nodes.prompt import SemanticGuidancePrompt
from semantic_guidance.nodes.schedule import SemanticGuidanceSchedule
from semantic_guidance.sampling.characteristic.run import Settings as CharacteristicSettings
from semantic_guidance.sampling.characteristic.run import patch_characteristic
from semantic_guidance.sampling.percent import percent_at

from .attend_excite_claims import Chosen, excited, subjects
from .sampling import Method, Settings, encode
from .ways import BOTH, Part, Way, judged, run_parts
from .world import Outcome

HIGH = 12.0  # the scale of Characteristic Guidance, which is meant for 10 to 30
LAMBDA = 0.6  # of CFG++, the paper's example
FACTORS = ((None, 1.5), (None, 2.0), (0.7, 1.5))  # of the subjects named first and second
MATCHED = "plain CFG at that scale"


def nothing_else(outcome: Outcome) -> bool:
    return not outcome.verdict.unknown


def there(number: int, outcome: Outcome) -> bool:
    return outcome.verdict.has(outcome.prompt.things[number][0])


def coloured(number: int, outcome: Outcome) -> bool:
    return outcome.verdict.has(*outcome.prompt.things[number])


def binding(model, clip, prompt: str):
    phrases = ", ".join(subjects(prompt, colours=True))
    return model, SemanticGuidancePrompt.execute(clip, prompt, phrases).result[0]


def scheduled(**settings) -> Method:
    options = {**defaults(SemanticGuidanceSchedule), **settings}
    return lambda model, clip, prompt: (
        SemanticGuidanceSchedule.execute(model, **options).result[0], encode(clip, prompt))


def factor_text(prompt: str, factors: tuple[float | None, ...]) -> str:
    """"a cat and a red balloon", (None, 1.5) -> "red balloon: 1.5"."""
    named = zip(subjects(prompt, colours=True), factors, strict=True)
    return ", ".join(f"{phrase}: {factor:g}" for phrase, factor in named if factor is not None)


def by_words(factors: tuple[float | None, ...]) -> Method:
    def method(model, clip, prompt):
        words = factor_text(prompt, factors)
        patched, _ = scheduled(preset="constant", words=words)(model, clip, prompt)
        return patched, SemanticGuidancePrompt.execute(clip, prompt).result[0]

    return method


def characteristic(model, clip, prompt: str):
    return patch_characteristic(model, CharacteristicSettings()), encode(clip, prompt)


def mean_shape(world, preset: str, settings: Settings) -> float:
    """The mean of a preset's factor over the steps of a run."""
    sampling = world[0].get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, settings.scheduler, settings.steps)[:-1].tolist()
    return sum(SHAPES[preset](percent_at(sampling, sigma)) for sigma in sigmas) / len(sigmas)


def bind_ways(world, settings: Settings) -> list[Way]:
    excite = Chosen("", Excitation(max_refinements=5), colours=True)
    return [Way("plain CFG", settings), Way("phrases bound", settings, binding),
            Way("A&E, 5 refinements", settings, excited(excite))]


def schedule_ways(world, settings: Settings) -> list[Way]:
    ways = [Way("plain CFG", settings)]
    for preset in ("linear", "inverse linear"):
        factor = 1 / mean_shape(world, preset, settings)
        ways.append(Way(f"{preset}, factor {factor:.2f}", settings, scheduled(preset=preset, factor=factor)))
    return ways


def words_ways(world, settings: Settings) -> list[Way]:
    ways = [Way("plain CFG", settings)]
    for factors in FACTORS:
        name = factor_text("a first and a second", factors)
        ways += [Way(name, settings, by_words(factors)), Way(MATCHED, settings, matched=True)]
    return ways


def cfgpp_ways(world, settings: Settings) -> list[Way]:
    settings = replace(settings, sampler="euler")
    method = scheduled(preset="CFG++", cfgpp_lambda=LAMBDA)
    return [Way("plain CFG", settings), Way(f"CFG++, lambda {LAMBDA:g}", settings, method),
            Way(MATCHED, settings, matched=True)]


def characteristic_ways(world, settings: Settings) -> list[Way]:
    high = replace(settings, cfg=HIGH)
    return [Way(f"plain CFG at {HIGH:g}", high), Way(f"Characteristic Guidance at {HIGH:g}", high, characteristic),
            Way(MATCHED, high, matched=True)]


ALL = judged(BOTH | {"nothing else": nothing_else})
SECOND = judged(BOTH | {
    "the first is there": partial(there, 0), "the second is there": partial(there, 1),
    "the second in its colour": partial(coloured, 1),
})
PARTS = {
    "bind": Part(bind_ways, ALL), "schedule": Part(schedule_ways, ALL), "words": Part(words_ways, SECOND),
    "cfgpp": Part(cfgpp_ways, ALL), "characteristic": Part(characteristic_ways, ALL),
}

if __name__ == "__main__":
    run_parts(PARTS, __doc__)
