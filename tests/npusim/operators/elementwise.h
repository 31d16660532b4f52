// Operators that work element by element: arithmetic, comparison, logic, and the lists of them an optimizer uses.
#pragma once
#include "abi.h"

#define UNARY(NAME, FUNCTION)                                \
  OP(NAME, (T a, T o), o->t.copy_(at::FUNCTION(a->t)))       \
  OP(Inplace##NAME, (T a), a->t.copy_(at::FUNCTION(a->t)))

UNARY(Abs, abs)
UNARY(BitwiseNot, bitwise_not)
UNARY(Ceil, ceil)
UNARY(Cos, cos)
UNARY(Erf, erf)
UNARY(Exp, exp)
UNARY(Floor, floor)
UNARY(Log, log)
UNARY(LogicalNot, logical_not)
UNARY(Neg, neg)
UNARY(Reciprocal, reciprocal)
UNARY(Relu, relu)
UNARY(Rsqrt, rsqrt)
UNARY(Sigmoid, sigmoid)
UNARY(Sign, sign)
UNARY(Silu, silu)
UNARY(Sin, sin)
UNARY(Sqrt, sqrt)
UNARY(Tanh, tanh)
OP(IsFinite, (T a, T o), o->t.copy_(at::isfinite(a->t)))

#define BINARY(NAME, FUNCTION)                                             \
  OP(NAME, (T a, T b, T o), o->t.copy_(at::FUNCTION(a->t, b->t)))          \
  OP(Inplace##NAME, (T a, T b), a->t.copy_(at::FUNCTION(a->t, b->t)))

#define BINARY_SCALAR(NAME, FUNCTION)                                      \
  OP(NAME, (T a, S b, T o), o->t.copy_(at::FUNCTION(a->t, b->s)))          \
  OP(Inplace##NAME, (T a, S b), a->t.copy_(at::FUNCTION(a->t, b->s)))

BINARY(BitwiseAndTensor, bitwise_and)
BINARY(BitwiseOrTensor, bitwise_or)
BINARY(Div, div)
BINARY(EqTensor, eq)
BINARY(FloorDivide, floor_divide)
BINARY(GeTensor, ge)
BINARY(GtTensor, gt)
BINARY(LeTensor, le)
BINARY(LogicalAnd, logical_and)
BINARY(LogicalOr, logical_or)
BINARY(LtTensor, lt)
BINARY(Maximum, maximum)
BINARY(Minimum, minimum)
BINARY(Mul, mul)
BINARY(NeTensor, ne)
BINARY(PowTensorTensor, pow)
BINARY_SCALAR(BitwiseAndScalar, bitwise_and)
BINARY_SCALAR(BitwiseOrScalar, bitwise_or)
BINARY_SCALAR(ClampMax, clamp_max)
BINARY_SCALAR(ClampMin, clamp_min)
BINARY_SCALAR(Divs, div)
BINARY_SCALAR(EqScalar, eq)
BINARY_SCALAR(FloorDivides, floor_divide)
BINARY_SCALAR(GeScalar, ge)
BINARY_SCALAR(GtScalar, gt)
BINARY_SCALAR(LeScalar, le)
BINARY_SCALAR(LtScalar, lt)
BINARY_SCALAR(Muls, mul)
BINARY_SCALAR(NeScalar, ne)
BINARY_SCALAR(PowTensorScalar, pow)
BINARY_SCALAR(RemainderTensorScalar, remainder)

#define BINARY_SCALED(NAME, FUNCTION)                                                                      \
  OP(NAME, (T a, T b, S alpha, T o), o->t.copy_(at::FUNCTION(a->t, b->t, alpha->s)))                       \
  OP(Inplace##NAME, (T a, T b, S alpha), a->t.copy_(at::FUNCTION(a->t, b->t, alpha->s)))                   \
  OP(NAME##s, (T a, S b, S alpha, T o), o->t.copy_(at::FUNCTION(a->t, b->s, alpha->s)))                    \
  OP(Inplace##NAME##s, (T a, S b, S alpha), a->t.copy_(at::FUNCTION(a->t, b->s, alpha->s)))

BINARY_SCALED(Add, add)
BINARY_SCALED(Sub, sub)
OP(Rsub, (T a, T b, S alpha, T o), o->t.copy_(at::rsub(a->t, b->t, alpha->s)))
OP(Rsubs, (T a, S b, S alpha, T o), o->t.copy_(at::rsub(a->t, b->s, alpha->s)))

using Bound = std::optional<at::Scalar>;
OP(Clamp, (T a, S low, S high, T o),
   o->t.copy_(at::clamp(a->t, low ? Bound(low->s) : std::nullopt, high ? Bound(high->s) : std::nullopt)))
OP(ClampTensor, (T a, T low, T high, T o), o->t.copy_(at::clamp(a->t, low->t, high->t)))
OP(ClampMinTensor, (T a, T low, T o), o->t.copy_(at::maximum(a->t, low->t)))
OP(ClampMaxTensor, (T a, T high, T o), o->t.copy_(at::minimum(a->t, high->t)))
OP(InplaceClampMinTensor, (T a, T low), a->t.copy_(at::maximum(a->t, low->t)))
OP(InplaceClampMaxTensor, (T a, T high), a->t.copy_(at::minimum(a->t, high->t)))
OP(Softshrink, (T a, S lambda, T o), o->t.copy_(at::softshrink(a->t, lambda->s)))
OP(Hardshrink, (T a, S lambda, T o), o->t.copy_(at::hardshrink(a->t, lambda->s)))
OP(Threshold, (T a, S threshold, S value, T o), o->t.copy_(at::threshold(a->t, threshold->s, value->s)))
OP(NanToNum, (T a, float nan, float high, float low, T o), o->t.copy_(at::nan_to_num(a->t, nan, high, low)))
OP(InplaceNanToNum, (T a, float nan, float high, float low), a->t.copy_(at::nan_to_num(a->t, nan, high, low)))
OP(SWhere, (T c, T a, T b, T o), o->t.copy_(at::where(c->t, a->t, b->t)))

OP(Lerp, (T a, T b, T w, T o), o->t.copy_(at::lerp(a->t, b->t, w->t)))
OP(InplaceLerp, (T a, T b, T w), a->t.copy_(at::lerp(a->t, b->t, w->t)))
OP(InplaceLerps, (T a, T b, S w), a->t.copy_(at::lerp(a->t, b->t, w->s)))
OP(Addcmul, (T a, T b, T c, S v, T o), o->t.copy_(at::addcmul(a->t, b->t, c->t, v->s)))
OP(Addcdiv, (T a, T b, T c, S v, T o), o->t.copy_(at::addcdiv(a->t, b->t, c->t, v->s)))
OP(InplaceAddcmul, (T a, T b, T c, S v), a->t.copy_(at::addcmul(a->t, b->t, c->t, v->s)))
OP(InplaceAddcdiv, (T a, T b, T c, S v), a->t.copy_(at::addcdiv(a->t, b->t, c->t, v->s)))

// FOREACH(Sqrt, (L a, L o), at::sqrt(a->v[i]->t)) computes the i-th result
#define FOREACH(NAME, PARAMETERS, ...) \
  OP(Foreach##NAME, PARAMETERS, for (size_t i = 0; i < a->v.size(); i++) o->v[i]->t.copy_(__VA_ARGS__))

FOREACH(AddScalarV2, (L a, S s, L o), a->v[i]->t + s->s)
FOREACH(MulScalarV2, (L a, S s, L o), a->v[i]->t * s->s)
FOREACH(MulList, (L a, L b, L o), a->v[i]->t * b->v[i]->t)
FOREACH(Sqrt, (L a, L o), at::sqrt(a->v[i]->t))
FOREACH(Norm, (L a, S s, L o), at::norm(a->v[i]->t, s->s))
FOREACH(DivScalarList, (L a, aclScalarList* s, L o), a->v[i]->t / s->v[i]->s)
FOREACH(LerpScalar, (L a, L b, S w, L o), at::lerp(a->v[i]->t, b->v[i]->t, w->s))
FOREACH(AddcmulScalarV2, (L a, L b, L c, S s, L o), at::addcmul(a->v[i]->t, b->v[i]->t, c->v[i]->t, s->s))
FOREACH(AddcdivScalarV2, (L a, L b, L c, S s, L o), at::addcdiv(a->v[i]->t, b->v[i]->t, c->v[i]->t, s->s))
