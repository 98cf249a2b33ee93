// Bad input throws with a message that names the tensor and the value, and
// leaks nothing. argv[1] is a folder to write to.
#include "check.hpp"

#include <cmath>

using Floats = std::vector<float>;
using sonew::Optimizer;
using sonew::Options;

int main(int, char **argv) {
  const std::string folder = argv[1];
  Floats a(6), b(2), grad_a(6), grad_b(2);
  Optimizer optimizer({{"a", {2, 3}}, {"b", {2}}});

  // Creation.
  THROWS(SONEW_NO_TENSORS, "list of tensors is empty", Optimizer(std::vector<sonew::Tensor>{}));
  THROWS(SONEW_DUPLICATE_NAME, "two tensors are named \"a\"", Optimizer({{"a"}, {"a"}}));
  THROWS(SONEW_TENSOR_NAME, "needs at least one character", Optimizer({{"", {1}}}));
  THROWS(SONEW_INVALID_STRING, "has a NUL", Optimizer({{std::string("a\0b", 3), {1}}}));
  THROWS(SONEW_INVALID_STRING, "tensors[0].name is not valid UTF-8", Optimizer({{"\xff", {1}}}));
  THROWS(SONEW_TOO_MANY_DIMENSIONS, "tensor \"a\" has 9 dimensions",
         Optimizer({{"a", {1, 1, 1, 1, 1, 1, 1, 1, 1}}}));
  THROWS(SONEW_SIZE_OVERFLOW, "tensor \"a\"", Optimizer({{"a", {SIZE_MAX, 2}}}));
  THROWS(SONEW_OUT_OF_MEMORY, "momentum of tensor \"a\"", Optimizer({{"a", {std::size_t{1} << 55}}}));
  Options options;
  options.band = 17;
  THROWS(SONEW_OUT_OF_RANGE, "band is 17", Optimizer({{"a"}}, options));
  options.band = -1;
  THROWS(SONEW_OUT_OF_RANGE, "band is -1", sonew::Plan({{"a"}}, options));
  options = Options();
  options.beta2 = NAN;
  THROWS(SONEW_OUT_OF_RANGE, "beta2 is NaN", Optimizer({{"a"}}, options));
  options = Options();
  options.graft = 77;
  THROWS(SONEW_UNKNOWN_VALUE, "graft is 77", Optimizer({{"a"}}, options));
  THROWS(SONEW_OUT_OF_RANGE, "threads is -1", sonew::Pool(-1));
  THROWS(SONEW_PROCESSOR, "processors[0] is 8191", sonew::Pool(1, {8191}));
  sonew::Pool pool(2);
  options = Options();
  options.threads = 2;
  options.pool = pool.get();
  THROWS(SONEW_OUT_OF_RANGE, "threads is 2, must be 0 with a pool", Optimizer({{"a"}}, options));
  const sonew::Pool elsewhere = std::move(pool);
  THROWS(SONEW_NULL_POINTER, "pool is null: it was moved from", options.pool = pool.get());
  sonew::Tensor half{"a", {2}};
  half.state_dtype = sonew::Dtype::f16;
  THROWS(SONEW_STATE_DTYPE, "tensor \"a\"", Optimizer({half}));

  // Steps.
  THROWS(SONEW_TENSOR_COUNT, "params has 1 tensors, expected 2", optimizer.step({a}, {grad_a, grad_b}));
  THROWS(SONEW_TENSOR_COUNT, "grads has 3 tensors, expected 2",
         optimizer.step({a, b}, {grad_a, grad_b, grad_b}));
  THROWS(SONEW_WRONG_LENGTH, "tensor \"b\": the parameter has 6 elements, expected 2",
         optimizer.step({a, a}, {grad_a, grad_b}));
  THROWS(SONEW_WRONG_LENGTH, "tensor \"a\": the gradient has 2 elements, expected 6",
         optimizer.step({a, b}, {grad_b, grad_b}));
  std::vector<double> doubles(6);
  THROWS(SONEW_DTYPE_DIFFERS, "tensor \"a\": the gradient has type F64, expected F32",
         optimizer.step({a, b}, {doubles, grad_b}));
  THROWS(SONEW_DTYPE_DIFFERS, "tensor \"a\": the parameter has type F64, expected F32",
         optimizer.step({doubles, b}, {grad_a, grad_b}));
  THROWS(SONEW_NULL_POINTER, "the parameter of tensor \"b\"",
         optimizer.step({a, nullptr}, {grad_a, grad_b}));
  THROWS(SONEW_OVERLAP, "of tensor \"b\"",
         optimizer.step({a, sonew::Buffer(a.data() + 4, 2)}, {grad_a, grad_b}));
  const auto misaligned = reinterpret_cast<float *>(reinterpret_cast<char *>(a.data()) + 1);
  THROWS(SONEW_MISALIGNED, "tensor \"b\": the parameter at 0x",
         optimizer.step({a, sonew::Buffer(misaligned, 2)}, {grad_a, grad_b}));
  sonew::StepOptions step;
  step.lr = -1;
  THROWS(SONEW_OUT_OF_RANGE, "lr is -1", optimizer.step({a, b}, {grad_a, grad_b}, step));
  grad_b[1] = INFINITY;
  THROWS(SONEW_NON_FINITE_GRADIENT, "tensor \"b\"", optimizer.step({a, b}, {grad_a, grad_b}));
  CHECK(optimizer.step_count() == 0 && a == Floats(6) && b == Floats(2));

  // Settings and views.
  sonew_settings settings = optimizer.settings(0);
  THROWS(SONEW_UNKNOWN_TENSOR, "there is no tensor 2", optimizer.tensor(2));
  THROWS(SONEW_UNKNOWN_TENSOR, "there is no tensor 2", optimizer.settings(2));
  THROWS(SONEW_UNKNOWN_TENSOR, "there is no tensor 2", optimizer.set_settings(2, settings));
  settings.lr_scale = -1;
  THROWS(SONEW_OUT_OF_RANGE, "lr_scale of tensor \"a\" is -1", optimizer.set_settings(0, settings));
  settings.lr_scale = 1;
  settings.weight_decay = INFINITY;
  THROWS(SONEW_OUT_OF_RANGE, "weight_decay of tensor \"b\" is inf", optimizer.set_settings(1, settings));
  THROWS(SONEW_UNKNOWN_TENSOR, "no tensor named \"c\"", optimizer.find_tensor("c"));
  THROWS(SONEW_UNKNOWN_TENSOR, "no tensor named \"c\"", optimizer.plane("c", "momentum"));
  THROWS(SONEW_UNKNOWN_PLANE, "tensor \"b\" has no state plane named \"rms\"", optimizer.plane("b", "rms"));
  THROWS(SONEW_UNKNOWN_PLANE, "tensor \"a\" has no state plane 3", optimizer.plane(0, 3));

  // Files.
  THROWS(SONEW_IO, folder + "/none", optimizer.load(folder + "/none"));
  THROWS(SONEW_IO, "cannot create", optimizer.save(folder + "/none/x", {a, b}));
  THROWS(SONEW_INVALID_STRING, "path has a NUL", optimizer.save(std::string("a\0b", 3)));
  THROWS(SONEW_WRONG_LENGTH, "tensor \"a\": the parameter has 2 elements, expected 6",
         optimizer.save(folder + "/x", {b, b}));
  THROWS(SONEW_TENSOR_COUNT, "params has 1 tensors", optimizer.load(folder + "/x", {a}));
  optimizer.save(folder + "/good.safetensors");
  THROWS(SONEW_PLANE_MISSING, "tensor \"a\": the file has no parameter",
         optimizer.load(folder + "/good.safetensors", {a, b}));
  THROWS(SONEW_TENSOR_DIFFERS, "tensor \"b\": dims is [2] in the file, [3] in the optimizer",
         Optimizer({{"a", {2, 3}}, {"b", {3}}}).load(folder + "/good.safetensors"));
  sonew::LoadOptions load;
  load.renames = {{"a", "x"}};
  THROWS(SONEW_RENAME, "cannot rename \"a\" to \"x\"", optimizer.load(folder + "/good.safetensors", {}, load));
  load.renames.clear();
  load.paths = {std::string("a\0b", 3)};
  THROWS(SONEW_INVALID_STRING, "a path has a NUL", optimizer.load(folder + "/good.safetensors", {}, load));
  load.paths = {folder + "/none"};
  THROWS(SONEW_IO, folder + "/none", optimizer.load(folder + "/good.safetensors", {}, load));
  sonew::Tensor row{"a", {1, 3}};
  row.whole_rows = 2;
  Optimizer({row, {"b", {2}}}).save(folder + "/row.safetensors");
  load.paths.clear();
  THROWS(SONEW_ROWS_MISSING, "tensor \"a\": rows [1, 2)", optimizer.load(folder + "/row.safetensors", {}, load));
  row.first_row = 2;
  THROWS(SONEW_SHARD, "tensor \"a\": 1 rows from row 2 on", Optimizer({row}));
  THROWS(SONEW_IO, "none", sonew::verify(folder + "/none"));
  sonew::Saving saving = optimizer.save_begin(folder + "/none/x");
  THROWS(SONEW_IO, "none", saving.finish());
  THROWS(SONEW_BAD_HANDLE, "saving is not a live handle", saving.finish());

  // Plans.
  sonew::Options absolute;
  absolute.damping = sonew::Damping::absolute;  // needs no scalars
  sonew::Plan plan({{"w", {2}}}, absolute);
  sonew::TensorBuffers buffers;
  Floats w(2), planes(6);
  buffers.params = w;
  buffers.grad = grad_a;
  THROWS(SONEW_WRONG_LENGTH, "tensor \"w\": the gradient has 6 elements, expected 2", plan.step(1, {buffers}));
  buffers.grad = b;
  THROWS(SONEW_PLANE_COUNT, "tensor \"w\": 0 state planes were passed, expected 3", plan.step(1, {buffers}));
  buffers.planes = {planes, planes, planes};
  THROWS(SONEW_WRONG_LENGTH, "tensor \"w\": momentum has 6 elements, expected 2", plan.step(1, {buffers}));
  buffers.planes = {doubles, doubles, doubles};
  THROWS(SONEW_DTYPE_DIFFERS, "tensor \"w\": momentum has type F64, expected F32", plan.step(1, {buffers}));
  Floats m(2), h(2), e(2);
  buffers.planes = {m, h, e};
  THROWS(SONEW_OUT_OF_RANGE, "step number is 0", plan.step(0, {buffers}));
  buffers.direction = e;
  THROWS(SONEW_AMBIGUOUS_TARGET, "tensor \"w\"", plan.step(1, {buffers}));
  THROWS(SONEW_TENSOR_COUNT, "buffers has 0 tensors, expected 1", plan.step(1, {}));
  THROWS(SONEW_UNKNOWN_TENSOR, "there is no tensor 1", plan.planes(1));

  std::puts("all refused");
}
