"""The reference loss over full distributions is autograd's own."""

import torch

from benchmarks.dense import full_divergence


def test_loss_and_gradients_of_full_distributions_are_those_of_autograd() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, weight, teacher = (torch.randn(shape, generator=generator) for shape in ((600, 8), (50, 8), (600, 50)))
    found = []
    for own in (True, False):
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        if own:
            loss = full_divergence(h, w, lambda begin, end: teacher[begin:end], divisor=600)
        else:
            loss = -(teacher.softmax(-1) * (h @ w.t()).log_softmax(-1)).sum(-1).mean()
        (loss * 3).backward()
        found.append((loss.detach(), h.grad, w.grad))
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)
