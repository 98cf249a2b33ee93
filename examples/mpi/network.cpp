#include "network.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace {

constexpr std::size_t Sizes[] = {64, 256, 256, 16};
constexpr std::size_t Layers = 3, Samples = 4;

// Numbers in -1 .. 1; the same ones for the same seed.
struct Random {
  std::uint32_t seed;
  float operator()() {
    seed = seed * 1664525u + 1013904223u;
    return static_cast<float>(seed >> 8) / (1 << 23) - 1;
  }
};

// What is to be learned of 64 numbers: 16 numbers, each of four of them.
float target(const Floats &x, std::size_t i) {
  return std::sin(2 * x[4 * i] - x[4 * i + 1]) + x[4 * i + 2] * std::fabs(x[4 * i + 3]);
}

}  // namespace

std::vector<Part> network() {
  std::vector<Part> parts;
  std::size_t first = 0;
  const auto add = [&](std::string name, std::vector<std::size_t> dims) {
    parts.push_back({std::move(name), std::move(dims), first});
    first += parts.back().size();
  };
  for (std::size_t l = 0; l < Layers; l++) {
    const std::string name = "layers." + std::to_string(l);
    add(name + ".weight", {Sizes[l + 1], Sizes[l]});
    add(name + ".bias", {Sizes[l + 1]});
  }
  return parts;
}

Floats first_parameters(unsigned seed) {
  const std::vector<Part> parts = network();
  Floats params(parts.back().first + parts.back().size());
  Random random{seed};
  for (const Part &part : parts)
    if (part.dims.size() > 1)
      for (std::size_t i = 0; i < part.size(); i++)
        params[part.first + i] = random() / std::sqrt(static_cast<float>(part.row_len()));
  return params;
}

double loss_and_gradient(const Floats &params, unsigned step, unsigned microbatch,
                         Floats &gradient) {
  const std::vector<Part> parts = network();
  gradient.assign(params.size(), 0);
  Random random{(step * 64 + microbatch) * 7919u + 17u};
  double loss = 0;
  for (std::size_t sample = 0; sample < Samples; sample++) {
    std::vector<Floats> x{Floats(Sizes[0])};
    for (float &value : x[0]) value = random();
    for (std::size_t l = 0; l < Layers; l++) {
      const float *weight = &params[parts[2 * l].first], *bias = &params[parts[2 * l + 1].first];
      Floats y(Sizes[l + 1]);
      for (std::size_t i = 0; i < y.size(); i++) {
        float sum = bias[i];
        for (std::size_t j = 0; j < Sizes[l]; j++) sum += weight[i * Sizes[l] + j] * x[l][j];
        y[i] = l + 1 < Layers ? std::tanh(sum) : sum;
      }
      x.push_back(std::move(y));
    }
    Floats d(Sizes[Layers]);
    for (std::size_t i = 0; i < d.size(); i++) {
      const float error = x[Layers][i] - target(x[0], i);
      loss += static_cast<double>(error) * error / (Samples * d.size());
      d[i] = 2 * error / static_cast<float>(Samples * d.size());
    }
    for (std::size_t l = Layers; l-- > 0;) {
      const float *weight = &params[parts[2 * l].first];
      float *weight_grad = &gradient[parts[2 * l].first];
      float *bias_grad = &gradient[parts[2 * l + 1].first];
      Floats dx(Sizes[l]);
      for (std::size_t i = 0; i < d.size(); i++) {
        bias_grad[i] += d[i];
        for (std::size_t j = 0; j < Sizes[l]; j++) {
          weight_grad[i * Sizes[l] + j] += d[i] * x[l][j];
          dx[j] += d[i] * weight[i * Sizes[l] + j];
        }
      }
      for (std::size_t j = 0; j < dx.size(); j++) dx[j] *= 1 - x[l][j] * x[l][j];
      d = std::move(dx);
    }
  }
  return loss;
}
