// A small network on Eigen's matrices, with a checkpoint: 2 -> 32 -> 32 -> 1, tanh, learns
// a surface in batches. Then a second run continues from the checkpoint in the middle and
// ends with the same bits as the first, which never stopped.
//
//    c++ -std=c++17 -O2 -I/usr/include/eigen3 eigen.cpp -lsonew -o eigen
//    ./eigen [checkpoint.safetensors]
#include <Eigen/Dense>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <sonew.hpp>
#include <string>
#include <vector>

using Eigen::Index;
using Matrix = Eigen::MatrixXf;
using Vector = Eigen::VectorXf;

constexpr Index Batch = 64;
constexpr std::size_t Steps = 400, Checkpoint = 200;

// Numbers in -1 .. 1; the same ones for the same seed.
struct Random {
  std::uint32_t seed;
  float operator()() {
    seed = seed * 1664525u + 1013904223u;
    return static_cast<float>(seed >> 8) / (1 << 23) - 1;
  }
  Matrix matrix(Index rows, Index columns) {
    return Matrix::NullaryExpr(rows, columns, [this] { return (*this)(); });
  }
};

// Y = W X + b and its gradients; a column of X and Y is an example of the batch.
struct Layer {
  Matrix weight, weight_grad;  // out x in
  Vector bias, bias_grad;

  Layer(Index in, Index out, Random &random)
      : weight(random.matrix(out, in) / std::sqrt(static_cast<float>(in))),
        bias(Vector::Zero(out)) {}

  Matrix forward(const Matrix &x) const { return (weight * x).colwise() + bias; }

  // Sets the gradients, and gives that of x.
  Matrix backward(const Matrix &x, const Matrix &dy) {
    weight_grad = dy * x.transpose();
    bias_grad = dy.rowwise().sum();
    return weight.transpose() * dy;
  }
};

struct Network {
  std::vector<Layer> layers;

  Network() {
    Random random{1};
    for (auto [in, out] : {std::pair{2, 32}, {32, 32}, {32, 1}}) layers.emplace_back(in, out, random);
  }

  // The loss of the batch of one step; leaves its gradient in the layers.
  float loss_and_gradient(std::size_t step) {
    Random random{static_cast<std::uint32_t>(step) * 7919u + 17u};
    std::vector<Matrix> x{random.matrix(2, Batch)};
    for (const Layer &layer : layers) {
      x.push_back(layer.forward(x.back()));
      if (x.size() <= layers.size()) x.back() = x.back().array().tanh();
    }
    const auto goal = (3 * x[0].row(0).array()).sin() * (2 * x[0].row(1).array()).cos();
    const Matrix error = x.back().array() - goal;
    Matrix d = 2 * error / Batch;
    for (std::size_t l = layers.size(); l-- > 0;) {
      d = layers[l].backward(x[l], d);
      if (l > 0) d.array() *= 1 - x[l].array().square();
    }
    return error.squaredNorm() / Batch;
  }

  sonew::Optimizer optimizer() const {
    sonew::Options options;
    std::vector<sonew::Tensor> tensors;
    for (std::size_t l = 0; l < layers.size(); l++) {
      const std::string name = "layers." + std::to_string(l);
      const Matrix &weight = layers[l].weight;
      // Eigen stores a matrix by columns, and a tensor lists its slowest dimension first.
      // The inputs of a unit, along which chains should run, lie a column apart.
      tensors.push_back({name + ".weight", {weight.cols(), weight.rows()}});
      tensors.back().chains = sonew::Chains::strided;
      tensors.push_back({name + ".bias", {layers[l].bias.size()}});
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
  const std::string checkpoint = argc > 1 ? argv[1] : "eigen.safetensors";
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
