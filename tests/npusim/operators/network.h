// Operators of a language model's forward and backward pass.
#pragma once
#include "abi.h"

OP(Embedding, (T w, T i, T o), o->t.copy_(at::embedding(w->t, i->t)))
OP(EmbeddingDenseBackward, (T g, T i, uint64_t n, uint64_t padding, bool scale, T o),
   o->t.copy_(at::embedding_dense_backward(g->t, i->t, n, padding, scale)))

// a cube core adds the products of halves up in fp32; so does this, and it is many times faster on a CPU
static at::Tensor product(const at::Tensor& a, const at::Tensor& b) {
  return a.scalar_type() == at::kHalf ? at::matmul(a.to(at::kFloat), b.to(at::kFloat)) : at::matmul(a, b);
}
OP(Matmul, (T a, T b, T o, int8_t), o->t.copy_(product(a->t, b->t)))
OP(Dot, (T a, T b, T o), o->t.copy_(at::dot(a->t, b->t)))
OP(Mm, (T a, T b, T o, int8_t), o->t.copy_(product(a->t, b->t)))
OP(BatchMatMul, (T a, T b, T o, int8_t), o->t.copy_(product(a->t, b->t)))
OP(Addmm, (T a, T b, T c, S beta, S alpha, T o, int8_t), o->t.copy_(at::addmm(a->t, b->t, c->t, beta->s, alpha->s)))

OP(Softmax, (T a, int64_t d, T o), o->t.copy_(at::softmax(a->t, d)))
OP(LogSoftmax, (T a, int64_t d, T o), o->t.copy_(at::log_softmax(a->t, d)))
OP(SoftmaxBackward, (T g, T y, int64_t d, T o),
   o->t.copy_(at::_softmax_backward_data(g->t, y->t, d, y->t.scalar_type())))
OP(LogSoftmaxBackward, (T g, T y, int64_t d, T o),
   o->t.copy_(at::_log_softmax_backward_data(g->t, y->t, d, y->t.scalar_type())))
OP(SiluBackward, (T g, T a, T o), o->t.copy_(at::silu_backward(g->t, a->t)))

static std::optional<at::Tensor> maybe(T tensor) {
  return tensor ? std::optional<at::Tensor>(tensor->t) : std::nullopt;
}
OP(NLLLoss, (T a, T target, T w, int64_t reduction, int64_t ignored, T o, T total), {
  auto [loss, weight] = at::nll_loss_forward(a->t, target->t.to(at::kLong), maybe(w), reduction, ignored);
  o->t.copy_(loss);
  total->t.copy_(weight);
})
OP(NLLLossBackward, (T g, T a, T target, T w, int64_t reduction, int64_t ignored, T total, T o),
   o->t.copy_(at::nll_loss_backward(g->t, a->t, target->t.to(at::kLong), maybe(w), reduction, ignored, total->t)))
