"""Small stand-ins for nodes of other packs: one of each kind that changes what our nodes meet."""

from __future__ import annotations

import comfy.samplers
import torch
from comfy_api.torch_helpers import set_torch_compile_wrapper
from host import tiny
from torch import Tensor


class AttentionCouple:
    """Regional prompts: the positive chunk's rows are doubled, one for each region, and their outputs are joined.

    As in ppm and others, index 1 is the negative prompt and any other the positive one.
    """

    def patch(self, model, other: list):
        text = other[0][0]

        def widen(q, k, v, options):
            options["rows"] = []
            queries, keys = [], []
            for index, query, key in zip(options["cond_or_uncond"], *(t.chunk(len(options["cond_or_uncond"]))
                                                                    for t in (q, k)), strict=True):
                regions = [key] if index == 1 else [key, text.to(key).expand_as(key)]
                queries += [query] * len(regions)
                keys += regions
                options["rows"].append(len(regions))
            return torch.cat(queries), torch.cat(keys), torch.cat(keys)

        def join(out, options):
            negative, positive = [], []
            for chunk, index in zip(out.chunk(sum(options["rows"])), [
                index for index, rows in zip(options["cond_or_uncond"], options["rows"], strict=True)
                for _ in range(rows)
            ], strict=True):
                (negative if index == 1 else positive).append(chunk)
            return torch.cat([*negative, *([torch.stack(positive).mean(0)] if positive else [])])

        model = model.clone()
        model.set_model_attn2_patch(widen)
        model.set_model_attn2_output_patch(join)
        return model


def in_tiles(model):
    """A clone that another node calls for each half of the picture."""
    def tiled(apply_model, args):
        halves = args["input"].chunk(2, dim=-1)
        return torch.cat([apply_model(half, args["timestep"], **args["c"]) for half in halves], dim=-1)

    model = model.clone()
    model.set_model_unet_function_wrapper(tiled)
    return model


def compiled(model, **options):
    """A clone compiled by the host, one block for speed, and the graphs that were traced."""
    graphs = []

    def backend(graph, inputs, **_):  # PyTorch 2.7 passes the options of the compilation on
        graphs.append(graph)
        return graph

    model = model.clone()
    block = "diffusion_model.output_blocks.3.1.transformer_blocks.0"
    set_torch_compile_wrapper(model, backend=backend, keys=[block], **options)
    return model, graphs


def compiled_without_guards(model):
    """As the host's TorchCompileModel does it, which drops the guards on transformer_options."""
    guards = {"guard_filter_fn": lambda guards: ["transformer_options" not in guard.name for guard in guards]}
    return compiled(model, options=guards)


class ImageAdapter:
    """Tokens of an image beside the text: others for the positive prompt than for the negative one (IPAdapter)."""

    def patch(self, model):
        def attention(q, k, v, options):
            extra = torch.cat([(0.5, 2.0)[index] * torch.ones_like(k[:1]) for index in options["cond_or_uncond"]])
            heads = options["n_heads"]
            q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v + extra.repeat_interleave(
                len(v) // len(extra), dim=0)))
            return torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

        model = model.clone()
        model.set_model_attn2_replace(attention, "output", 4)
        return model


class MixedPrompts:
    """Normalised attention guidance: what the positive prompt attends to is moved away from the negative's, in both."""

    def patch(self, model):
        def mix(out, options):
            if sorted(options["cond_or_uncond"][:2]) != [0, 1]:
                return out
            negative, positive, *others = out.chunk(len(options["cond_or_uncond"]))
            mixed = 2 * positive - negative
            return torch.cat([mixed, mixed, *others])

        model = model.clone()
        model.set_model_attn1_output_patch(mix)
        return model


class ReferenceOnly:
    """Counts on rows in groups: the reference's, and then the picture's that attends to it."""

    def patch(self, model):
        def attend_to_reference(q, k, v, options):
            k = k.repeat(1, 2, 1)
            for reference in range(0, len(q), 2):
                k[reference + 1, q.shape[1]:] = q[reference]
            return q, k, k

        model = model.clone()
        model.set_model_attn1_patch(attend_to_reference)
        return model


def counting_two_prompts(model):
    """A model whose attention was replaced from outside of the graph, by something that knows one or two prompts."""
    original = model.model.apply_model

    def apply_model(x, *args, **kwargs):
        assert len(x) <= 2, f"shape '[{len(x)}, -1, 4, 32]' is invalid"
        return original(x, *args, **kwargs)

    return apply_model


class OwnGuidance:
    """Perturbed-attention guidance that makes a prediction of its own of the two and forgets the one it is given."""

    def patch(self, model):
        model = model.clone()
        model.set_model_sampler_post_cfg_function(lambda args: args["uncond_denoised"] + 2 * (
            args["cond_denoised"] - args["uncond_denoised"]))
        return model


class OnlyOwnGuidance(OwnGuidance):
    """The same, but it also throws out the functions of others."""

    def patch(self, model):
        model = super().patch(model)
        del model.model_options["sampler_post_cfg_function"][:-1]
        return model


class Rescaled:
    """Something small that is made of the prediction it is given."""

    def patch(self, model):
        model = model.clone()
        model.set_model_sampler_post_cfg_function(lambda args: args["denoised"] * 0.99)
        return model


class Limited:
    """Leaves guidance out where the noise is strongest."""

    def patch(self, model):
        model = model.clone()
        model.set_model_sampler_post_cfg_function(
            lambda args: args["cond_denoised"] if args["sigma"][0] > 10 else args["denoised"] * 1.0
        )
        return model


class LimitedGuider(comfy.samplers.CFGGuider):
    """Guides in a part of the schedule alone; cfg is 1 elsewhere."""

    def predict_noise(self, x, timestep, model_options, seed):
        cfg = self.cfg if timestep[0] < 10 else 1.0
        return comfy.samplers.sampling_function(
            self.inner_model, x, timestep, self.conds["negative"], self.conds["positive"], cfg, model_options, seed
        )


class CentredGuider(comfy.samplers.CFGGuider):
    """Evaluates both prompts itself, in its own order, and changes the predictions in place."""

    def predict_noise(self, x, timestep, model_options, seed):
        conds = [self.conds["negative"], self.conds["positive"]]
        uncond, cond = comfy.samplers.calc_cond_batch(self.inner_model, conds, x, timestep, model_options)
        mean = uncond.mean(dim=(1, 2, 3), keepdim=True)
        uncond -= mean
        cond -= mean
        return mean + comfy.samplers.cfg_function(
            self.inner_model, cond, uncond, self.cfg, x, timestep, model_options, *conds[::-1]
        )


class ImageAssistedGuider(CentredGuider):
    """Moves away from a picture; from an empty one it divides 0 by 0."""

    def predict_noise(self, x, timestep, model_options, seed):
        away = torch.zeros_like(x)
        return super().predict_noise(x, timestep, model_options, seed) + away / away.norm()


class UnheardGuider(comfy.samplers.CFGGuider):
    """Puts the two predictions together without the functions of other nodes."""

    def predict_noise(self, x, timestep, model_options, seed):
        conds = [self.conds["positive"], self.conds["negative"]]
        cond, uncond = comfy.samplers.calc_cond_batch(self.inner_model, conds, x, timestep, model_options)
        return uncond + self.cfg * (cond - uncond)


class MorePromptsGuider(comfy.samplers.CFGGuider):
    """Brings a prompt of its own when sampling starts."""

    def inner_sample(self, *args, **kwargs):
        self.conds["own"] = comfy.sampler_helpers.convert_cond(tiny.prompt(9))
        return super().inner_sample(*args, **kwargs)


def sampled(guider: type, model, cfg: float = 4.0, steps: int = 2, size=(8, 16), sampler=None) -> Tensor:
    """Some steps with a guider of this kind."""
    guider = guider(model)
    guider.set_conds(tiny.prompt(0), tiny.prompt(1))
    guider.set_cfg(cfg)
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", 10)[: steps + 1]
    noise = torch.randn(1, 4, *size, generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        return guider.sample(noise, tiny.latent(1, *size), sampler or comfy.samplers.sampler_object("euler"), sigmas,
                             seed=5)
