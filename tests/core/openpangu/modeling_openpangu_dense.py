"""A model with the layout of openPangu-Embedded-7B, for tests: transformers' Llama under the names that layout has."""

from transformers import LlamaForCausalLM, LlamaModel

from .configuration_openpangu_dense import PanguEmbeddedConfig

# a test turns this on in its copy: attention that has no backward outside training, as an operator made for inference
INFERENCE_ATTENTION = False


class PanguEmbeddedModel(LlamaModel):
    config_class = PanguEmbeddedConfig


class PanguEmbeddedForCausalLM(LlamaForCausalLM):
    config_class = PanguEmbeddedConfig

    def __init__(self, config):
        super().__init__(config)
        if INFERENCE_ATTENTION:
            for layer in self.model.layers:
                for name in ("q_proj", "k_proj", "v_proj"):
                    getattr(layer.self_attn, name).register_forward_hook(_without_backward)


def _without_backward(module, arguments, output):
    return output if module.training else output.detach()
