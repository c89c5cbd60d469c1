"""The student of the benchmark of quality: small enough that two dozen trainings are hours on two cores.

A Llama of 4 layers and width 128, tied to one embedding that starts as the teacher's output layer in its first 128
principal components: fresh weights alone would spend the whole budget on finding out which ids are alike.

Shapes: V ids, D the teacher's width, W the student's.
"""

import torch
from transformers import LlamaConfig, LlamaForCausalLM, set_seed

WIDTH = 128
_LAYERS = 4


def narrow_student(
    teacher_VD: torch.Tensor, *, seed: int, width: int = WIDTH, layers: int = _LAYERS
) -> LlamaForCausalLM:
    """A student that has learned nothing yet but which ids are alike; float32, everything fresh drawn from `seed`."""
    set_seed(seed)
    config = LlamaConfig(
        vocab_size=len(teacher_VD),
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        tie_word_embeddings=True,
    )
    student = LlamaForCausalLM(config)
    components_VW = principal_components(teacher_VD.float(), width)
    with torch.no_grad():
        rms = components_VW.square().mean().sqrt()
        student.get_input_embeddings().weight.copy_(components_VW * (config.initializer_range / rms))
    return student


def principal_components(matrix_VD: torch.Tensor, width: int) -> torch.Tensor:
    """The rows in the directions of largest variance, largest first, [V, width]; the mean row is taken off."""
    centred_VD = matrix_VD - matrix_VD.mean(0)
    _, directions_DD = torch.linalg.eigh(centred_VD.t() @ centred_VD)
    return centred_VD @ directions_DD.flip(1)[:, :width]
