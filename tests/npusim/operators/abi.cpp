// libopapi.so: the aclnn functions that torch_npu looks up by name, each computed with ATen on the CPU.
#include "abi.h"

#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <sstream>
#include <stdexcept>
#include <unordered_map>

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

Pending& pending() {
  static thread_local Pending arguments;
  return arguments;
}

// what an executor is: the work, the handles that it reads whenever it runs, and the line it leaves in the trace
struct Planned {
  const char* name;
  Work work;
  std::vector<std::shared_ptr<void>> handles;
  std::string line;
};

int plan(const char* name, Work work, uint64_t* workspace, void** executor) {
  auto arguments = std::move(pending());
  pending() = {};
  std::vector<at::ScalarType> dtypes;
  std::ostringstream line;
  line << name;
  for (const auto& operand : arguments.operands) {
    dtypes.push_back(operand.dtype);
    line << '\t' << operand.begin << ' ' << operand.bytes;
  }
  if (auto why = refusal(name, dtypes, aclrtGetSocName()); !why.empty()) {
    fprintf(stderr, "npusim: %s\n", why.c_str());
    npusim_set_error("npusim: %s", why.c_str());
    return kInvalidParameter;
  }
  *workspace = 0;
  *executor = new Planned{name, std::move(work), std::move(arguments.handles), line.str()};
  return 0;
}

static int perform(void* executor) {
  auto* planned = static_cast<Planned*>(executor);
  at::AutoDispatchBelowADInplaceOrView below;
  try {
    planned->work();
  } catch (const std::exception& error) {
    fprintf(stderr, "npusim: %s: %s\n", planned->name, error.what());
    npusim_set_error("npusim: %s: %.400s", planned->name, error.what());
    return kInnerError;
  }
  return 0;
}

static void discard(void* executor) { delete static_cast<Planned*>(executor); }

int run(void* executor, void* stream) {
  npusim_trace("%s", static_cast<Planned*>(executor)->line.c_str());
  return npusim_submit(stream, perform, discard, executor);
}

// the handles that nobody has destroyed yet; what was planned with one holds it beyond that
static std::mutex guard;
static std::unordered_map<const void*, std::shared_ptr<void>> handles;

template <class Handle>
static Handle* made(Handle handle) {
  auto owned = std::make_shared<Handle>(std::move(handle));
  pending().handles.push_back(owned);
  std::lock_guard<std::mutex> locked(guard);
  handles[owned.get()] = owned;
  return owned.get();
}

static int destroy(const void* handle) {
  std::lock_guard<std::mutex> locked(guard);
  handles.erase(handle);
  return 0;
}

template <class List>
static int destroy_with_members(List* list) {
  for (auto* member : list->v) destroy(member);
  return destroy(list);
}
}  // namespace npusim

using npusim::destroy;
using npusim::destroy_with_members;
using npusim::made;
using npusim::scalar_type;

using FloatArray = std::vector<float>;

extern "C" {
aclTensor* aclCreateTensor(const int64_t* sizes, uint64_t dims, int dtype, const int64_t* strides, int64_t offset,
                           int /*format*/, const int64_t*, uint64_t, void* data) {
  static char nothing[64];
  auto type = scalar_type(dtype);
  char* begin = data ? static_cast<char*>(data) + offset * c10::elementSize(type) : nothing;
  int64_t span = 1;
  for (uint64_t i = 0; i < dims; i++) span = sizes[i] ? span + (sizes[i] - 1) * strides[i] : 0;
  npusim::pending().operands.push_back({type, begin, span * static_cast<int64_t>(c10::elementSize(type))});
  auto options = at::TensorOptions().dtype(type);
  return made(aclTensor{at::from_blob(begin, at::IntArrayRef(sizes, dims), at::IntArrayRef(strides, dims), options)});
}
aclScalar* aclCreateScalar(void* value, int dtype) {
  return made(aclScalar{at::from_blob(value, {}, at::TensorOptions().dtype(scalar_type(dtype))).item()});
}
aclIntArray* aclCreateIntArray(const int64_t* v, uint64_t n) { return made(aclIntArray{{v, v + n}}); }
aclIntArray* aclCreateBoolArray(const bool* v, uint64_t n) { return made(aclIntArray{{v, v + n}}); }
FloatArray* aclCreateFloatArray(const float* v, uint64_t n) { return made(FloatArray(v, v + n)); }
aclTensorList* aclCreateTensorList(aclTensor* const* v, uint64_t n) { return made(aclTensorList{{v, v + n}}); }
aclScalarList* aclCreateScalarList(aclScalar* const* v, uint64_t n) { return made(aclScalarList{{v, v + n}}); }

int aclDestroyTensor(aclTensor* handle) { return destroy(handle); }
int aclDestroyScalar(aclScalar* handle) { return destroy(handle); }
int aclDestroyIntArray(aclIntArray* handle) { return destroy(handle); }
int aclDestroyBoolArray(aclIntArray* handle) { return destroy(handle); }
int aclDestroyFloatArray(FloatArray* handle) { return destroy(handle); }
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
