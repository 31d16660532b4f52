// Which dtypes an operator's first tensor may have, as the documentation of CANN and torch_npu has it.
//
// Where the two differ the shorter list is here, so that what passes is allowed by both.  An operator without a row
// takes every dtype, except that chips before Ascend910B have no bfloat16 at all.
#include "abi.h"

#include <algorithm>

namespace {
using Dtypes = std::vector<at::ScalarType>;

struct Row {
  std::vector<std::string> operators;
  Dtypes taken;
};

const Dtypes kFloats = {at::kFloat, at::kHalf, at::kBFloat16};
const Dtypes kHalfAndSingle = {at::kFloat, at::kHalf};

const std::vector<Row>& rows() {
  static const std::vector<Row> table = {
      {{"Sort"}, {at::kHalf, at::kFloat, at::kByte, at::kChar, at::kShort, at::kInt, at::kLong}},
      {{"Kthvalue"}, {at::kHalf, at::kFloat, at::kInt}},
      {{"Histc", "Softshrink", "Hardshrink"}, kHalfAndSingle},
      {{"Cumsum"}, {at::kFloat, at::kHalf, at::kInt, at::kByte, at::kChar, at::kShort, at::kLong}},
      {{"Gather"}, {at::kFloat, at::kHalf, at::kShort, at::kInt, at::kLong, at::kBool}},
      {{"BitwiseAndTensor", "BitwiseAndScalar", "BitwiseOrTensor", "BitwiseNot"},
       {at::kShort, at::kInt, at::kLong, at::kChar, at::kByte, at::kBool}},
      {{"Matmul", "BatchMatMul", "Addmm", "Mm"}, kFloats},
      {{"Sqrt", "Rsqrt", "Exp", "LinalgVectorNorm", "Softmax", "LogSoftmax", "Silu"}, kFloats},
  };
  return table;
}

bool has_bfloat16(const std::string& soc) {
  return soc.rfind("Ascend910B", 0) == 0 || soc.rfind("Ascend910_93", 0) == 0 || soc.rfind("Ascend950", 0) == 0;
}

bool holds(const auto& list, const auto& value) { return std::find(list.begin(), list.end(), value) != list.end(); }

// aclnnInplaceAdd -> Add
std::string base_name(std::string name) {
  for (const std::string prefix : {"aclnn", "Inplace"})
    if (name.rfind(prefix, 0) == 0) name = name.substr(prefix.size());
  return name;
}
}  // namespace

std::string npusim::refusal(const std::string& name, const Dtypes& dtypes, const std::string& soc) {
  if (dtypes.empty()) return "";
  if (!has_bfloat16(soc) && holds(dtypes, at::kBFloat16)) return name + " takes no bfloat16 on " + soc;
  const auto base = base_name(name);
  // torch_npu makes the handles of a call from the last argument to the first
  const auto first = dtypes.back();
  for (const auto& row : rows())
    if (holds(row.operators, base) && !holds(row.taken, first))
      return name + " does not take " + at::toString(first);
  return "";
}
