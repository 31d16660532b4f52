// The fused attention that torch_npu makes of scaled_dot_product_attention, and its gradient.
#pragma once
#include "abi.h"

namespace npusim {
// (batch, heads, tokens, width), which the layouts BNSD, BSND and BSH all become
static at::Tensor by_heads(const at::Tensor& x, const std::string& layout, int64_t heads) {
  if (layout == "BNSD") return x;
  if (layout == "BSND") return x.transpose(1, 2);
  if (layout == "BSH") return x.unflatten(2, {heads, x.size(2) / heads}).transpose(1, 2);
  throw std::runtime_error("the layout " + layout + " is not simulated");
}
static at::Tensor from_heads(const at::Tensor& x, const std::string& layout) {
  if (layout == "BNSD") return x;
  return layout == "BSND" ? x.transpose(1, 2) : x.transpose(1, 2).flatten(2);
}

// everything that forward and backward have in common
struct Attention {
  at::Tensor query, key, value, output, log_sum;
  std::optional<at::Tensor> mask;  // added to the products; none where the attention is causal
  int64_t shared;                  // heads of the query for each of the keys
  double scale;
  bool causal;

  Attention(T q, T k, T v, T forbidden, double factor, double keep, int64_t heads, const std::string& layout,
            int64_t sparse)
      : scale(factor) {
    if (keep != 1.0) throw std::runtime_error("dropout is not simulated");
    query = by_heads(q->t, layout, heads);
    shared = layout == "BSH" ? q->t.size(2) / k->t.size(2) : 0;
    key = by_heads(k->t, layout, shared ? heads / shared : 0);
    value = by_heads(v->t, layout, shared ? heads / shared : 0);
    shared = query.size(1) / key.size(1);
    key = key.repeat_interleave(shared, 1);
    value = value.repeat_interleave(shared, 1);
    causal = sparse == 2 || (sparse == 3 && query.size(2) == key.size(2));
    if (!causal && forbidden) {
      if (sparse > 1) throw std::runtime_error("sparse mode " + std::to_string(sparse) + " is not simulated");
      const auto hidden = forbidden->t.to(at::kBool);
      causal = hidden.size(-2) == hidden.size(-1) && hidden.equal(at::ones_like(hidden).triu(1));
      if (!causal) mask = at::zeros(hidden.sizes(), query.options()).masked_fill(hidden, -INFINITY);
    }
    std::tie(output, log_sum) =
        at::_scaled_dot_product_flash_attention_for_cpu(query, key, value, 0.0, causal, mask, scale);
  }

  // a head's gradient is the sum over the heads of the query that share it
  at::Tensor shared_sum(const at::Tensor& gradient) const {
    return shared == 1 ? gradient : gradient.unflatten(1, {gradient.size(1) / shared, shared}).sum(2);
  }
};
}  // namespace npusim

OP_HOLDING((=, layout = std::string(layout)), FlashAttentionScore,
   (T q, T k, T v, T shift, T drop, T padding, T hidden, D prefix, double scale, double keep, int64_t before,
    int64_t after, int64_t heads, char* layout, int64_t precision, int64_t sparse, T maximum, T sum, T softmax, T o),
   {
     npusim::Attention attention(q, k, v, hidden, scale, keep, heads, layout, sparse);
     o->t.copy_(npusim::from_heads(attention.output, layout));
     // what a card keeps for the backward pass is of no use here, which computes it again
     maximum->t.zero_();
     sum->t.zero_();
   })
OP_HOLDING((=, layout = std::string(layout)), FlashAttentionScoreGrad,
   (T q, T k, T v, T dy, T shift, T drop, T padding, T hidden, T maximum, T sum, T softmax, T y, D prefix,
    double scale, double keep, int64_t before, int64_t after, int64_t heads, char* layout, int64_t precision,
    int64_t sparse, T dq, T dk, T dv, T dshift),
   {
     npusim::Attention a(q, k, v, hidden, scale, keep, heads, layout, sparse);
     auto [query, key, value] = at::_scaled_dot_product_flash_attention_for_cpu_backward(
         npusim::by_heads(dy->t, layout, heads), a.query, a.key, a.value, a.output, a.log_sum, 0.0, a.causal, a.mask,
         a.scale);
     dq->t.copy_(npusim::from_heads(query, layout));
     dk->t.copy_(npusim::from_heads(a.shared_sum(key), layout));
     dv->t.copy_(npusim::from_heads(a.shared_sum(value), layout));
   })
