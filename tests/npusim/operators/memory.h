// Operators that move, fill, index and draw values.
#pragma once
#include "abi.h"

#include <ATen/CPUGeneratorImpl.h>

OP(Cast, (T a, int dtype, T o), o->t.copy_(a->t.to(npusim::scalar_type(dtype))))
OP(InplaceCopy, (T a, T b), a->t.copy_(b->t))
OP(InplaceZero, (T a), a->t.zero_())
OP(InplaceOne, (T a), a->t.fill_(1))
OP(InplaceFillScalar, (T a, S v), a->t.fill_(v->s))
OP(InplaceFillTensor, (T a, T v), a->t.fill_(v->t))
OP(InplaceMaskedFillScalar, (T a, T m, S v), a->t.masked_fill_(m->t, v->s))
OP(InplaceMaskedFillTensor, (T a, T m, T v), a->t.masked_fill_(m->t, v->t))
OP(Arange, (S from, S to, S step, T o), o->t.copy_(at::arange(from->s, to->s, step->s, o->t.options())))
OP(ConstantPadNd, (T a, D pad, S v, T o), o->t.copy_(at::constant_pad_nd(a->t, pad->v, v->s)))
OP(Triu, (T a, int64_t k, T o), o->t.copy_(at::triu(a->t, k)))
OP(Tril, (T a, int64_t k, T o), o->t.copy_(at::tril(a->t, k)))
OP(Flip, (T a, D d, T o), o->t.copy_(at::flip(a->t, d->v)))

static std::vector<at::Tensor> members(const aclTensorList* list) {
  std::vector<at::Tensor> tensors;
  for (auto* member : list->v) tensors.push_back(member->t);
  return tensors;
}
OP(Cat, (L a, int64_t d, T o), o->t.copy_(at::cat(members(a), d)))
OP(Stack, (L a, int64_t d, T o), o->t.copy_(at::stack(members(a), d)))

OP(Gather, (T a, int64_t d, T i, T o), o->t.copy_(at::gather(a->t, d, i->t)))
OP(IndexSelect, (T a, int64_t d, T i, T o), o->t.copy_(at::index_select(a->t, d, i->t)))
OP(InplaceScatter, (T a, int64_t d, T i, T b, int64_t reduce), a->t.scatter_(d, i->t, b->t))
OP(InplaceScatterValue, (T a, int64_t d, T i, S v, int64_t reduce), a->t.scatter_(d, i->t, v->s))

static at::Generator generator(uint64_t seed, uint64_t offset) {
  return at::make_generator<at::CPUGeneratorImpl>(seed + offset);
}
OP(InplaceUniform, (T a, double low, double high, uint64_t seed, uint64_t offset),
   a->t.uniform_(low, high, generator(seed, offset)))
OP(InplaceNormal, (T a, float mean, float deviation, uint64_t seed, uint64_t offset),
   a->t.normal_(mean, deviation, generator(seed, offset)))
OP(Randperm, (int64_t n, uint64_t seed, uint64_t offset, T o),
   o->t.copy_(at::randperm(n, generator(seed, offset), at::kLong)))
