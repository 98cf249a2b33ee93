// Each function has the lines of a block of the documents, NAME.inc, in the place that a program
// has for them.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <sonew.hpp>
#include <vector>

#define CHECK(condition) \
  do { if (!(condition)) { std::fprintf(stderr, "%d: %s\n", __LINE__, #condition); std::exit(1); } } while (0)

// What the blocks take from other libraries, as far as they do.
namespace Eigen {
struct bfloat16 {
  std::uint16_t bits;
};
}
namespace torch {
struct Tensor {
  std::vector<float> *values = nullptr, *gradient = nullptr;
  Tensor grad() const { return {gradient, nullptr}; }
  bool defined() const { return values != nullptr; }
  template <class T> T *data_ptr() const { return values->data(); }
  std::int64_t numel() const { return static_cast<std::int64_t>(values->size()); }
};
struct Model {
  std::vector<Tensor> list;
  std::vector<Tensor> parameters() const { return list; }
};
}
enum { MPI_MAX, MPI_SUM };

#include "type.inc"
static_assert(sonew::dtype_of<Eigen::bfloat16>::value == sonew::Dtype::bf16);

static void compute_gradients(const std::vector<float> &w, const std::vector<float> &b,
                              std::vector<float> &w_grad, std::vector<float> &b_grad) {
  w_grad[0] = w[0] - 1;
  b_grad[0] = b[0] - 1;
}

static void first() {
  std::vector<float> weight(1000 * 784), weight_grad(1000 * 784), bias(1000), bias_grad(1000);
#include "first.inc"
  CHECK(weight[0] > 0.01f && bias[0] > 0.01f);
}

static void options() {
  sonew::Pool pool(1);
#include "options.inc"
  std::vector<float> w(4), grad(4, 1.0f);
  sonew::Optimizer optimizer({{"w", {4}}}, options);
  optimizer.step(w, grad);
  CHECK(w[3] < 0);
}

static int reductions = 0;
template <class Numbers> static void all_reduce(Numbers numbers, int op) {
  CHECK(numbers.size() == 4 && (op == MPI_MAX || op == MPI_SUM));
  reductions++;
}

static void stages() {
  std::vector<float> weight(6), bias(2), weight_grad(6, 1.0f), bias_grad(2, 1.0f);
  sonew::Optimizer optimizer({{"weight", {2, 3}}, {"bias", {2}}});
#include "stages.inc"
  CHECK(reductions > 0 && weight[5] < 0 && bias[1] < 0);
}

static void flat() {
  std::vector<float> all(8), all_grads(8, 1.0f);
  sonew::Optimizer optimizer({{"weight", {2, 3}}, {"bias", {2}}});
#include "flat.inc"
  CHECK(all[7] < 0);
}

static void file() {
  std::vector<float> params(4);
  {
    const std::vector<float> saved(4, 5.0f);
    sonew::Optimizer({{"w", {4}}}).save("step-1000.safetensors", saved);
  }
#include "file.inc"
  CHECK(params[3] == 5);
}

static void of_torch() {
  std::vector<float> a(4), a_grad(4, 1.0f), b(4);
  const auto model = std::make_shared<torch::Model>();
  model->list = {{&a, &a_grad}, {&b, nullptr}};
  sonew::Optimizer optimizer({{"a", {4}}, {"b", {4}}});
  sonew::StepOptions step;
#include "torch.inc"
  CHECK(a[3] < 0 && b[3] == 0);
}

int main() {
  first();
  options();
  stages();
  flat();
  file();
  of_torch();
  std::puts("every block of C++ has run");
}
