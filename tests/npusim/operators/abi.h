// The aclnn calling convention: how a simulated operator is written, planned, refused, traced and run.
#pragma once
#include <ATen/ATen.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "refusals.h"

extern "C" {
void npusim_trace(const char* format, ...);
void npusim_set_error(const char* format, ...);
const char* aclrtGetSocName();
int npusim_submit(void* stream, int (*work)(void*), void (*discard)(void*), void* data);
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

// what was made since the last operator was planned: it is its arguments
struct Pending {
  std::vector<Operand> operands;
  std::vector<std::shared_ptr<void>> handles;
};

at::ScalarType scalar_type(int acl_dtype);
Pending& pending();
int plan(const char* name, Work work, uint64_t* workspace, void** executor);
int run(void* executor, void* stream);
}  // namespace npusim

#define NPUSIM_UNPACK(...) __VA_ARGS__
// OP(Abs, (T a, T o), o->t.copy_(a->t.abs())) defines aclnnAbsGetWorkspaceSize and aclnnAbs.  It may compute long after
// the call, with the handles that it was given; what any other pointer leads to has to be held by value
#define OP(NAME, PARAMETERS, ...) OP_HOLDING((=), NAME, PARAMETERS, __VA_ARGS__)
#define OP_HOLDING(HELD, NAME, PARAMETERS, ...)                                                                      \
  extern "C" int aclnn##NAME##GetWorkspaceSize(NPUSIM_UNPACK PARAMETERS, uint64_t* workspace, void** executor) {     \
    return npusim::plan("aclnn" #NAME, [NPUSIM_UNPACK HELD] { __VA_ARGS__; }, workspace, executor);                  \
  }                                                                                                                  \
  extern "C" int aclnn##NAME(void*, uint64_t, void* executor, void* stream) { return npusim::run(executor, stream); }
