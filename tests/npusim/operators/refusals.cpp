// Which dtypes an operator's first tensor may have, as the documentation of CANN and torch_npu has it.
//
// Where the two differ the shorter list is here, so that what passes is allowed by both.  An operator without a row
// takes every dtype, except that chips before Ascend910B have no bfloat16 at all.
#include "refusals.h"

#include <algorithm>

namespace {
using Dtypes = std::vector<c10::ScalarType>;

struct Row {
  std::vector<std::string> operators;
  Dtypes taken;
  bool of_result = false;  // the first tensor is converted to the result's dtype, and that is what is looked at
  std::string absent = "";  // chips whose name begins so have not got the operator
};

const Dtypes kFloats = {c10::kFloat, c10::kHalf, c10::kBFloat16};
const Dtypes kHalfAndSingle = {c10::kFloat, c10::kHalf};

const std::vector<Row>& rows() {
  static const std::vector<Row> table = {
      {{"Sort"}, {c10::kHalf, c10::kFloat, c10::kByte, c10::kChar, c10::kShort, c10::kInt, c10::kLong}},
      {{"Kthvalue"}, {c10::kHalf, c10::kFloat, c10::kInt}},
      {{"Topk", "TopkV2"},
       {c10::kFloat, c10::kHalf, c10::kBFloat16, c10::kDouble, c10::kByte, c10::kChar, c10::kShort, c10::kInt,
        c10::kLong}},
      {{"Histc"}, kHalfAndSingle},
      {{"Softshrink", "Hardshrink"}, kHalfAndSingle, false, "Ascend950"},
      {{"Cumsum"}, {c10::kFloat, c10::kHalf, c10::kInt, c10::kByte, c10::kChar, c10::kShort, c10::kLong}, true},
      {{"Gather"}, {c10::kFloat, c10::kHalf, c10::kShort, c10::kInt, c10::kLong, c10::kBool}},
      {{"BitwiseAndTensor", "BitwiseAndScalar", "BitwiseOrTensor", "BitwiseNot"},
       {c10::kShort, c10::kInt, c10::kLong, c10::kChar, c10::kByte, c10::kBool}},
      {{"Matmul", "BatchMatMul", "Addmm", "Mm"}, kFloats},
      {{"Sqrt", "Rsqrt", "Exp", "LinalgVectorNorm", "Softmax", "LogSoftmax", "Silu"}, kFloats},
      {{"FlashAttentionScore", "FlashAttentionScoreGrad"}, kFloats},
      {{"ForeachMulList"}, {c10::kFloat, c10::kHalf, c10::kBFloat16, c10::kInt}},
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
  if (!has_bfloat16(soc) && holds(dtypes, c10::kBFloat16)) return name + " takes no bfloat16 on " + soc;
  const auto base = base_name(name);
  // torch_npu makes the handles of a call from the last argument to the first
  const auto first = dtypes.back(), last = dtypes.front();
  for (const auto& row : rows()) {
    if (!holds(row.operators, base)) continue;
    if (!row.absent.empty() && soc.rfind(row.absent, 0) == 0) return name + " does not exist on " + soc;
    const auto judged = row.of_result ? last : first;
    if (!holds(row.taken, judged)) return name + " does not take " + c10::toString(judged);
  }
  return "";
}
