// A small network from scratch, with a checkpoint: 2 -> 32 -> 32 -> 1, tanh,
// learns a surface. Then a second run continues from the checkpoint in the middle
// and ends with the same bits as the first, which never stopped.
//
//    ./train [checkpoint.safetensors]
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <sonew.hpp>
#include <string>
#include <vector>

using Floats = std::vector<float>;

constexpr std::size_t Batch = 64, Steps = 400, Checkpoint = 200;

// Numbers in -1 .. 1; the same ones for the same seed.
struct Random {
  std::uint32_t seed;
  float operator()() {
    seed = seed * 1664525u + 1013904223u;
    return static_cast<float>(seed >> 8) / (1 << 23) - 1;
  }
};

// y = W x + b and its gradients. Weights are stored [out, in].
struct Layer {
  std::size_t in, out;
  Floats weight, bias, weight_grad, bias_grad;

  Layer(std::size_t in, std::size_t out, Random &random)
      : in(in), out(out), weight(out * in), bias(out), weight_grad(out * in), bias_grad(out) {
    for (float &w : weight) w = random() / std::sqrt(static_cast<float>(in));
  }

  Floats forward(const Floats &x) const {
    Floats y = bias;
    for (std::size_t i = 0; i < out; i++)
      for (std::size_t j = 0; j < in; j++) y[i] += weight[i * in + j] * x[j];
    return y;
  }

  // Adds to the gradients, and gives that of x.
  Floats backward(const Floats &x, const Floats &dy) {
    Floats dx(in);
    for (std::size_t i = 0; i < out; i++) {
      bias_grad[i] += dy[i];
      for (std::size_t j = 0; j < in; j++) {
        weight_grad[i * in + j] += dy[i] * x[j];
        dx[j] += dy[i] * weight[i * in + j];
      }
    }
    return dx;
  }
};

struct Network {
  std::vector<Layer> layers;

  Network() {
    Random random{1};
    for (auto [in, out] : {std::pair{2, 32}, {32, 32}, {32, 1}})
      layers.emplace_back(static_cast<std::size_t>(in), static_cast<std::size_t>(out), random);
  }

  // The loss of the batch of one step; leaves its gradient in the layers.
  float loss_and_gradient(std::size_t step) {
    for (Layer &layer : layers) {
      layer.weight_grad.assign(layer.weight.size(), 0);
      layer.bias_grad.assign(layer.bias.size(), 0);
    }
    Random random{static_cast<std::uint32_t>(step) * 7919u + 17u};
    float loss = 0;
    for (std::size_t k = 0; k < Batch; k++) {
      std::vector<Floats> x{{random(), random()}};
      for (const Layer &layer : layers) {
        x.push_back(layer.forward(x.back()));
        if (x.size() <= layers.size())
          for (float &h : x.back()) h = std::tanh(h);
      }
      const float error = x.back()[0] - std::sin(3 * x[0][0]) * std::cos(2 * x[0][1]);
      loss += error * error / Batch;
      Floats d{2 * error / Batch};
      for (std::size_t l = layers.size(); l-- > 0;) {
        d = layers[l].backward(x[l], d);
        for (std::size_t i = 0; i < d.size(); i++) d[i] *= 1 - x[l][i] * x[l][i];
      }
    }
    return loss;
  }

  sonew::Optimizer optimizer() const {
    sonew::Options options;
    std::vector<sonew::Tensor> tensors;
    for (std::size_t l = 0; l < layers.size(); l++) {
      const std::string name = "layers." + std::to_string(l);
      tensors.push_back({name + ".weight", {layers[l].out, layers[l].in}});
      tensors.push_back({name + ".bias", {layers[l].out}});
      tensors.back().update = sonew::Update::adam;
    }
    return sonew::Optimizer(tensors, options);
  }

  std::vector<sonew::Buffer> params() {
    std::vector<sonew::Buffer> list;
    for (Layer &layer : layers) list.insert(list.end(), {layer.weight, layer.bias});
    return list;
  }

  std::vector<sonew::ConstBuffer> grads() const {
    std::vector<sonew::ConstBuffer> list;
    for (const Layer &layer : layers) list.insert(list.end(), {layer.weight_grad, layer.bias_grad});
    return list;
  }

  bool operator==(const Network &other) const {
    for (std::size_t l = 0; l < layers.size(); l++)
      if (layers[l].weight != other.layers[l].weight || layers[l].bias != other.layers[l].bias)
        return false;
    return true;
  }
};

// Trains to the end, from wherever the optimizer is.
void train(Network &network, sonew::Optimizer &optimizer, const std::string &checkpoint) {
  sonew::StepOptions step;
  for (std::size_t i = optimizer.step_count(); i < Steps; i++) {
    if (i == Checkpoint && !checkpoint.empty()) optimizer.save(checkpoint, network.params());
    const float loss = network.loss_and_gradient(i);
    if (i % 50 == 0 || i == Steps - 1)
      std::printf("step %3zu   loss %8.5f\n", i, static_cast<double>(loss));
    step.lr = 0.02 * (1 - static_cast<double>(i) / Steps);  // decays to 0
    optimizer.step(network.params(), network.grads(), step);
  }
}

int main(int argc, char **argv) try {
  const std::string checkpoint = argc > 1 ? argv[1] : "train.safetensors";
  Network first, resumed;
  sonew::Optimizer optimizer = first.optimizer();
  train(first, optimizer, checkpoint);

  std::printf("\nonce more, from %s\n", checkpoint.c_str());
  optimizer = resumed.optimizer();
  optimizer.load(checkpoint, resumed.params());
  train(resumed, optimizer, "");

  const bool same = first == resumed;
  std::puts(same ? "the same parameters, bit by bit" : "the parameters differ");
  return !same;
} catch (const std::exception &error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
