// Backward: which family computes what.

namespace {

template <class T>
BackwardPlan plan_backward(const BackwardParams& p) {
  BackwardPlan scatter = {};
  const int64_t scatter_cost = plan_scatter<T>(p, scatter);
  BackwardPlan plan = {};
  if (p.is_channels_last) {
    const int64_t cost = plan_gather_channels<T>(p, plan);
    return cost >= 0 && cost < scatter_cost ? plan : scatter;
  }
  if (plan_disjoint<T>(p, plan) || plan_sparse<T>(p, plan)) {
    return plan;
  }
  BackwardPlan walk = {};
  const int64_t walk_cost = plan_walk<T>(p, walk);
  const int64_t gather_cost = plan_gather<T>(p, plan);
  if (walk_cost >= 0 && walk_cost < scatter_cost && (gather_cost < 0 || walk_cost < gather_cost)) {
    return walk;
  }
  return gather_cost >= 0 && gather_cost < scatter_cost ? plan : scatter;
}

} // namespace
