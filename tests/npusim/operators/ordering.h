// Operators that sort and select.
#pragma once
#include "abi.h"

static void copy_both(T values, T indices, const std::tuple<at::Tensor, at::Tensor>& result) {
  values->t.copy_(std::get<0>(result));
  indices->t.copy_(std::get<1>(result));
}
// unless stability is asked for, a card may leave equals in any order; here it is the one least expected
static std::tuple<at::Tensor, at::Tensor> sort(const at::Tensor& a, bool stable, int64_t d, bool descending) {
  if (stable) return at::sort(a, true, d, descending);
  auto [values, indices] = at::sort(a.flip(d), true, d, descending);
  return {values, a.size(d) - 1 - indices};
}
OP(Sort, (T a, bool stable, int64_t d, bool descending, T o, T i), copy_both(o, i, sort(a->t, stable, d, descending)))
OP(Topk, (T a, int64_t k, int64_t d, bool largest, bool sorted, T o, T i),
   copy_both(o, i, at::topk(a->t, k, d, largest, sorted)))
OP(TopkV2, (T a, int64_t k, int64_t d, bool largest, bool sorted, int64_t, T o, T i),
   copy_both(o, i, at::topk(a->t, k, d, largest, sorted)))
OP(Kthvalue, (T a, int64_t k, int64_t d, bool keep, T o, T i), copy_both(o, i, at::kthvalue(a->t, k, d, keep)))
OP(Histc, (T a, int64_t bins, S low, S high, T o), o->t.copy_(at::histc(a->t, bins, low->s, high->s)))
