// Operators that reduce or run along a dimension.
#pragma once
#include "abi.h"

static std::vector<int64_t> dims(D d) { return d ? d->v : std::vector<int64_t>{}; }
static at::OptionalIntArrayRef some_dims(D d) {
  return d && !d->v.empty() ? at::OptionalIntArrayRef(d->v) : at::OptionalIntArrayRef();
}

OP(ReduceSum, (T a, D d, bool keep, int dtype, T o),
   o->t.copy_(at::sum(a->t, dims(d), keep, npusim::scalar_type(dtype))))
OP(Mean, (T a, D d, bool keep, int dtype, T o),
   o->t.copy_(at::mean(a->t, dims(d), keep, npusim::scalar_type(dtype))))
OP(Max, (T a, T o), o->t.copy_(at::max(a->t)))
OP(Min, (T a, T o), o->t.copy_(at::min(a->t)))
OP(Amax, (T a, D d, bool keep, T o), o->t.copy_(at::amax(a->t, dims(d), keep)))
OP(Amin, (T a, D d, bool keep, T o), o->t.copy_(at::amin(a->t, dims(d), keep)))
OP(ArgMax, (T a, int64_t d, bool keep, T o), o->t.copy_(at::argmax(a->t, d, keep)))
OP(MaxDim, (T a, int64_t d, bool keep, T o, T i), {
  auto [values, indices] = at::max(a->t, d, keep);
  o->t.copy_(values);
  i->t.copy_(indices);
})
OP(MinDim, (T a, int64_t d, bool keep, T o, T i), {
  auto [values, indices] = at::min(a->t, d, keep);
  o->t.copy_(values);
  i->t.copy_(indices);
})
OP(Any, (T a, D d, bool keep, T o), o->t.copy_(dims(d).empty() ? at::any(a->t) : at::any(a->t, d->v, keep)))
OP(All, (T a, D d, bool keep, T o), o->t.copy_(dims(d).empty() ? at::all(a->t) : at::all(a->t, d->v, keep)))
OP(LinalgVectorNorm, (T a, S p, D d, bool keep, int dtype, T o),
   o->t.copy_(at::linalg_vector_norm(a->t, p->s, some_dims(d), keep)))
OP(Cumsum, (T a, int64_t d, int dtype, T o), o->t.copy_(at::cumsum(a->t, d, npusim::scalar_type(dtype))))
OP(Equal, (T a, T b, T o), o->t.copy_(at::scalar_tensor(at::equal(a->t, b->t))))
