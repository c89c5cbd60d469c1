import math

import pytest
import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from logitlake.pipeline.reading.batches import SparseTargets, make_batch
from logitlake.pipeline.training.losses import sparse_divergence, sparse_divergence_of_logits, sparse_divergence_through
from logitlake.storage.errors import MismatchError


@pytest.fixture(autouse=True)
def _one_thread_and_seed():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


def csr(positions, ghost=None):
    """SparseTargets from a list of {id: probability} or [(id, probability)]."""
    pairs = [list(p.items()) if isinstance(p, dict) else p for p in positions]
    counts = torch.tensor([len(p) for p in pairs])
    return SparseTargets(
        offsets=torch.cat([torch.zeros(1, dtype=torch.long), counts.cumsum(0)]),
        ids=torch.tensor([i for p in pairs for i, _ in p], dtype=torch.long),
        probs=torch.tensor([v for p in pairs for _, v in p], dtype=torch.float32),
        ghost=None if ghost is None else torch.tensor(ghost),
    )


def dense(targets, V):
    p = torch.zeros(targets.n_positions, V, dtype=torch.float64)
    for n in range(targets.n_positions):
        for e in range(int(targets.offsets[n]), int(targets.offsets[n + 1])):
            p[n, targets.ids[e]] += targets.probs[e].double()
    return p


def reference(logits, targets, next_ids=None, weight=0.0, T=1.0):
    """Cross-entropies of dense distributions in float64, by log_softmax, position by position."""
    x = logits.double()
    p = dense(targets, x.shape[1])
    total, count = x.sum() * 0, 0
    for n in range(len(x)):
        if targets.offsets[n] == targets.offsets[n + 1]:
            continue
        count += 1
        logq = torch.log_softmax(x[n] / T, -1)
        soft = -(p[n] * logq).sum()
        if targets.ghost is not None:
            outside = p[n] == 0
            if outside.any() and targets.ghost[n] > 0:
                soft = soft - targets.ghost[n].double() * torch.logsumexp(logq[outside], -1)
        total = total + (1 - weight) * T * T * soft
        if weight:
            total = total - weight * torch.log_softmax(x[n], -1)[next_ids[n]]
    return total / max(count, 1)


V, D, N = 37, 8, 11


@pytest.fixture
def targets():
    positions = []
    for n in range(N):
        if n % 4 == 2:
            positions.append([])
            continue
        ids = torch.randperm(V)[:5].tolist()
        p = torch.rand(5)
        p = (p / p.sum()).tolist()
        positions.append([*zip(ids, p, strict=True)])
    positions[0] = [(3, 0.5), (9, 0.25), (9, 0.25)]  # a tail id drawn twice
    return csr(positions)


@pytest.fixture
def inputs():
    hidden = torch.randn(N, D, requires_grad=True)
    weight = torch.randn(V, D, requires_grad=True)
    next_ids = torch.randint(0, V, (N,))
    return hidden, weight, next_ids


def gradients(loss, *tensors):
    return torch.autograd.grad(loss, tensors)


@pytest.mark.parametrize("chunk", [1, 3, 1000])
@pytest.mark.parametrize(("weight_ce", "T"), [(0.0, 1.0), (0.3, 1.0), (1.0, 1.0), (0.0, 2.0), (0.3, 2.0), (0.5, 0.7)])
def test_loss_and_gradients_equal_a_dense_float64_reference(inputs, targets, chunk, weight_ce, T):
    hidden, weight, next_ids = inputs
    loss = sparse_divergence(
        hidden, weight, targets, next_ids, cross_entropy_weight=weight_ce, temperature=T, chunk=chunk
    )
    expected = reference(hidden @ weight.t(), targets, next_ids, weight_ce, T)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for found, wanted in zip(gradients(loss, hidden, weight), gradients(expected, hidden, weight), strict=True):
        torch.testing.assert_close(found, wanted, rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize("T", [1.0, 2.0])
@pytest.mark.parametrize("weight_ce", [0.0, 0.4])
@pytest.mark.parametrize("with_ghost", [False, True])
def test_gradcheck(targets, T, weight_ce, with_ghost):
    if with_ghost:
        targets = csr([{1: 0.5, 4: 0.2}, {}, {7: 0.9}], ghost=[0.3, 0.0, 0.1])
    n = targets.n_positions
    hidden = torch.randn(n, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(V, 3, dtype=torch.float64, requires_grad=True)
    next_ids = torch.randint(0, V, (n,))
    assert torch.autograd.gradcheck(
        lambda h, w: sparse_divergence(h, w, targets, next_ids, cross_entropy_weight=weight_ce, temperature=T, chunk=4),
        (hidden, weight),
    )


@pytest.mark.parametrize("T", [1.0, 2.0])
def test_ghost_bucket_equals_its_formula(T):
    targets = csr([{1: 0.5, 4: 0.2}, {}, {7: 0.75, 2: 0.25}, {0: 0.01}], ghost=[0.3, 0.0, 0.0, 0.99])
    logits = torch.randn(4, V, requires_grad=True)
    loss = sparse_divergence_of_logits(logits, targets, temperature=T)
    expected = reference(logits, targets, T=T)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(*gradients(loss, logits), *gradients(expected, logits), rtol=1e-4, atol=1e-6)


def test_ghost_with_cross_entropy_keeps_the_stored_set():
    targets = csr([{1: 0.5, 4: 0.2}], ghost=[0.3])
    logits, next_ids = torch.randn(1, V, requires_grad=True), torch.tensor([20])
    loss = sparse_divergence_of_logits(logits, targets, next_ids, cross_entropy_weight=0.5)
    expected = reference(logits, targets, next_ids, 0.5)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(*gradients(loss, logits), *gradients(expected, logits), rtol=1e-4, atol=1e-6)


def test_ghost_of_a_student_with_no_mass_outside_is_finite():
    logits = torch.full((1, V), -500.0)
    logits[0, 1] = 500.0
    logits.requires_grad_()
    loss = sparse_divergence_of_logits(logits, csr([{1: 0.5}], ghost=[0.5]))
    (grad,) = gradients(loss, logits)
    assert torch.isfinite(loss)
    assert torch.isfinite(grad).all()


def test_extreme_logits_give_finite_loss_and_gradients():
    logits = torch.tensor([[1e4, -1e4, 0.0, -3e4]], requires_grad=True)
    loss = sparse_divergence_of_logits(logits, csr([{1: 0.5, 3: 0.5}]))
    (grad,) = gradients(loss, logits)
    assert loss.item() == pytest.approx(0.5 * 2e4 + 0.5 * 4e4)
    torch.testing.assert_close(grad, torch.tensor([[1.0, -0.5, 0.0, -0.5]]))


def test_logits_of_minus_infinity_outside_the_target_give_finite_gradients():
    logits = torch.randn(2, V)
    logits[:, 30:] = -torch.inf
    logits.requires_grad_()
    loss = sparse_divergence_of_logits(logits, csr([{1: 1.0}, {2: 0.5, 3: 0.5}]))
    (grad,) = gradients(loss, logits)
    assert torch.isfinite(loss)
    assert torch.isfinite(grad).all()
    assert (grad[:, 30:] == 0).all()


def test_unnormalised_targets_are_bounded_below_and_exact():
    """Σp̂ below 1: the same support for teacher and student, so the loss never runs away."""
    targets = csr([{1: 0.3, 2: 0.2}])
    logits = torch.randn(1, V, requires_grad=True)
    loss = sparse_divergence_of_logits(logits, targets)
    expected = reference(logits, targets)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(*gradients(loss, logits), *gradients(expected, logits), rtol=1e-4, atol=1e-6)


def test_divergence_of_renormalised_top_k_from_the_full_distribution_is_minus_log_of_its_mass():
    logits = torch.randn(1, V, dtype=torch.float64)
    p = logits.softmax(-1)[0]
    ids = p.topk(5).indices
    mass = p[ids].sum()
    kept = {int(i): float(p[i] / mass) for i in ids}
    entropy = -sum(v * math.log(v) for v in kept.values())
    loss = sparse_divergence_of_logits(logits, csr([kept]))
    assert loss.item() - entropy == pytest.approx(-math.log(float(mass)), abs=1e-6)


@pytest.mark.parametrize("shift", [-1, 1])
def test_a_shift_by_one_in_either_direction_changes_the_loss(make_rows, shift):
    batch = make_batch(make_rows([12, 12]))
    table = torch.nn.functional.one_hot(batch.input_ids.flatten(), 211).float() * 4
    knowing = torch.roll(table, -1, 0)  # a student that knows the next token
    right = sparse_divergence_of_logits(knowing, batch.targets)
    wrong = sparse_divergence_of_logits(torch.roll(knowing, shift, 0), batch.targets)
    assert wrong > right + 0.5


def test_positions_without_target_change_nothing(inputs, targets):
    hidden, weight, _ = inputs
    loss = sparse_divergence(hidden, weight, targets)
    (grad,) = gradients(loss, hidden)
    masked = (targets.offsets.diff() == 0).nonzero().squeeze(1)
    assert (grad[masked] == 0).all()
    other = hidden.detach().clone()
    other[masked] = torch.nan
    assert sparse_divergence(other, weight, targets).item() == pytest.approx(loss.item())


def test_no_target_at_all_gives_loss_zero_and_gradients_of_zero(inputs):
    hidden, weight, _ = inputs
    loss = sparse_divergence(hidden, weight, csr([[]] * N))
    assert loss.item() == 0
    for grad in gradients(loss, hidden, weight):
        assert (grad == 0).all()


def test_mean_is_over_targets_whatever_the_padding_and_the_micro_batches(make_rows):
    rows = make_rows([5, 17, 9, 30])
    hidden_of = torch.nn.Embedding(211, D)
    weight = torch.randn(211, D)

    def loss_of(rows, divisor=None):
        batch = make_batch(rows)
        return sparse_divergence(hidden_of(batch.input_ids).flatten(0, 1), weight, batch.targets, divisor=divisor)

    whole = loss_of(rows)
    n = sum(rows["n_targets"].to_pylist())
    parts = sum(loss_of(rows.slice(i, 1), divisor=n) for i in range(4))
    pairs = loss_of(rows.slice(0, 2), divisor=torch.tensor(n)) + loss_of(rows.slice(2, 2), divisor=torch.tensor(n))
    assert parts.item() == pytest.approx(whole.item(), rel=1e-6)
    assert pairs.item() == pytest.approx(whole.item(), rel=1e-6)
    packed = torch.cat([make_batch(rows.slice(i, 1)).input_ids.flatten() for i in range(4)])
    targets = [make_batch(rows.slice(i, 1)).targets for i in range(4)]
    counts = torch.cat([t.offsets.diff() for t in targets])
    together = SparseTargets(
        offsets=torch.cat([torch.zeros(1, dtype=torch.long), counts.cumsum(0)]),
        ids=torch.cat([t.ids for t in targets]),
        probs=torch.cat([t.probs for t in targets]),
    )
    assert sparse_divergence(hidden_of(packed), weight, together).item() == pytest.approx(whole.item(), rel=1e-6)


def test_grad_output_is_honoured_and_backward_may_run_twice(inputs, targets):
    hidden, weight, _ = inputs
    loss = sparse_divergence(hidden, weight, targets)
    once = torch.autograd.grad(loss, weight, retain_graph=True)[0]
    scaled = torch.autograd.grad(loss * 3, weight)[0]
    torch.testing.assert_close(scaled, once * 3)


def test_tied_embeddings_sum_both_uses(targets):
    embedding = torch.nn.Embedding(V, D)
    ids = torch.randint(0, V, (N,))
    sparse_divergence(embedding(ids), embedding.weight, targets).backward()
    found = embedding.weight.grad.clone()
    embedding.weight.grad = None
    reference(embedding(ids) @ embedding.weight.t(), targets).backward()
    torch.testing.assert_close(found, embedding.weight.grad, rtol=1e-4, atol=1e-6)


def test_gradients_accumulate_over_two_losses(inputs, targets):
    hidden, weight, _ = inputs
    for _ in range(2):
        sparse_divergence(hidden, weight, targets).backward()
    twice = weight.grad.clone()
    weight.grad = None
    sparse_divergence(hidden, weight, targets).backward()
    torch.testing.assert_close(twice, weight.grad * 2)


def storages(tree):
    """Shapes of the tensors in nested lists and dicts, by the address of their memory."""
    tensors = [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
    return {tensor.untyped_storage().data_ptr(): tuple(tensor.shape) for tensor in tensors}


class Computed(TorchDispatchMode):
    """Notes the shape of everything that torch computes; what shares memory with its arguments is no result."""

    def __init__(self):
        super().__init__()
        self.shapes = set()

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        given = storages((arguments, options))
        self.shapes |= {shape for address, shape in storages(result).items() if address not in given}
        return result


def test_without_gradients_none_is_computed_and_the_loss_is_the_same(inputs, targets):
    """The weight's gradient is as large as the output layer: [V, D], as nothing else that is computed."""
    hidden, weight, _ = inputs
    with Computed() as trained:
        loss = sparse_divergence(hidden, weight, targets)
    assert (V, D) in trained.shapes
    for switched_off in (torch.no_grad, torch.inference_mode):
        with switched_off(), Computed() as evaluated:
            again = sparse_divergence(hidden, weight, targets)
        assert not again.requires_grad
        assert again.item() == loss.item()
        assert (V, D) not in evaluated.shapes
        assert evaluated.shapes < trained.shapes


def test_a_frozen_output_layer_gets_no_gradient(inputs, targets):
    hidden, weight, _ = inputs
    loss = sparse_divergence(hidden, weight.detach(), targets)
    (saved_hidden, saved_weight) = loss.grad_fn.next_functions[0][0].saved_tensors
    assert saved_hidden is not None
    assert saved_weight is None


def test_bf16_autocast_keeps_float32_gradients_near_the_exact_ones(inputs, targets):
    hidden, weight, _ = inputs
    with torch.autocast("cpu", torch.bfloat16):
        loss = sparse_divergence(hidden, weight, targets)
    found = gradients(loss, hidden, weight)
    exact = reference(hidden @ weight.t(), targets)
    assert loss.item() == pytest.approx(exact.item(), rel=2e-2)
    for grad, wanted in zip(found, gradients(exact, hidden, weight), strict=True):
        assert grad.dtype == torch.float32
        assert (grad - wanted).norm() < 0.03 * wanted.norm()


def test_the_weights_gradient_is_summed_in_float32_over_chunks():
    """In bfloat16 a sum of 512 equal parts stops growing at 256 of them."""
    hidden = torch.ones(512, 1, dtype=torch.bfloat16)
    weight = torch.zeros(2, 1, dtype=torch.bfloat16, requires_grad=True)
    loss = sparse_divergence(hidden, weight, csr([{0: 1.0}] * 512), chunk=1)
    (grad,) = gradients(loss, weight)
    torch.testing.assert_close(grad, torch.tensor([[-0.5], [0.5]], dtype=torch.bfloat16))


def test_logits_that_exist_already_give_the_same_loss(inputs, targets):
    hidden, weight, next_ids = inputs
    options = {"cross_entropy_weight": 0.25, "temperature": 2.0}
    a = sparse_divergence(hidden, weight, targets, next_ids, **options)
    b = sparse_divergence_of_logits(hidden @ weight.t(), targets, next_ids, **options)
    assert a.item() == pytest.approx(b.item(), rel=1e-6)
    for x, y in zip(gradients(a, hidden, weight), gradients(b, hidden, weight), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("chunk", [2, 100])
def test_any_output_layer_gives_the_same_as_its_dense_form(inputs, targets, chunk):
    hidden, weight, _ = inputs
    bias = torch.randn(V, requires_grad=True)

    def layer(h):
        return 5 * torch.tanh((h @ weight.t() + bias) / 5)

    loss = sparse_divergence_through(hidden, layer, V, targets, chunk=chunk)
    expected = reference(layer(hidden), targets)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    wanted = gradients(expected, hidden, weight, bias)
    for found, exact in zip(gradients(loss, hidden, weight, bias), wanted, strict=True):
        torch.testing.assert_close(found, exact, rtol=1e-3, atol=1e-6)
    with torch.no_grad():
        assert sparse_divergence_through(hidden, layer, V, targets).item() == pytest.approx(loss.item(), rel=1e-6)


def test_a_student_with_a_smaller_vocabulary_than_the_targets_is_refused(inputs):
    hidden, weight, _ = inputs
    with pytest.raises(MismatchError, match=rf"expected 0 to {V - 1}.*{V + 3}"):
        sparse_divergence(hidden, weight, csr([{V + 3: 1.0}] + [[]] * (N - 1)))


def test_a_student_with_a_larger_vocabulary_pays_for_mass_on_padded_ids(inputs, targets):
    hidden, weight, _ = inputs
    padded = torch.cat([weight, torch.zeros(9, D)])
    loss = sparse_divergence(hidden, padded, targets)
    assert loss.item() == pytest.approx(reference(hidden @ padded.t(), targets).item(), rel=1e-5)
    assert loss > sparse_divergence(hidden, weight, targets)


@pytest.mark.parametrize("bad", [-1, V])
def test_next_ids_outside_the_vocabulary_are_refused(inputs, targets, bad):
    hidden, weight, next_ids = inputs
    next_ids[0] = bad
    with pytest.raises(MismatchError, match="next token ids"):
        sparse_divergence(hidden, weight, targets, next_ids, cross_entropy_weight=0.5)


def test_next_ids_are_not_looked_at_where_there_is_no_target(inputs, targets):
    hidden, weight, next_ids = inputs
    next_ids[2] = -100
    assert torch.isfinite(sparse_divergence(hidden, weight, targets, next_ids, cross_entropy_weight=0.5))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cross_entropy_weight": 0.5}, "needs next_ids_N"),
        ({"cross_entropy_weight": 1.5}, r"in \[0, 1\]"),
        ({"temperature": 0.0}, "above 0"),
    ],
)
def test_wrong_arguments_are_named(inputs, targets, options, message):
    hidden, weight, _ = inputs
    with pytest.raises(ValueError, match=message):
        sparse_divergence(hidden, weight, targets, **options)


def test_targets_of_another_number_of_positions_are_refused(inputs):
    hidden, weight, _ = inputs
    with pytest.raises(ValueError, match=r"expected 11 positions.*found 1"):
        sparse_divergence(hidden, weight, csr([{1: 1.0}]))


def test_large_half_precision_hidden_states_give_a_finite_loss():
    """Their sum is beyond float16, and infinity times zero would be NaN."""
    hidden = torch.full((8, 2048), 8.0, dtype=torch.float16, requires_grad=True)
    weight = torch.randn(5, 2048, dtype=torch.float16) / 64
    loss = sparse_divergence_through(hidden, lambda h: h @ weight.T, 5, csr([[(1, 1.0)]] * 8))
    assert torch.isfinite(loss)
    loss.backward()
    assert torch.isfinite(hidden.grad).all()


@pytest.mark.parametrize("divisor", [0.25, torch.tensor(0.25)])
def test_a_ranks_share_of_a_steps_targets_may_be_less_than_one(inputs, targets, divisor):
    hidden, weight, *_ = inputs
    whole = sparse_divergence(hidden, weight, targets, divisor=1)
    torch.testing.assert_close(sparse_divergence(hidden, weight, targets, divisor=divisor), 4 * whole)


def test_every_parameter_of_an_output_layer_has_a_gradient_without_targets():
    """Other ranks wait for it."""
    layer = torch.nn.Sequential(torch.nn.Linear(D, V), torch.nn.Tanh())
    hidden = torch.randn(3, D, requires_grad=True)
    sparse_divergence_through(hidden, layer, V, csr([[]] * 3)).backward()
    for tensor in (hidden, *layer.parameters()):
        assert torch.equal(tensor.grad, torch.zeros_like(tensor))
