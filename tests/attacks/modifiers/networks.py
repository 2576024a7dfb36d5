"""Small vision transformers of two makes, and what the tests of modifiers share."""

import copy
from collections.abc import Callable
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from tests.support.attacks import as_is
from transforms.attacks.modifiers.modified import Modified
from transforms.attacks.modifiers.modifier import Modifier

SIDE = 16


def modified(network: nn.Module, *modifiers: Modifier, side: int = SIDE) -> Modified:
    return Modified(as_is(network, side), {f"modifier {n}": each for n, each in enumerate(modifiers)})


def slope(network: Callable[[Tensor], Tensor], pictures: Tensor, weights: Tensor | None = None) -> Tensor:
    """The gradient of a weighted sum of logits with respect to the pictures."""
    pictures = pictures.clone().requires_grad_()
    logits = network(pictures)
    weights = torch.linspace(-1, 2, logits.shape[1], dtype=logits.dtype) if weights is None else weights
    (gradient,) = torch.autograd.grad((logits * weights).sum(), pictures)
    return gradient


def pictures(count: int = 2, side: int = SIDE, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def random_weights(network: nn.Module, seed: int = 0) -> nn.Module:
    """Weights with which nothing is constant, and batch norms that are no identity."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        spread = (parameter[0].numel() if parameter.dim() > 1 else 16) ** -0.5
        parameter.data = torch.randn(parameter.shape, generator=generator) * spread + (parameter.dim() == 1) * 0.5
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = torch.randn(module.num_features, generator=generator) * 0.1
            module.running_var = torch.rand(module.num_features, generator=generator) + 0.5
    return network.eval().requires_grad_(False)


def vit(name: str = "vit_tiny_patch16_224", depth: int = 2) -> nn.Module:
    """timm's, of 5 tokens (6 where there is one of distillation), two heads and 12 channels."""
    sizes: dict[str, Any] = {"img_size": SIDE, "patch_size": SIDE // 2, "embed_dim": 12, "num_heads": 2}
    return random_weights(timm.create_model(name, depth=depth, num_classes=7, **sizes))


def torchvision_vit(like: nn.Module) -> nn.Module:
    """torchvision's, with the weights of timm's."""
    theirs: Any = like
    network = VisionTransformer(SIDE, SIDE // 2, len(theirs.blocks), 2, 12, 48, num_classes=7)
    state = {
        "class_token": theirs.cls_token,
        "conv_proj.weight": theirs.patch_embed.proj.weight,
        "conv_proj.bias": theirs.patch_embed.proj.bias,
        "encoder.pos_embedding": theirs.pos_embed,
        "encoder.ln.weight": theirs.norm.weight,
        "encoder.ln.bias": theirs.norm.bias,
        "heads.head.weight": theirs.head.weight,
        "heads.head.bias": theirs.head.bias,
    }
    for number, block in enumerate(theirs.blocks):
        layer = f"encoder.layers.encoder_layer_{number}"
        state |= {
            f"{layer}.ln_1.weight": block.norm1.weight,
            f"{layer}.ln_1.bias": block.norm1.bias,
            f"{layer}.self_attention.in_proj_weight": block.attn.qkv.weight,
            f"{layer}.self_attention.in_proj_bias": block.attn.qkv.bias,
            f"{layer}.self_attention.out_proj.weight": block.attn.proj.weight,
            f"{layer}.self_attention.out_proj.bias": block.attn.proj.bias,
            f"{layer}.ln_2.weight": block.norm2.weight,
            f"{layer}.ln_2.bias": block.norm2.bias,
            f"{layer}.mlp.0.weight": block.mlp.fc1.weight,
            f"{layer}.mlp.0.bias": block.mlp.fc1.bias,
            f"{layer}.mlp.3.weight": block.mlp.fc2.weight,
            f"{layer}.mlp.3.bias": block.mlp.fc2.bias,
        }
    network.load_state_dict(state)
    return network.eval().requires_grad_(False)


Back = Callable[[Tensor], Tensor]
"""From a gradient to what flows back instead."""


def hooked(network: nn.Module, attention: Back, qkv: Back, mlp: Back) -> nn.Module:
    """A copy of timm's, whose own modules change gradients by hooks, as the authors' codes do."""
    network = copy.deepcopy(network)

    def on(module: nn.Module, change: Back) -> None:
        module.register_forward_hook(lambda _, __, answer: answer.register_hook(change) and None)

    for block in network.blocks:  # type: ignore[union-attr]
        block.attn.fused_attn = False
        on(block.attn.attn_drop, attention)
        on(block.attn.qkv, qkv)
        on(block.mlp, mlp)
    return network
