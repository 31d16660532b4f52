// The aclnn calling convention: how a simulated operator is written, planned, refused, traced and run.
#pragma once
#include <ATen/ATen.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "refusals.h"

extern "C" {
void npusim_trace(const char* format, ...);
void npusim_set_error(const char* format, ...);
const char* aclrtGetSocName();
}

// what the opaque handles of the interface point to
struct aclTensor {
  at::Tensor t;
};
struct aclScalar {
  at::Scalar s;
};
struct aclIntArray {
  std::vector<int64_t> v;
};
struct aclTensorList {
  std::vector<aclTensor*> v;
};
struct aclScalarList {
  std::vector<aclScalar*> v;
};

using T = aclTensor*;
using S = aclScalar*;
using D = aclIntArray*;
using L = aclTensorList*;

namespace npusim {
constexpr int kInvalidParameter = 161002;  // what CANN answers to a dtype that an operator does not take
constexpr int kInnerError = 561103;
using Work = std::function<void()>;

// a tensor argument, as the table of refusals and the trace see it
struct Operand {
  at::ScalarType dtype;
  const void* begin;
  int64_t bytes;  // from its first element to its last
};

at::ScalarType scalar_type(int acl_dtype);
// the tensors that were made since the last operator was planned: they are its arguments
std::vector<Operand>& pending();
int plan(const char* name, Work work, uint64_t* workspace, void** executor);
int run(const char* name, void* executor);
}  // namespace npusim

#define NPUSIM_UNPACK(...) __VA_ARGS__
// OP(Abs, (T a, T o), o->t.copy_(a->t.abs())) defines aclnnAbsGetWorkspaceSize and aclnnAbs
#define OP(NAME, PARAMETERS, ...)                                                                             \
  extern "C" int aclnn##NAME##GetWorkspaceSize(NPUSIM_UNPACK PARAMETERS, uint64_t* workspace, void** executor) { \
    return npusim::plan("aclnn" #NAME, [=] { __VA_ARGS__; }, workspace, executor);                              \
  }                                                                                                           \
  extern "C" int aclnn##NAME(void*, uint64_t, void* executor, void*) { return npusim::run("aclnn" #NAME, executor); }
