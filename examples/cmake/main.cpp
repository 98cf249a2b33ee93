// The smallest program that steps.
#include <cstdio>
#include <sonew.hpp>

int main() {
  sonew::Optimizer optimizer({{"w", {3}}});
  std::vector<double> w{1, 2, 3};
  try {
    optimizer.step(w, std::vector<double>{1, 0, -1});
  } catch (const sonew::error &error) {
    std::printf("as it should be: %s\n", error.what());
  }
  std::vector<float> v{1, 2, 3}, grad{1, 0, -1};
  optimizer.step(v, grad);
  std::printf("sonew %s: %g %g %g\n", sonew::version().c_str(), double{v[0]}, double{v[1]}, double{v[2]});
}
