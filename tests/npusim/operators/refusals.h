// Which calls CANN would refuse; apart from the rest, so that the table compiles without ATen.
#pragma once
#include <c10/core/ScalarType.h>

#include <string>
#include <vector>

namespace npusim {
// why the operator does not take tensors of these dtypes, the last one first, on this chip; empty where it does
std::string refusal(const std::string& name, const std::vector<c10::ScalarType>& dtypes, const std::string& soc);
}  // namespace npusim
