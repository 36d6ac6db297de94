"""The fused head against autograd on full logits: values, gradients, masks, exact ends, literal numbers."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from plumbline.train.objective.terms import CHUNK_ROWS, head_terms
from plumbline.train.objective.top_tokens import TopTokens
from plumbline.train.objective.weights import LossWeights

pytestmark = pytest.mark.slow


def reference(rows, weight, targets, weights, teacher_rows=None, teacher_weight=None, rounded=None):
    """The same objective by the definition, through autograd, with every logit held at once.

    rounded: the precision that logits have, without an effect on how gradients are computed.
    """
    as_held = lambda logits: logits + (logits.to(rounded or logits.dtype).to(logits.dtype) - logits).detach()  # noqa: E731
    logits = as_held(rows @ weight.t())
    ce = F.cross_entropy(logits, targets, reduction="sum")
    if teacher_rows is None:
        return weights.sft_alpha * ce, ce, torch.zeros(())
    log_p = (logits / weights.kd_temperature).log_softmax(-1)
    log_q = (as_held(teacher_rows @ teacher_weight.t()) / weights.kd_temperature).log_softmax(-1)
    p, q, beta = log_p.exp(), log_q.exp(), weights.beta
    if beta == 0:
        kd = (q * (log_q - log_p)).sum()
    elif beta == 1:
        kd = (p * (log_p - log_q)).sum()
    else:
        log_m = torch.logaddexp(log_p + math.log(1 - beta), log_q + math.log(beta))
        kd = beta * (q * (log_q - log_m)).sum() + (1 - beta) * (p * (log_p - log_m)).sum()
    return weights.sft_alpha * ce + weights.llm_kd_weight * kd, ce, kd


def problem(n=70, hidden=12, vocab=50, dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)
    rand = lambda *shape: torch.randn(*shape, generator=g, dtype=dtype)  # noqa: E731
    return rand(n, hidden), rand(vocab, hidden), torch.randint(0, vocab, (n,), generator=g), rand(n, 7), rand(vocab, 7)


@pytest.mark.parametrize("beta", [0.0, 1e-3, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("temperature", [0.7, 1.0, 2.0])
@pytest.mark.parametrize("sft_alpha", [0.0, 0.3])
def test_values_and_gradients_equal_the_definition(beta, temperature, sft_alpha):
    rows, weight, targets, t_rows, t_weight = problem()
    weights = LossWeights(sft_alpha, 0.8, beta, temperature)
    rows_a, weight_a = rows.clone().requires_grad_(), weight.clone().requires_grad_()
    rows_b, weight_b = rows.clone().requires_grad_(), weight.clone().requires_grad_()
    terms = head_terms(rows_a, weight_a, targets, weights, t_rows, t_weight)
    expected, ce, kd = reference(rows_b, weight_b, targets, weights, t_rows, t_weight)
    terms.objective.backward()
    expected.backward()
    torch.testing.assert_close(terms.objective, expected)
    torch.testing.assert_close(terms.ce, ce.detach())
    torch.testing.assert_close(terms.kd, kd.detach())
    torch.testing.assert_close(rows_a.grad, rows_b.grad, rtol=1e-8, atol=1e-10)
    assert torch.equal(terms.row_hits.bool(), (rows @ weight.t()).argmax(-1) == targets)
    torch.testing.assert_close(weight_a.grad, weight_b.grad, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 1.3])
@pytest.mark.parametrize("number, counted", [(0, False), (5, False), (5, True)])
def test_gradcheck_of_the_hidden_rows_and_the_head(beta, temperature, number, counted, monkeypatch):
    monkeypatch.setattr("plumbline.train.objective.terms.CHUNK_ROWS", 3)
    rows, weight, targets, t_rows, t_weight = problem(n=number, hidden=2, vocab=5)
    counts = torch.linspace(0.0, 1.5, number, dtype=rows.dtype) if counted else None
    weights = LossWeights(0.5, 0.8, beta, temperature)

    def objective(rows, weight):
        return head_terms(rows, weight, targets, weights, t_rows, t_weight, counts).objective

    inputs = (rows.requires_grad_(), weight.requires_grad_())
    assert torch.autograd.gradcheck(objective, inputs, atol=1e-8, rtol=1e-6)


def test_plain_cross_entropy_without_a_teacher():
    rows, weight, targets, *_ = problem(dtype=torch.float32)
    terms = head_terms(rows, weight, targets, LossWeights())
    torch.testing.assert_close(terms.objective, F.cross_entropy(rows @ weight.t(), targets, reduction="sum"))
    assert terms.kd == 0
    assert terms.hits == ((rows @ weight.t()).argmax(-1) == targets).sum()


def test_no_supervised_row_is_zero_with_a_zero_gradient():
    rows, weight, targets, t_rows, t_weight = problem()
    empty = rows[:0].clone().requires_grad_()
    terms = head_terms(empty, weight, targets[:0], LossWeights(1.0, 1.0), t_rows[:0], t_weight)
    terms.objective.backward()
    assert terms.objective == 0
    assert empty.grad.shape == (0, rows.shape[1])


def test_equal_teacher_means_zero_divergence_and_zero_gradient():
    rows, weight, targets, *_ = problem(dtype=torch.float32)
    student = rows.clone().requires_grad_()
    for beta in (0.0, 0.5, 1.0):
        terms = head_terms(student, weight, targets, LossWeights(0.0, 1.0, beta), rows, weight)
        (gradient,) = torch.autograd.grad(terms.objective, student)
        assert terms.kd.abs() / len(targets) < 1e-6
        assert gradient.abs().max() < 1e-5


def divergence(beta):
    """JSD_beta of the student (0.5, 0.5) and the teacher (0.9, 0.1)."""
    log_p, log_q = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.9, 0.1]]).log()
    return head_terms(
        log_p, torch.eye(2), torch.tensor([0]), LossWeights(0.0, 1.0, beta), log_q, torch.eye(2)
    ).kd.item()


def test_probabilities_that_underflow_keep_the_divergence_finite():
    student = torch.tensor([[0.0, -200.0, -300.0]], requires_grad=True)
    head = torch.eye(3)
    terms = head_terms(
        student, head, torch.tensor([0]), LossWeights(0.0, 1.0, 0.5), torch.tensor([[-250.0, 0.0, -400.0]]), head
    )
    terms.objective.backward()
    assert terms.kd.item() == pytest.approx(math.log(2), rel=1e-6)
    assert torch.isfinite(student.grad).all()


def test_literal_numbers():
    kl = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    assert kl == pytest.approx(0.3680642, rel=1e-6)
    assert divergence(0.0) == pytest.approx(kl, rel=1e-6)
    assert divergence(1.0) == pytest.approx(0.5108256, rel=1e-6)
    assert divergence(0.5) == pytest.approx(0.1017492, rel=1e-5)


def test_small_beta_behaves_as_beta_times_forward_kl():
    assert divergence(1e-4) == pytest.approx(1e-4 * 0.3680642, rel=1e-2)


def test_bfloat16_head_accumulates_in_fp32():
    rows, weight, targets, t_rows, t_weight = problem(dtype=torch.float32)
    weights = LossWeights(1.0, 1.0, 0.5)
    half = [tensor.bfloat16() for tensor in (rows, weight, t_rows, t_weight)]
    terms = head_terms(half[0], half[1], targets, weights, half[2], half[3])
    expected, *_ = reference(half[0].float(), half[1].float(), targets, weights, half[2].float(), half[3].float())
    assert terms.objective.dtype == torch.float32
    torch.testing.assert_close(terms.objective, expected, rtol=2e-2, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("largest", [5.0, 25.0, 300.0])
@pytest.mark.parametrize("beta, temperature", [(None, 1.0), (0.0, 1.0), (0.5, 1.0), (1.0, 1.0), (0.5, 2.0)])
def test_gradients_of_a_half_precision_head(dtype, largest, beta, temperature):
    """Against fp32 from the same rounded logits: what is left is the rounding of the gradients themselves."""
    rows, weight, targets, t_rows, t_weight = problem(dtype=torch.float32)
    rows *= largest / (rows @ weight.t()).max()
    t_rows *= largest / (t_rows @ t_weight.t()).max()
    rows, weight, t_rows, t_weight = (tensor.to(dtype) for tensor in (rows, weight, t_rows, t_weight))
    teacher = (t_rows, t_weight) if beta is not None else ()
    weights = LossWeights(1.0, 0.8, beta or 0.0, temperature)
    wanted = [tensor.float().requires_grad_() for tensor in (rows, weight)]
    expected, *_ = reference(*wanted, targets, weights, *(side.float() for side in teacher), rounded=dtype)
    terms = head_terms(rows.requires_grad_(), weight.requires_grad_(), targets, weights, *teacher)
    torch.testing.assert_close(terms.objective, expected, rtol=1e-4, atol=0)
    terms.objective.backward()
    expected.backward()
    for mine, theirs in zip((rows, weight), wanted, strict=True):
        assert mine.grad.dtype == dtype
        atol = 4 * torch.finfo(dtype).eps * float(theirs.grad.abs().max())
        torch.testing.assert_close(mine.grad.float(), theirs.grad, rtol=0, atol=atol)


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_rows_whose_divergence_counts_differently(beta, temperature):
    rows, weight, targets, t_rows, t_weight = problem()
    counts = torch.rand(len(targets), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    counts[::3] = 0.0
    rows.requires_grad_()
    terms = head_terms(rows, weight, targets, LossWeights(0.4, 0.7, beta, temperature), t_rows, t_weight, counts)
    (together,) = torch.autograd.grad(terms.objective, rows)
    wanted = 0.0
    for i, count in enumerate(counts.tolist()):
        weights = LossWeights(0.4, 0.7 * count, beta, temperature)
        wanted = (
            wanted + reference(rows[i : i + 1], weight, targets[i : i + 1], weights, t_rows[i : i + 1], t_weight)[0]
        )
    torch.testing.assert_close(terms.objective, wanted)
    torch.testing.assert_close(together, torch.autograd.grad(wanted, rows)[0], rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(0.4 * terms.ce + 0.7 * terms.kd, wanted.detach())


@pytest.mark.parametrize("sft_alpha, llm_kd_weight", [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0)])
@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_terms_that_are_switched_off_are_still_measured(sft_alpha, llm_kd_weight, beta):
    rows, weight, targets, t_rows, t_weight = problem()
    rows.requires_grad_()
    weights = LossWeights(sft_alpha, llm_kd_weight, beta)
    terms = head_terms(rows, weight, targets, weights, t_rows, t_weight)
    objective, ce, kd = reference(rows, weight, targets, weights, t_rows, t_weight)
    torch.testing.assert_close((terms.ce, terms.kd), (ce.detach(), kd.detach()))
    (gradient,) = torch.autograd.grad(terms.objective, rows)
    torch.testing.assert_close(gradient, torch.autograd.grad(objective, rows)[0], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_chunks_and_blocks_leave_no_seam(beta, monkeypatch):
    """More rows than a chunk, blocks that do not divide it, one head for both sides."""
    rows, weight, targets, *_ = problem(n=2 * CHUNK_ROWS + 7)
    teacher = rows + 0.3 * torch.randn(rows.shape, generator=torch.Generator().manual_seed(3), dtype=rows.dtype)
    monkeypatch.setattr("plumbline.train.objective.cpu.BLOCK_ELEMENTS", 5 * weight.shape[0])
    weights = LossWeights(0.5, 1.0, beta)
    rows.requires_grad_()
    terms = head_terms(rows, weight, targets, weights, teacher, weight)
    objective, *_ = reference(rows, weight, targets, weights, teacher, weight)
    torch.testing.assert_close(terms.objective, objective)
    (gradient,) = torch.autograd.grad(terms.objective, rows)
    torch.testing.assert_close(gradient, torch.autograd.grad(objective, rows)[0], rtol=1e-8, atol=1e-10)


class Largest(TorchDispatchMode):
    """Elements of the largest memory that any tensor made meanwhile lies in."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.untyped_storage().nbytes() // tensor.element_size())
        return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("beta, temperature", [(0.0, 1.0), (0.5, 1.0), (1.0, 1.0), (0.5, 2.0)])
@pytest.mark.parametrize("teacher", ["none", "same head", "other head", "top tokens"])
def test_logits_of_more_than_a_chunk_are_never_held(dtype, beta, temperature, teacher, monkeypatch):
    """Forward and backward, rows and head: nothing larger than both sides' logits of a chunk."""
    monkeypatch.setattr("plumbline.train.objective.terms.CHUNK_ROWS", 16)
    monkeypatch.setattr("plumbline.train.objective.cpu.BLOCK_ELEMENTS", 8 * 50)
    monkeypatch.setattr("plumbline.train.objective.cpu._kept", {})
    rows, weight, targets, t_rows, t_weight = problem(n=5 * 16, hidden=3)
    top = top_of(t_rows, t_weight, 5) if teacher == "top tokens" else None
    rows, weight, t_rows, t_weight = (tensor.to(dtype) for tensor in (rows, weight, t_rows, t_weight))
    sides = {"same head": (rows + 0.1, weight), "other head": (t_rows, t_weight)}.get(teacher, ())
    weights = LossWeights(1.0, 1.0, beta, 1.0 if top else temperature)
    rows.requires_grad_(), weight.requires_grad_()
    with Largest() as largest:
        head_terms(rows, weight, targets, weights, *sides, teacher_top=top).objective.backward()
    chunk = 16 * len(weight)
    assert chunk <= largest.elements <= 2 * chunk
    assert rows.grad is not None and weight.grad is not None


def test_a_tie_is_a_hit_of_the_first_token_alone():
    terms = head_terms(torch.ones(2, 1), torch.ones(3, 1), torch.tensor([0, 2]), LossWeights())
    assert terms.row_hits.tolist() == [1.0, 0.0]


@pytest.mark.parametrize("sharpness", [0.0, 0.1, 0.5, 3.0])
def test_hits_at_any_certainty(sharpness):
    """Targets of every rank, at probabilities from below the mean to nearly one."""
    rows, weight, _, t_rows, t_weight = problem(dtype=torch.float32)
    rows *= sharpness
    logits = rows @ weight.t()
    ranks = torch.arange(len(rows)) % 4
    targets = logits.argsort(dim=-1, descending=True, stable=True).gather(-1, ranks[:, None])[:, 0]
    terms = head_terms(rows, weight, targets, LossWeights(1.0, 1.0), t_rows, t_weight)
    assert torch.equal(terms.row_hits.bool(), ranks == 0)


@pytest.mark.parametrize("shift", [-300.0, -55.0, -18.0, 18.0, 55.0, 300.0])
@pytest.mark.parametrize("beta", [0.0, 1e-3, 0.5, 1.0])
def test_logits_far_from_zero(shift, beta):
    """A constant added to a row's logits changes nothing: shift the student's one way, the teacher's the other."""
    rows, weight, targets, *_ = problem(dtype=torch.float32)
    constant = torch.ones(weight.shape[0], 1)
    head = torch.cat([weight, constant], 1)
    teacher = torch.cat([rows + 0.1, torch.full((len(rows), 1), -shift)], 1)
    student = torch.cat([rows, torch.full((len(rows), 1), shift)], 1).requires_grad_()
    terms = head_terms(student, head, targets, LossWeights(0.5, 1.0, beta), teacher, head)
    expected, *_ = reference(
        rows.double(), weight.double(), targets, LossWeights(0.5, 1.0, beta), (rows + 0.1).double(), weight.double()
    )
    (gradient,) = torch.autograd.grad(terms.objective, student)
    assert terms.objective.item() == pytest.approx(expected.item(), rel=1e-3)
    assert torch.isfinite(gradient).all()


# ---------------------------------------------------------------------------------- a teacher known by its top tokens
def top_of(t_rows, t_weight, k):
    values, ids = (t_rows @ t_weight.t()).log_softmax(-1).topk(k)
    return TopTokens(ids, values)


def grouped(rows, weight, targets, weights, top):
    """The objective over K + 1 outcomes by the definition, through autograd."""
    logits = rows @ weight.t()
    ce = F.cross_entropy(logits, targets, reduction="sum")
    known = top.ids >= 0
    p = torch.where(known, logits.softmax(-1).gather(-1, top.ids.clamp(min=0)), 0.0)
    q = torch.where(known, top.log_probs.exp(), 0.0)
    eps = torch.finfo(p.dtype).eps
    p, q = (torch.cat([side, (1 - side.sum(-1, keepdim=True)).clamp(min=eps)], -1) for side in (p, q))
    p, q = p.clamp(min=1e-300), q.clamp(min=1e-300)
    m = (1 - weights.beta) * p + weights.beta * q
    if weights.beta in (0.0, 1.0):
        kd = (q * (q / p).log()).sum() if weights.beta == 0.0 else (p * (p / q).log()).sum()
    else:
        kd = weights.beta * (q * (q / m).log()).sum() + (1 - weights.beta) * (p * (p / m).log()).sum()
    return weights.sft_alpha * ce + weights.llm_kd_weight * kd, kd


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("k", [1, 5, 50])
def test_top_tokens_equal_the_definition_over_their_outcomes(beta, k, monkeypatch):
    monkeypatch.setattr("plumbline.train.objective.terms.CHUNK_ROWS", 16)
    rows, weight, targets, t_rows, t_weight = problem()
    top, weights = top_of(t_rows, t_weight, k), LossWeights(0.3, 0.8, beta)
    top.ids[::3, -1] = TopTokens.NONE  # rows that name fewer
    rows_a, rows_b = rows.clone().requires_grad_(), rows.clone().requires_grad_()
    terms = head_terms(rows_a, weight, targets, weights, teacher_top=top)
    expected, kd = grouped(rows_b, weight, targets, weights, top)
    terms.objective.backward()
    expected.backward()
    torch.testing.assert_close(terms.kd, kd.detach(), rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(terms.objective, expected, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(rows_a.grad, rows_b.grad, rtol=1e-6, atol=1e-8)


def test_all_tokens_known_is_the_exact_divergence_and_fewer_are_at_most_it():
    rows, weight, targets, t_rows, t_weight = problem()
    weights = LossWeights(0.0, 1.0, 0.5)
    exact = head_terms(rows, weight, targets, weights, t_rows, t_weight).kd
    kds = [head_terms(rows, weight, targets, weights, teacher_top=top_of(t_rows, t_weight, k)).kd for k in (50, 20, 2)]
    torch.testing.assert_close(kds[0], exact, rtol=1e-7, atol=1e-9)
    assert exact >= kds[1] >= kds[2] > 0


def test_row_weights_and_the_student_itself_as_top_tokens():
    rows, weight, targets, _, _ = problem()
    top, weights = top_of(rows, weight, 7), LossWeights(0.0, 1.0, 0.5)
    free = rows.clone().requires_grad_()
    same = head_terms(free, weight, targets, weights, teacher_top=top)
    same.objective.backward()
    assert float(same.kd.abs()) < 1e-9 and float(free.grad.abs().max()) < 1e-9
    half = torch.full((len(targets),), 0.5, dtype=rows.dtype)
    other = top_of(rows.flip(0), weight, 7)
    whole = head_terms(rows, weight, targets, weights, teacher_top=other).kd
    torch.testing.assert_close(head_terms(rows, weight, targets, weights, None, None, half, other).kd, whole / 2)


def test_top_tokens_have_no_other_temperature():
    rows, weight, targets, t_rows, t_weight = problem()
    with pytest.raises(ValueError, match="own temperature"):
        head_terms(rows, weight, targets, LossWeights(1, 1, 0.5, 2.0), teacher_top=top_of(t_rows, t_weight, 3))
