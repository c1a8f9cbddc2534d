// Backward: which family computes what.

namespace {

inline constexpr int64_t kNegligible = 4000; // tenths of nanoseconds

// The cheapest so far.
struct Cheapest {
  BackwardPlan plan = {};
  int64_t cost = -1;

  // -1: does not fit.
  void consider(const BackwardPlan& other, int64_t other_cost) {
    if (other_cost >= 0 && (cost < 0 || other_cost < cost)) {
      plan = other;
      cost = other_cost;
    }
  }
};

template <class T>
BackwardPlan plan_backward(const BackwardParams& p) {
  Cheapest cheapest;
  const auto consider = [&](int64_t (*make_plan)(const BackwardParams&, BackwardPlan&)) {
    BackwardPlan plan = {};
    const int64_t cost = make_plan(p, plan);
    cheapest.consider(plan, cost);
  };
  consider(plan_direct<T>);
  if (cheapest.cost >= 0 && cheapest.cost < kNegligible) {
    return cheapest.plan; // to look for a quicker way would take longer
  }
  consider(plan_scatter<T>);
  if (p.is_channels_last) {
    consider(plan_direct_channels<T>);
    consider(plan_gather_channels<T>);
  } else {
    consider(plan_disjoint<T>);
    consider(plan_walk<T>);
    consider(plan_walk_pairs<T>);
    consider(plan_gather<T>);
  }
  return cheapest.plan;
}

constexpr BackwardTable backward_table() {
  return {{plan_backward<double>, plan_backward<float>, plan_backward<Half>, plan_backward<Bfloat>}};
}

} // namespace
