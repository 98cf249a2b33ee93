// The optimizer in the backward pass: each layer takes its step as soon as its gradients are
// there, and one buffer holds the gradients of all layers in turn. The parameters are those
// of a step for all layers at once, bit by bit.
//
//    ./backward
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <sonew.hpp>
#include <string>
#include <vector>

using Floats = std::vector<float>;

constexpr std::size_t Batch = 64, Width = 32, Layers = 4, Steps = 200;

// Numbers in -1 .. 1; the same ones for the same seed.
struct Random {
  std::uint32_t seed;
  float operator()() {
    seed = seed * 1664525u + 1013904223u;
    return static_cast<float>(seed >> 8) / (1 << 23) - 1;
  }
};

// Layers of Width by Width, stored [out, in], with tanh in between.
struct Network {
  std::vector<Floats> weights;
  std::vector<Floats> x;  // what each layer is given: Batch rows

  Network() : weights(Layers, Floats(Width * Width)), x(Layers + 1, Floats(Batch * Width)) {
    Random random{1};
    for (Floats &weight : weights)
      for (float &w : weight) w = random() / std::sqrt(static_cast<float>(Width));
  }

  // The loss, and its gradient by the outputs: the network is to mirror its inputs.
  float forward(std::size_t step, Floats &dy) {
    Random random{static_cast<std::uint32_t>(step) * 7919u + 17u};
    for (float &value : x[0]) value = 0.5f * random();
    for (std::size_t l = 0; l < Layers; l++)
      for (std::size_t k = 0; k < Batch; k++)
        for (std::size_t i = 0; i < Width; i++) {
          float sum = 0;
          for (std::size_t j = 0; j < Width; j++)
            sum += weights[l][i * Width + j] * x[l][k * Width + j];
          x[l + 1][k * Width + i] = l + 1 < Layers ? std::tanh(sum) : sum;
        }
    float loss = 0;
    for (std::size_t i = 0; i < dy.size(); i++) {
      const float error = x[Layers][i] - x[0][i];
      loss += error * error / (Batch * Width);
      dy[i] = 2 * error / (Batch * Width);
    }
    return loss;
  }

  // The gradient of a layer's weights; dy becomes that by its inputs.
  void backward(std::size_t l, Floats &dy, Floats &grad) const {
    grad.assign(Width * Width, 0);
    Floats dx(Batch * Width);
    for (std::size_t k = 0; k < Batch; k++)
      for (std::size_t i = 0; i < Width; i++)
        for (std::size_t j = 0; j < Width; j++) {
          grad[i * Width + j] += dy[k * Width + i] * x[l][k * Width + j];
          dx[k * Width + j] += dy[k * Width + i] * weights[l][i * Width + j];
        }
    if (l > 0)
      for (std::size_t i = 0; i < dx.size(); i++) dx[i] *= 1 - x[l][i] * x[l][i];
    dy = dx;
  }
};

static sonew::Optimizer optimizer() {
  std::vector<sonew::Tensor> tensors;
  for (std::size_t l = 0; l < Layers; l++)
    tensors.push_back({"layers." + std::to_string(l), {Width, Width}});
  return sonew::Optimizer(tensors);
}

int main() try {
  Network network, other;
  sonew::Optimizer in_backward = optimizer(), at_once = optimizer();
  Floats dy(Batch * Width), grad;
  std::vector<Floats> grads(Layers);
  sonew::StepOptions step;
  step.lr = 0.01;
  for (std::size_t i = 0; i < Steps; i++) {
    const float loss = network.forward(i, dy);
    if (i % 50 == 0 || i == Steps - 1)
      std::printf("step %3zu   loss %8.5f\n", i, static_cast<double>(loss));
    for (std::size_t l = Layers; l-- > 0;) {
      network.backward(l, dy, grad);
      // The others have no gradient now, and stay as they are.
      std::vector<sonew::ConstBuffer> only(Layers);
      only[l] = grad;
      in_backward.step(network.weights, only, step);
    }
    other.forward(i, dy);
    for (std::size_t l = Layers; l-- > 0;) other.backward(l, dy, grads[l]);
    at_once.step(other.weights, grads, step);
  }
  if (network.weights != other.weights) {
    std::puts("the parameters differ");
    return 1;
  }
  std::puts("the same parameters as with one step for all layers, bit by bit");
} catch (const std::exception &error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
