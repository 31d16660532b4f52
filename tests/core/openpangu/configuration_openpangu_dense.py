"""The config of a checkpoint laid out like openPangu-Embedded-7B, for tests: a Llama's, with one word of its own."""

from transformers import LlamaConfig


class PanguEmbeddedConfig(LlamaConfig):
    """``bias`` puts biases on the four attention projections and on no other layer."""

    model_type = "PanguEmbedded"

    def __init__(self, bias=True, **others):
        super().__init__(**{**others, "attention_bias": bias, "mlp_bias": False})
        self.bias = bias
