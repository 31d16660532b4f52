// libopapi.so: the aclnn functions that torch_npu looks up by name, each computed with ATen on the CPU.
#include "abi.h"

#include <cstdio>
#include <cstdlib>
#include <sstream>
#include <stdexcept>

namespace npusim {
at::ScalarType scalar_type(int acl_dtype) {
  switch (acl_dtype) {
    case 0: return at::kFloat;
    case 1: return at::kHalf;
    case 2: return at::kChar;
    case 3: return at::kInt;
    case 4: return at::kByte;
    case 6: return at::kShort;
    case 9: return at::kLong;
    case 11: return at::kDouble;
    case 12: return at::kBool;
    case 16: return at::kComplexFloat;
    case 17: return at::kComplexDouble;
    case 27: return at::kBFloat16;
  }
  throw std::runtime_error("npusim: aclDataType " + std::to_string(acl_dtype) + " is not simulated");
}

std::vector<Operand>& pending() {
  static thread_local std::vector<Operand> operands;
  return operands;
}

// what an executor is: the work, and the line it leaves in the trace
struct Planned {
  Work work;
  std::string line;
};

int plan(const char* name, Work work, uint64_t* workspace, void** executor) {
  auto operands = std::move(pending());
  pending().clear();
  std::vector<at::ScalarType> dtypes;
  std::ostringstream line;
  line << name;
  for (const auto& operand : operands) {
    dtypes.push_back(operand.dtype);
    line << '\t' << operand.begin << ' ' << operand.bytes;
  }
  if (auto why = refusal(name, dtypes, aclrtGetSocName()); !why.empty()) {
    fprintf(stderr, "npusim: %s\n", why.c_str());
    npusim_set_error("npusim: %s", why.c_str());
    return kInvalidParameter;
  }
  *workspace = 0;
  *executor = new Planned{std::move(work), line.str()};
  return 0;
}

int run(const char* name, void* executor) {
  auto* planned = static_cast<Planned*>(executor);
  at::AutoDispatchBelowADInplaceOrView below;
  npusim_trace("%s", planned->line.c_str());
  int status = 0;
  try {
    planned->work();
  } catch (const std::exception& error) {
    fprintf(stderr, "npusim: %s: %s\n", name, error.what());
    npusim_set_error("npusim: %s: %.400s", name, error.what());
    status = kInnerError;
  }
  delete planned;
  return status;
}
}  // namespace npusim

using npusim::scalar_type;

template <class Handle>
static int destroy(Handle* handle) {
  delete handle;
  return 0;
}
template <class List>
static int destroy_with_members(List* list) {
  for (auto* member : list->v) delete member;
  delete list;
  return 0;
}
extern "C" {
aclTensor* aclCreateTensor(const int64_t* sizes, uint64_t dims, int dtype, const int64_t* strides, int64_t offset,
                           int /*format*/, const int64_t*, uint64_t, void* data) {
  static char nothing[64];
  auto type = scalar_type(dtype);
  char* begin = data ? static_cast<char*>(data) + offset * c10::elementSize(type) : nothing;
  int64_t span = 1;
  for (uint64_t i = 0; i < dims; i++) span = sizes[i] ? span + (sizes[i] - 1) * strides[i] : 0;
  npusim::pending().push_back({type, begin, span * static_cast<int64_t>(c10::elementSize(type))});
  auto options = at::TensorOptions().dtype(type);
  return new aclTensor{at::from_blob(begin, at::IntArrayRef(sizes, dims), at::IntArrayRef(strides, dims), options)};
}
aclScalar* aclCreateScalar(void* value, int dtype) {
  return new aclScalar{at::from_blob(value, {}, at::TensorOptions().dtype(scalar_type(dtype))).item()};
}
aclIntArray* aclCreateIntArray(const int64_t* v, uint64_t n) { return new aclIntArray{{v, v + n}}; }
aclIntArray* aclCreateBoolArray(const bool* v, uint64_t n) { return new aclIntArray{{v, v + n}}; }
void* aclCreateFloatArray(const float* v, uint64_t n) { return new std::vector<float>(v, v + n); }
aclTensorList* aclCreateTensorList(aclTensor* const* v, uint64_t n) { return new aclTensorList{{v, v + n}}; }
aclScalarList* aclCreateScalarList(aclScalar* const* v, uint64_t n) { return new aclScalarList{{v, v + n}}; }

int aclDestroyTensor(aclTensor* handle) { return destroy(handle); }
int aclDestroyScalar(aclScalar* handle) { return destroy(handle); }
int aclDestroyIntArray(aclIntArray* handle) { return destroy(handle); }
int aclDestroyBoolArray(aclIntArray* handle) { return destroy(handle); }
int aclDestroyFloatArray(std::vector<float>* handle) { return destroy(handle); }
int aclDestroyTensorList(aclTensorList* list) { return destroy_with_members(list); }
int aclDestroyScalarList(aclScalarList* list) { return destroy_with_members(list); }

int aclGetViewShape(const aclTensor* tensor, int64_t** sizes, uint64_t* dims) {
  *dims = tensor->t.dim();
  *sizes = static_cast<int64_t*>(malloc(sizeof(int64_t) * (*dims + 1)));
  for (uint64_t i = 0; i < *dims; i++) (*sizes)[i] = tensor->t.size(i);
  return 0;
}
}

#include "attention.h"
#include "elementwise.h"
#include "memory.h"
#include "network.h"
#include "ordering.h"
#include "reductions.h"
