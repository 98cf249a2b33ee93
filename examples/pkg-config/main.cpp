// Minimises |w - 1|^2 / 2.
#include <cstdio>
#include <sonew.hpp>
#include <vector>

int main() {
  std::vector<float> w(10), grad(10);
  sonew::Optimizer optimizer({{"w", {10}}});
  sonew::StepOptions step;
  step.lr = 0.05;
  for (int i = 0; i < 200; i++) {
    for (std::size_t j = 0; j < w.size(); j++) grad[j] = w[j] - 1;
    optimizer.step(w, grad, step);
  }
  std::printf("after %d steps w is %.1f\n", static_cast<int>(optimizer.step_count()), double{w[9]});
}
