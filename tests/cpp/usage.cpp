// Uses everything in the C++ binding as intended. argv[1] is a folder to write to.
#include "check.hpp"

#include <cmath>
#include <memory>
#include <stdexcept>
#include <thread>

// A 16-bit type of another library.
struct other_bfloat16 {
  unsigned short bits;
};
template <>
struct sonew::dtype_of<other_bfloat16> : sonew::is<sonew::Dtype::bf16> {};

using Floats = std::vector<float>;

static Floats numbers(std::size_t size, float start) {
  Floats numbers(size);
  for (std::size_t i = 0; i < size; i++) numbers[i] = start + 0.125f * static_cast<float>((i * 7) % 5);
  return numbers;
}

static sonew::Options options() {
  sonew::Options options;
  options.band = 2;
  options.threads = 2;
  options.graft = sonew::Graft::normalized_rmsprop;
  options.weight_decay = 0.01;
  return options;
}

static std::vector<sonew::Tensor> tensors() {
  sonew::Tensor weight{"fc1.weight", {3, 4}};
  weight.chains = sonew::Chains::strided;
  sonew::Tensor bias{"fc1.bias", {3}};
  bias.update = sonew::Update::adam;
  return {weight, bias};
}

// The defaults are the library's.
static void defaults() {
  sonew_options c;
  CHECK(sonew_options_init(&c, sizeof c) == SONEW_OK);
  const sonew::Options o;
  CHECK(o.band == c.band && o.threads == c.threads && o.beta1 == c.beta1 && o.beta2 == c.beta2);
  CHECK(o.eps == c.eps && o.gamma == c.gamma && o.graft_eps == c.graft_eps);
  CHECK(o.weight_decay == c.weight_decay && o.seed == c.seed);
  CHECK(o.statistics == sonew::Statistics::moving_average && o.damping == sonew::Damping::relative_lagged);
  CHECK(o.graft == sonew::Graft::adam && o.rounding == sonew::Rounding::nearest);
  CHECK(o.bias_correction && o.graft_bias_correction && o.lagged_norms == -1 && !o.nesterov);
  CHECK(o.instruction_set == sonew::Isa::automatic && o.struct_size == c.struct_size);
  CHECK(o.pooling == sonew::Pooling::none && o.shrink == c.shrink && o.rank == c.rank);
  const sonew::StepOptions s;
  CHECK(s.lr == 0.001 && s.grad_scale == 1 && s.statistics_weight == 1 && s.clip_norm == 0);
  CHECK(s.beta1 == -1 && s.beta2 == -1);
  CHECK(s.non_finite == sonew::NonFinite::skip);
  const sonew::TensorBuffers b;
  CHECK(b.lr_scale == 1 && b.weight_decay == 0 && b.step_number == 0 && !b.grad && !b.scalars);
  const sonew::Tensor t("w", {2, 3});
  CHECK(t.name == "w" && t.dims.size() == 2 && t.chains == sonew::Chains::contiguous);
  CHECK(t.update == sonew::Update::sonew && t.dtype == sonew::Dtype::by_default);
  const sonew::LoadOptions l;
  CHECK(l.renames.empty() && l.mode == sonew::LoadMode::read && !l.convert_state);
  CHECK(l.paths.empty() && t.first_row == 0 && t.whole_rows == 0);
}

// Optimizers and plans that share a pool, which is destroyed before them.
static void pools() {
  std::vector<sonew::Optimizer> optimizers;
  std::vector<sonew::Plan> plans;
  {
    const sonew::Pool pool(3);
    sonew::Options sharing = options();
    sharing.threads = 0;
    sharing.pool = pool.get();
    for (int i = 0; i < 2; i++) {
      optimizers.emplace_back(tensors(), sharing);
      plans.emplace_back(tensors(), sharing);
    }
  }
  Floats weight = numbers(12, 1), bias = numbers(3, -1);
  for (sonew::Optimizer &optimizer : optimizers) {
    CHECK(optimizer.info().threads == 3);
    optimizer.step({weight, bias}, {numbers(12, 0), numbers(3, 0)});
  }
}

// Buffers are made of whatever has contiguous elements.
static void buffers() {
  Floats vector{1, 2, 3};
  std::array<double, 2> array{1, 2};
  float plain[4] = {1, 2, 3, 4}, number = 5;
  other_bfloat16 few[2] = {};
  const Floats constant{1};
  CHECK(sonew::Buffer(vector).size() == 3 && sonew::Buffer(vector).data() == vector.data());
  CHECK(sonew::Buffer(array).dtype() == sonew::Dtype::f64 && sonew::Buffer(array).size() == 2);
  CHECK(sonew::Buffer(plain).size() == 4 && sonew::Buffer(number).data() == &number);
  CHECK(sonew::Buffer(vector.data(), 2).size() == 2);
  CHECK(sonew::Buffer(few).dtype() == sonew::Dtype::bf16);
  CHECK(sonew::ConstBuffer(constant).size() == 1 && !sonew::ConstBuffer(nullptr));
  CHECK(sonew::ConstBuffer(sonew::Buffer(vector)).data() == vector.data());
  CHECK(sonew::Buffer(sonew::Span<float>(vector.data(), 3)).size() == 3);
  CHECK(sonew::ConstBuffer(number).data() == &number && sonew::ConstBuffer(0.5).size() == 1);
#ifdef __cpp_lib_span
  CHECK(sonew::Buffer(std::span<float>(vector)).size() == 3);
  const std::span<float> there = sonew::Span<float>(vector.data(), 3);
  CHECK(there.data() == vector.data() && there.size() == 3);
#endif
  // Lists of them.
  std::vector<Floats> layers{vector, constant};
  CHECK(sonew::Buffers(layers).size() == 2 && sonew::Buffers(layers)[1].size() == 1);
  CHECK(sonew::Buffers(vector).size() == 1 && sonew::Buffers{vector, array}.size() == 2);
  CHECK(sonew::ConstBuffers{constant, nullptr}.size() == 2);
  CHECK(sonew::ConstBuffers(std::vector<sonew::ConstBuffer>{constant}).size() == 1);
  CHECK(sonew::Buffers().empty());
}

static void information(sonew::Optimizer &optimizer) {
  const sonew_optimizer_info info = optimizer.info();
  CHECK(info.tensor_count == 2 && info.threads == 2 && info.step_count == 0);
  CHECK(info.state_bytes == (5 * 12 + 2 * 3) * sizeof(float));
  CHECK(info.memory_bytes >= info.state_bytes && *info.instruction_set);
  const std::size_t bias = optimizer.find_tensor("fc1.bias");
  CHECK(bias == 1);
  sonew_settings settings = optimizer.settings(bias);
  CHECK(settings.lr_scale == 1 && settings.weight_decay == 0.01 && settings.step_count == 0);
  settings.lr_scale = 0.5;
  settings.weight_decay = 0;
  optimizer.set_settings(bias, settings);
  settings = optimizer.settings(bias);
  CHECK(settings.lr_scale == 0.5 && settings.weight_decay == 0);
  CHECK(optimizer.settings(0).weight_decay == 0.01 && optimizer.settings(0).lr_scale == 1);
  CHECK(optimizer.plane("fc1.weight", "band.2").plane_count == 5);
  const sonew::Tensor weight = optimizer.tensor(0), copy = weight;
  CHECK(copy.name == "fc1.weight" && copy.dims == std::vector<std::size_t>{3, 4});
  CHECK(copy.chains == sonew::Chains::strided && copy.state_dtype == sonew::Dtype::f32);
  CHECK(optimizer.tensor(1).update == sonew::Update::adam);
}

static void views(const sonew::Optimizer &optimizer) {
  const sonew::View view = optimizer.plane("fc1.weight", "momentum");
  CHECK(std::string(view.tensor) == "fc1.weight" && std::string(view.plane) == "momentum");
  CHECK(view.len == 12 && view.ndim == 2 && view.dims[0] == 3);
  CHECK(view.dtype == sonew::Dtype::f32 && view.data == view.as<float>().data());
  double sum = 0;
  for (float m : view.as<float>()) sum += static_cast<double>(m);
  CHECK(sum > 0);
  CHECK(std::string(optimizer.plane(1, 1).plane) == "diagonal");
  THROWS(SONEW_DTYPE_DIFFERS, "tensor \"fc1.weight\": momentum has type F32, expected F64",
         view.as<double>());
}

static void steps_and_files(const std::string &folder) {
  const std::string path = folder + "/usage.safetensors";
  Floats weight = numbers(12, 1), bias = numbers(3, -1);
  const Floats weight_grad = numbers(12, 0.2f), bias_grad = numbers(3, 0.1f);
  sonew::Optimizer optimizer(tensors(), options());
  information(optimizer);
  sonew::StepOptions step;
  step.lr = 0.1;
  step.clip_norm = 1;
  optimizer.step({weight, bias}, {weight_grad, nullptr}, step);
  CHECK(bias == numbers(3, -1) && weight != numbers(12, 1));
  optimizer.step({weight, bias}, {weight_grad, bias_grad}, step);
  CHECK(optimizer.step_count() == 2 && optimizer.info().gradient_norm > 0);
  CHECK(optimizer.settings(0).step_count == 2 && optimizer.settings(1).step_count == 1);
  CHECK(optimizer.plane("fc1.bias", "diagonal").step_count == 1);
  CHECK(bias != numbers(3, -1));
  views(optimizer);

  // A gradient that is not finite skips the step.
  Floats bad = bias_grad;
  bad[1] = NAN;
  const Floats before = weight;
  CHECK(!optimizer.try_step({weight, bias}, {weight_grad, bad}));
  bool skipped = false;
  try {
    optimizer.step({weight, bias}, {weight_grad, bad});
  } catch (const sonew::non_finite_gradient &error) {
    skipped = std::string(error.what()).find("tensor \"fc1.bias\"") == 0;
  }
  CHECK(skipped && optimizer.step_count() == 2 && weight == before);

  // A loaded optimizer continues with the same bits.
  optimizer.save(path, {weight, bias});
  sonew::verify(path);
  sonew::Optimizer resumed(tensors(), options());
  Floats resumed_weight(12), resumed_bias(3);
  resumed.load(path, {resumed_weight, resumed_bias});
  CHECK(resumed_weight == weight && resumed_bias == bias && resumed.step_count() == 2);
  CHECK(resumed.settings(1).lr_scale == 0.5 && resumed.settings(1).step_count == 1);
  CHECK(resumed.try_step({resumed_weight, resumed_bias}, {weight_grad, bias_grad}, step));
  optimizer.step({weight, bias}, {weight_grad, bias_grad}, step);
  CHECK(resumed_weight == weight && resumed_bias == bias);

  // In the background, and under other names.
  sonew::Saving saving = optimizer.save_begin(folder + "/background.safetensors", {weight, bias});
  saving.finish();
  { const sonew::Saving waits = optimizer.save_begin(folder + "/waits.safetensors"); }
  sonew::verify(folder + "/waits.safetensors");
  sonew::Tensor w{"w", {3, 4}};
  w.chains = sonew::Chains::strided;
  sonew::Optimizer renamed({w}, options());
  sonew::LoadOptions load;
  load.renames = {{"fc1.weight", "w"}};
  load.common_tensors_only = true;
  load.mode = sonew::LoadMode::map_private;
  renamed.load(folder + "/background.safetensors", {}, load);
  CHECK(renamed.step_count() == 3);
  load.renames.clear();
  load.mode = sonew::LoadMode::read;
  THROWS(SONEW_TENSOR_MISSING, "\"w\"", renamed.load(path, {}, load));

  // A live file.
  optimizer.make_live(folder + "/live.safetensors");
  optimizer.step({weight, bias}, {weight_grad, bias_grad}, step);
  optimizer.sync();
  THROWS(SONEW_NOT_LIVE, "", resumed.sync());
  {
    const sonew::Optimizer gone = std::move(optimizer);
    CHECK(gone.step_count() == 4);
    THROWS(SONEW_NULL_POINTER, "optimizer is null", optimizer.step_count());
  }
  sonew::LoadOptions shared;
  shared.mode = sonew::LoadMode::map_shared;
  resumed.load(folder + "/live.safetensors", {}, shared);
  CHECK(resumed.step_count() == 4);

  // Assigned to, it frees what it had.
  optimizer = sonew::Optimizer({{"x"}});
  CHECK(optimizer.info().tensor_count == 1);
  static_assert(!std::is_copy_constructible<sonew::Optimizer>::value &&
                    std::is_nothrow_move_constructible<sonew::Optimizer>::value,
                "one owner");
}

// Every element type, master weights, and a scalar.
static void types() {
  sonew::Tensor mixed{"mixed", {4}};
  mixed.dtype = sonew::Dtype::bf16;
  mixed.grad_dtype = sonew::Dtype::f32;
  mixed.state_dtype = sonew::Dtype::bf16;
  mixed.master = true;
  sonew::Tensor half{"half", {2}};
  half.dtype = sonew::Dtype::f16;
  sonew::Tensor exact{"exact"};
  exact.dtype = sonew::Dtype::f64;
  sonew::Options options;
  options.rounding = sonew::Rounding::stochastic;
  options.seed = 7;
  sonew::Optimizer optimizer({mixed, half, exact}, options);
  other_bfloat16 a[4] = {};
  sonew::f16 b[2] = {}, b_grad[2] = {{0x3c00}, {0xbc00}};
  double c = 1;
  const float a_grad[4] = {1, -1, 2, -2};
  optimizer.step({a, b, c}, {a_grad, b_grad, 0.5});
  CHECK(a[0].bits & 0x8000 && !(a[1].bits & 0x8000));
  CHECK(b[0].bits & 0x8000 && !(b[1].bits & 0x8000) && c < 1);
  CHECK(optimizer.plane("mixed", "master").as<float>()[0] < 0);
  CHECK(optimizer.plane("mixed", "momentum").as<sonew::bf16>().size() == 4);
  CHECK(optimizer.plane("exact", "diagonal").as<double>()[0] > 0);
  optimizer.reset_master();
  CHECK(optimizer.plane("mixed", "master").as<float>()[0] == 0);
}

// The optimizer is a plan with its state.
static void plan() {
  Floats weight = numbers(12, 1), same = weight, u(12);
  const Floats grad = numbers(12, 0.2f);
  sonew::Options absolute;
  absolute.damping = sonew::Damping::absolute;  // needs no scalars
  sonew::Optimizer optimizer({{"w", {3, 4}}}, absolute);
  sonew::Plan plan({{"w", {3, 4}}}, absolute);
  const std::vector<sonew::Plane> needed = plan.planes(0);
  std::vector<Floats> planes(needed.size(), Floats(12));
  CHECK(planes.size() == 3 && needed[2].name == "band.1");
  CHECK(needed[2].dtype == sonew::Dtype::f32);
  sonew::TensorBuffers buffers;
  buffers.params = same;
  buffers.grad = grad;
  buffers.planes = planes;
  for (std::uint64_t number = 1; number <= 3; number++) {
    optimizer.step(weight, grad);
    plan.step(number, {buffers});
  }
  CHECK(same == weight);
  CHECK(planes[0][5] == optimizer.plane(0, 0).as<float>()[5]);
  sonew::Optimizer other({{"w", {3, 4}}});
  other.set_state(3, planes);
  CHECK(other.step_count() == 3 && other.plane(0, 2).as<float>()[5] == planes[2][5]);
  THROWS(SONEW_WRONG_LENGTH, "tensor \"w\": momentum has 3 elements, expected 12",
         other.set_state(3, {Floats(3), planes[1], planes[2]}));
  buffers.params = {};
  buffers.direction = u;
  CHECK(plan.try_step(4, {buffers}));
  CHECK(same == weight && u != Floats(12));
  const sonew::Plan moved = std::move(plan);
  CHECK(moved.planes(0).size() == 3);
}

// A tensor that has had no gradient for long begins as in a fresh optimizer.
static void step_counts() {
  sonew::Options plain;
  plain.graft = sonew::Graft::none;
  plain.damping = sonew::Damping::absolute;  // needs no scalars
  const std::vector<sonew::Tensor> tensors{{"a", {3}}, {"b", {3}}};
  const Floats grad = numbers(3, 0.1f);
  Floats a(3), b(3), fresh(3);
  sonew::Optimizer first(tensors, plain), second(tensors, plain);
  first.step({a, fresh}, {nullptr, grad});
  for (int i = 0; i < 1000; i++) second.step({a, b}, {grad, nullptr});
  second.step({a, b}, {grad, grad});
  CHECK(b == fresh && b != Floats(3));
  CHECK(second.step_count() == 1001 && second.settings(1).step_count == 1);
  sonew_settings counted = second.settings(1);
  counted.step_count = 7;
  second.set_settings(1, counted);
  CHECK(second.settings(0).step_count == 1001 && second.settings(1).step_count == 7);

  sonew::Plan plan(tensors, plain);
  std::vector<Floats> of_b(3, Floats(3));
  std::vector<sonew::TensorBuffers> buffers(2);  // The first has no gradient, and nothing else.
  b = Floats(3);
  buffers[1].params = b;
  buffers[1].grad = grad;
  buffers[1].planes = of_b;
  buffers[1].step_number = 1;
  plan.step(1001, buffers);
  CHECK(b == fresh);
}

// A plan whose caller keeps the scalars does what an optimizer does.
static void scalars(const std::string &folder) {
  sonew::Options lagged;
  lagged.lagged_norms = lagged.nesterov = true;
  const Floats grad = numbers(12, 0.3f);
  Floats weight = numbers(12, 1), same = weight;
  sonew::Optimizer optimizer({{"w", {3, 4}}}, lagged);
  sonew::Plan plan({{"w", {3, 4}}}, lagged);
  std::vector<Floats> planes(3, Floats(12));
  std::array<double, SONEW_SCALARS> kept{};
  sonew::TensorBuffers buffers;
  buffers.params = same;
  buffers.grad = grad;
  buffers.planes = planes;
  THROWS(SONEW_NULL_POINTER, "the scalars of tensor", plan.step(1, {buffers}));
  buffers.scalars = &kept;
  sonew::StepOptions step;
  for (std::uint64_t number = 1; number < 5; number++) {
    step.beta1 = number == 2 ? 0.8 : -1;
    optimizer.step(weight, grad, step);
    plan.step(number, {buffers}, step);
    CHECK(same == weight && kept[0] > 0);
    const sonew_settings settings = optimizer.settings(0);
    CHECK(std::equal(kept.begin(), kept.end(), settings.scalars));
    optimizer.set_settings(0, settings);
  }
  optimizer.save(folder + "/lagged");
  const sonew::Options saved = sonew::File(folder + "/lagged").options();
  CHECK(saved.lagged_norms && saved.nesterov);
  // One minus the product of the betas.
  CHECK(std::abs(kept[1] - (1 - 0.9 * 0.8 * 0.9 * 0.9)) < 1e-15);
}

// Which rows belong together.
static void block_rows() {
  sonew::Tensor lines("w", {1000, 64});
  lines.chains = sonew::Chains::contiguous_lines;
  CHECK(sonew::block_rows(lines) == 128 && sonew::block_rows({"w", {1000, 64}}) == 1000);
  lines.dims[0] = 100;
  lines.first_row = 100;
  lines.whole_rows = 1000;
  const Floats grad(6400);
  Floats weight(6400);
  sonew::Optimizer optimizer({lines});
  auto stages = optimizer.stages(weight, grad);
  THROWS(SONEW_BLOCK_CUT, "tensor \"w\": 100 rows from row 100 on of 1000", stages.blocks());
}

// The sums of a shard with pooled correlations go out and come back.
static void partial_sums() {
  sonew::Options options;
  options.pooling = sonew::Pooling::band;
  options.band = 1;
  sonew::Tensor part("w", {4, 3});
  part.first_row = 2;
  part.whole_rows = 9;
  sonew::Tensor wide = part;
  wide.name = "wide";
  wide.state_dtype = sonew::Dtype::f64;
  sonew::Optimizer optimizer({part, wide}, options);
  CHECK(optimizer.partial_sums_size(0) == 6 && optimizer.partial_sums_size(1) == 6);
  Floats a = numbers(12, 1), b = a;
  const Floats grad = numbers(12, 0.2f);
  optimizer.step({a, b}, {grad, grad});
  THROWS(SONEW_PARTIAL_SUMS, "tensor \"w\" is a shard", optimizer.step({a, b}, {grad, grad}));
  Floats sums(6);
  std::vector<double> doubles(6);
  optimizer.partial_sums(0, sums);
  optimizer.partial_sums(1, doubles);
  for (std::size_t i = 0; i < 6; i++) CHECK(std::abs(doubles[i] - sums[i]) < 1e-6);
  CHECK(sums[0] > 0 && sums[5] == 0);
  THROWS(SONEW_DTYPE_DIFFERS, "the partial sums has type F32", optimizer.partial_sums(1, sums));
  THROWS(SONEW_DTYPE_DIFFERS, "the reduced sums has type F64",
         optimizer.set_reduced_sums(0, doubles));
  THROWS(SONEW_WRONG_LENGTH, "the reduced sums has 12 elements, expected 6",
         optimizer.set_reduced_sums(0, a));
  THROWS(SONEW_UNKNOWN_TENSOR, "", optimizer.partial_sums_size(2));
  optimizer.set_reduced_sums(0, sums);
  optimizer.set_reduced_sums(1, doubles);
  optimizer.step({a, b}, {grad, grad});
}

// A step in stages whose numbers are not changed gives the same as a step.
static void stages(const std::string &folder) {
  Floats weight = numbers(12, 1), same = weight, own = weight;
  const Floats grad = numbers(12, 0.2f);
  sonew::Options relative;
  relative.damping = sonew::Damping::relative;
  relative.eps = 1e-3;
  sonew::Optimizer optimizer({{"w", {3, 4}}}, relative), staged({{"w", {3, 4}}}, relative);
  sonew::Plan plan({{"w", {3, 4}}}, relative);
  std::vector<Floats> planes(3, Floats(12));
  sonew::TensorBuffers buffers;
  buffers.params = own;
  buffers.grad = grad;
  buffers.planes = planes;
  optimizer.step(weight, grad);
  std::vector<sonew::Stage> reached;
  auto steps = staged.stages(same, grad);
  auto plan_steps = plan.stages(1, {buffers});
  for (sonew::Stage stage; (stage = steps.next()) != sonew::Stage::done;) {
    reached.push_back(stage);
    CHECK(plan_steps.next() == stage && plan_steps.numbers()[0] == steps.numbers()[0]);
    CHECK(steps.numbers().size() == 2 && steps.numbers()[0] > 0);
    // The tensor is one block, which gives the numbers again.
    const std::vector<double> by_block = steps.block_numbers();
    CHECK(steps.blocks() == std::vector<std::size_t>{1} && by_block == plan_steps.block_numbers());
    steps.numbers()[0] = steps.numbers()[1] = -1;
    steps.combine(by_block);
    CHECK(steps.numbers()[0] == by_block[0] && steps.numbers()[1] == by_block[1]);
    THROWS(SONEW_WRONG_LENGTH, "there are 4 numbers of blocks, expected 2",
           steps.combine({1, 2, 3, 4}));
  }
  CHECK(plan_steps.next() == sonew::Stage::done);
  CHECK(reached == std::vector<sonew::Stage>{sonew::Stage::gradient_squares,
                                             sonew::Stage::largest_l1, sonew::Stage::norms});
  CHECK(same == weight && own == weight && staged.step_count() == 1);
  // A finished step in stages does not end another one.
  {
    const auto over = std::move(steps);
    CHECK(plan.stages(2, {buffers}).next() == sonew::Stage::gradient_squares);
  }
  auto second = staged.stages(same, grad);
  { const auto moved = std::move(second); }
  // Destroying it changes nothing; aborting it too late throws.
  CHECK(same == weight);
  auto third = staged.stages(same, grad);
  third.next();
  third.abort();
  THROWS(SONEW_BAD_HANDLE, "stages is not a live handle", third.next());
  auto fourth = staged.stages(same, grad);
  THROWS(SONEW_IN_STAGES, "finish it first", staged.save(folder + "/never"));
  THROWS(SONEW_IN_STAGES, "finish it first", (void)staged.stages(same, grad));
  fourth.next();
  fourth.numbers()[0] = NAN;
  THROWS(SONEW_NON_FINITE_GRADIENT, "tensor \"w\"", fourth.next());
  THROWS(SONEW_BAD_HANDLE, "stages is not a live handle", fourth.abort());
  auto fifth = staged.stages(same, grad);
  fifth.next();
  fifth.next();
  fifth.numbers()[0] = -1;
  THROWS(SONEW_OUT_OF_RANGE, "the largest l1 of tensor \"w\" is -1", fifth.next());
  THROWS(SONEW_STATE_WRITTEN, "can only be finished", fifth.abort());
  CHECK(same == weight && staged.step_count() == 1);
}

// An exception between two stages ends the step, and the optimizer can be used again:
// aborted while that is possible, later finished with its own numbers, as if nothing
// had been reduced.
static void exceptions_in_stages(const std::string &folder) {
  sonew::Options relative;
  relative.damping = sonew::Damping::relative;
  relative.eps = 1e-3;
  const std::vector<sonew::Tensor> model{{"w", {3, 4}}, {"b", {3}}};
  const Floats grad = numbers(12, 0.2f), bias_grad = numbers(3, 0.5f);
  for (const bool live : {false, true})
    for (int reached = 0; reached <= 3; reached++) {
      Floats weight = numbers(12, 1), bias = numbers(3, 1), same = weight, same_bias = bias;
      sonew::Optimizer staged(model, relative), whole(model, relative);
      if (live) staged.make_live(folder + "/exception.safetensors");
      staged.step({weight, bias}, {grad, bias_grad});
      whole.step({same, same_bias}, {grad, bias_grad});
      bool caught = false;
      try {
        auto stages = staged.stages({weight, bias}, {grad, bias_grad});
        for (int i = 0; i < reached; i++) {
          stages.next();
          // Another machine's share was added to a part of them.
          if (i + 1 == reached) stages.numbers()[2] *= 7;
        }
        throw std::runtime_error("the network is down");
      } catch (const std::runtime_error &) {
        caught = true;
      }
      CHECK(caught);
      const bool finished = !live && reached >= 2;
      if (finished) whole.step({same, same_bias}, {grad, bias_grad});
      CHECK(staged.step_count() == (finished ? 2u : 1u));
      CHECK(weight == same && bias == same_bias);
      staged.save(folder + "/after.safetensors");
      staged.step({weight, bias}, {grad, bias_grad});
      whole.step({same, same_bias}, {grad, bias_grad});
      CHECK(weight == same && bias == same_bias);
    }
  // A plan's step is aborted at any stage.
  for (int reached = 0; reached <= 3; reached++) {
    sonew::Plan plan({{"w", {12}}}, relative);
    Floats weight = numbers(12, 1);
    const Floats before = weight;
    std::vector<Floats> planes(3, Floats(12));
    sonew::TensorBuffers buffers;
    buffers.params = weight;
    buffers.grad = grad;
    buffers.planes = planes;
    try {
      auto stages = plan.stages(1, {buffers});
      for (int i = 0; i < reached; i++) stages.next();
      throw std::runtime_error("the network is down");
    } catch (const std::runtime_error &) {
    }
    CHECK(weight == before);
    plan.step(1, {buffers});
  }
  // The optimizer may be gone before its step in stages.
  Floats weight = numbers(12, 1);
  auto first = std::make_unique<sonew::Optimizer>(std::vector<sonew::Tensor>{{"w", {12}}});
  auto stages = first->stages(weight, grad);
  stages.next();
  stages.next();
  first.reset();
  THROWS(SONEW_BAD_HANDLE, "stages is not a live handle", stages.next());
}

// Every use of an object that was moved from says so, and it can be assigned to.
static void moved_from(const std::string &folder) {
  Floats weight(6), grad(6);
  const std::string path = folder + "/moved.safetensors";
  sonew::Optimizer optimizer({{"w", {6}}});
  optimizer.save(path, weight);
  sonew::Optimizer taken = std::move(optimizer);
  const char *null = "optimizer is null";
  THROWS(SONEW_NULL_POINTER, null, optimizer.step(weight, grad));
  THROWS(SONEW_NULL_POINTER, null, optimizer.step({}, {}));
  THROWS(SONEW_NULL_POINTER, null, (void)optimizer.try_step(weight, grad));
  THROWS(SONEW_NULL_POINTER, null, (void)optimizer.stages(weight, grad));
  THROWS(SONEW_NULL_POINTER, null, optimizer.save(path));
  THROWS(SONEW_NULL_POINTER, null, optimizer.save(path, weight));
  THROWS(SONEW_NULL_POINTER, null, (void)optimizer.save_begin(path, weight));
  THROWS(SONEW_NULL_POINTER, null, optimizer.load(path));
  THROWS(SONEW_NULL_POINTER, null, optimizer.load(path, weight));
  THROWS(SONEW_NULL_POINTER, null, optimizer.make_live(path));
  THROWS(SONEW_NULL_POINTER, null, optimizer.sync());
  THROWS(SONEW_NULL_POINTER, null, optimizer.reset_master());
  THROWS(SONEW_NULL_POINTER, null, optimizer.settings(0));
  THROWS(SONEW_NULL_POINTER, null, optimizer.find_tensor("w"));
  THROWS(SONEW_NULL_POINTER, null, optimizer.get());
  THROWS(SONEW_NULL_POINTER, null, optimizer.plane("w", "momentum"));
  THROWS(SONEW_NULL_POINTER, "is null", optimizer.set_state(0, {}));
  THROWS(SONEW_NULL_POINTER, null, optimizer.set_state(0, {weight, weight, weight}));
  optimizer = std::move(taken);
  optimizer.step(weight, grad);
  sonew::Optimizer &itself = optimizer;
  optimizer = std::move(itself);
  optimizer.step(weight, grad);
  CHECK(optimizer.step_count() == 2);

  std::vector<Floats> planes(3, Floats(6));
  sonew::TensorBuffers buffers;
  buffers.params = weight;
  buffers.grad = grad;
  buffers.planes = planes;
  sonew::Options absolute;
  absolute.damping = sonew::Damping::absolute;  // needs no scalars
  sonew::Plan plan({{"w", {6}}}, absolute);
  sonew::Plan other = std::move(plan);
  THROWS(SONEW_NULL_POINTER, "plan is null", plan.step(1, {buffers}));
  THROWS(SONEW_NULL_POINTER, "plan is null", plan.step(1, {}));
  THROWS(SONEW_NULL_POINTER, "plan is null", (void)plan.try_step(1, {buffers}));
  THROWS(SONEW_NULL_POINTER, "plan is null", (void)plan.stages(1, {buffers}));
  THROWS(SONEW_NULL_POINTER, "plan is null", plan.planes(0));
  plan = std::move(other);
  sonew::Plan &the_plan = plan;
  plan = std::move(the_plan);
  plan.step(1, {buffers});

  sonew::Saving saving = optimizer.save_begin(path);
  sonew::Saving later = std::move(saving);
  THROWS(SONEW_NULL_POINTER, "saving is null", saving.finish());
  later.finish();
  THROWS(SONEW_BAD_HANDLE, "saving is not a live handle", later.finish());
  saving = std::move(later);
  THROWS(SONEW_BAD_HANDLE, "saving is not a live handle", saving.finish());
  THROWS(SONEW_NULL_POINTER, "saving is null", later.finish());
  saving = optimizer.save_begin(path);
  saving.finish();

  auto stages = optimizer.stages(weight, grad);
  auto rest = std::move(stages);
  THROWS(SONEW_NULL_POINTER, "stages is null", stages.next());
  THROWS(SONEW_NULL_POINTER, "stages is null", stages.abort());
  THROWS(SONEW_NULL_POINTER, "stages is null", stages.numbers());
  while (rest.next() != sonew::Stage::done) {
  }
  CHECK(optimizer.step_count() == 3);
}

// A file without an optimizer, and an optimizer without anything else.
static void contents_of_files(const std::string &folder) {
  const std::string path = folder + "/contents.safetensors";
  sonew::Options options;
  options.graft = sonew::Graft::sgd;
  options.seed = 9;
  std::vector<sonew::Tensor> model{{"a", {2, 3}}, {"b", {4}}};
  model[0].chains = sonew::Chains::contiguous_lines;
  sonew::Optimizer optimizer(model, options);
  Floats a(6, 1), b(4, 2), a_grad(6, 0.5f), b_grad(4, -1);
  sonew_settings decay = optimizer.settings(1);
  decay.weight_decay = 0.25;
  optimizer.set_settings(1, decay);
  optimizer.step({a, b}, {a_grad, nullptr});
  optimizer.save(path, {a, b});

  sonew::File file(path);
  const sonew_contents info = file.info();
  CHECK(info.step_count == 1 && info.tensor_count == 2 && info.format == 4);
  CHECK(info.parameters && !info.live && !info.unsynced);
  CHECK(info.file_bytes > 1000 && file.options().graft == sonew::Graft::sgd);
  CHECK(file.options().seed == 9 && file.options().threads == 0);
  const sonew::Tensor b_in_file = file.tensor(1);
  CHECK(b_in_file.name == "b" && b_in_file.dims == std::vector<std::size_t>{4});
  CHECK(b_in_file.state_dtype == sonew::Dtype::f32);
  CHECK(file.tensor(0).chains == sonew::Chains::contiguous_lines);
  const sonew_settings settings = file.settings(1);
  CHECK(settings.weight_decay == 0.25 && settings.step_count == 0 && settings.lr_scale == 1);
  const char *const arrays[] = {"momentum", "diagonal", "band.1", "parameter"};
  const std::vector<sonew::Plane> told = file.arrays(1);
  CHECK(told.size() == 4);
  for (std::size_t i = 0; i < 4; i++)
    CHECK(told[i].name == arrays[i] && told[i].dtype == sonew::Dtype::f32);
  Floats read(6), other(4);
  file.read(0, "parameter", read);
  file.read(1, "parameter", other);
  CHECK(read == a && other == b);
  Floats momentum(6);
  file.read(0, "momentum", momentum);
  CHECK(momentum[5] == optimizer.plane("a", "momentum").as<float>()[5]);
  THROWS(SONEW_WRONG_LENGTH, "\"b\": momentum has 6 elements", file.read(1, "momentum", a));
  std::vector<double> wide(6);
  THROWS(SONEW_DTYPE_DIFFERS, "F64, expected F32", file.read(0, "momentum", wide));
  THROWS(SONEW_PLANE_MISSING, "no rms", file.read(0, "rms", read));
  THROWS(SONEW_UNKNOWN_TENSOR, "2", file.tensor(2));
  THROWS(SONEW_IO, "none", sonew::File(folder + "/none"));

  auto opened = sonew::Optimizer::open(path);
  CHECK(opened.settings(1).weight_decay == 0.25 && opened.plane(1, 0).plane_count == 3);
  opened.step({read, other}, {a_grad, b_grad});
  optimizer.step({a, b}, {a_grad, b_grad});
  CHECK(read == a && other == b);
  THROWS(SONEW_WRONG_LENGTH, "\"b\"", opened.step({read, a}, {a_grad, b_grad}));
  THROWS(SONEW_NOT_A_LIVE_FILE, path,
         (void)sonew::Optimizer::open(path, sonew::LoadMode::map_shared));

  // The same in another type of state.
  std::vector<sonew::Tensor> tensors = file.tensors();
  for (sonew::Tensor &tensor : tensors) tensor.state_dtype = sonew::Dtype::bf16;
  sonew::Optimizer smaller(tensors, file.options());
  sonew::LoadOptions load;
  THROWS(SONEW_DTYPE_DIFFERS, "F32 in the file, BF16", smaller.load(path, {}, load));
  load.convert_state = true;
  smaller.load(path, {read, other}, load);
  CHECK(smaller.step_count() == 1);
  CHECK(smaller.tensor(0).state_dtype == sonew::Dtype::bf16);
  sonew::File moved = std::move(file);
  THROWS(SONEW_NULL_POINTER, "file is null", file.info());
  CHECK(moved.info().tensor_count == 2);
}

// Chains that share their correlations: their sums are a plane of another shape.
static void pooled(const std::string &folder) {
  const std::string path = folder + "/pooled.safetensors";
  sonew::Options options;
  options.pooling = sonew::Pooling::band;
  options.band = 4;
  std::vector<sonew::Tensor> model{{"w", {20, 6}}};
  model[0].chains = sonew::Chains::contiguous_lines;
  sonew::Optimizer optimizer(model, options);
  sonew::Plan plan(model, options);
  Floats weight = numbers(120, 1), same = weight;
  const Floats grad = numbers(120, 0.2f);
  const std::vector<sonew::Plane> needed = plan.planes(0);
  CHECK(needed.size() == 3 && needed[2].name == "pooled" && needed[2].len == 2 * 5 * 6);
  std::vector<Floats> planes;
  for (const sonew::Plane &plane : needed) planes.emplace_back(plane.len);
  sonew::TensorBuffers buffers;
  buffers.params = same;
  buffers.grad = grad;
  buffers.planes = planes;
  std::array<double, SONEW_SCALARS> kept{};
  buffers.scalars = &kept;
  optimizer.step(weight, grad);
  plan.step(1, {buffers});
  CHECK(same == weight);
  const sonew::View view = optimizer.plane("w", "pooled");
  CHECK(view.ndim == 3 && view.dims[0] == 2 && view.dims[1] == 5 && view.dims[2] == 6);
  CHECK(view.as<float>()[30] > 0 && view.as<float>()[30] == planes[2][30]);
  optimizer.save(path);
  const sonew::File file(path);
  Floats read(60);
  file.read(0, "pooled", read);
  CHECK(read == planes[2]);
  THROWS(SONEW_WRONG_LENGTH, "pooled has 120 elements, expected 60", file.read(0, "pooled", same));
  sonew::Optimizer other(model, options);
  other.set_state(1, planes);
  std::vector<Floats> wrong{planes[0], planes[1], planes[0]};
  buffers.planes = wrong;
  THROWS(SONEW_WRONG_LENGTH, "pooled has 120 elements, expected 60", plan.step(2, {buffers}));
  for (const auto pooling : {sonew::Pooling::rank, sonew::Pooling::all}) {
    options.pooling = pooling;
    options.rank = 4;
    sonew::Optimizer one(model, options);
    const sonew::View sums = one.plane("w", "pooled");
    const bool is_rank = pooling == sonew::Pooling::rank;
    CHECK(sums.len == (is_rank ? (3 * 4 + 2) * 6 : 2 * 6 * 6));
    one.step(weight, grad);
    CHECK(sums.as<float>()[is_rank ? 5 * 6 : 6 * 6] > 0);
  }
  options.pooling = sonew::Pooling::rank;
  options.rank = 65;
  THROWS(SONEW_OUT_OF_RANGE, "options.rank", sonew::Optimizer(model, options));
  options.pooling = sonew::Pooling::all;
  std::vector<sonew::Tensor> wide{{"wide", {2, 4097}}};
  THROWS(SONEW_OUT_OF_RANGE, "\"wide\" has chains of 4097", sonew::Optimizer(wide, options));
  options.shrink = 1;
  THROWS(SONEW_OUT_OF_RANGE, "options.shrink", sonew::Optimizer(model, options));
}

// What two processes have saved of a matrix, each its rows, is loaded by one with all rows.
static void shards(const std::string &folder) {
  sonew::Options options;
  options.graft = sonew::Graft::none;  // whose norm would be that of the whole matrix
  const auto rows = [](std::size_t first, std::size_t count) {
    sonew::Tensor tensor{"w", {count, 3}};
    tensor.chains = sonew::Chains::contiguous_lines;
    tensor.first_row = first;
    tensor.whole_rows = 4;
    return std::vector<sonew::Tensor>{tensor};
  };
  Floats weight = numbers(12, 1), loaded(12);
  const Floats grad = numbers(12, 0.2f);
  const std::vector<std::string> paths{folder + "/shard-0", folder + "/shard-1"};
  sonew::Optimizer whole(rows(0, 4), options);
  for (std::size_t i = 0; i < 2; i++) {
    const std::size_t first = i == 0 ? 0 : 1, at = 3 * first, size = i == 0 ? 3 : 9;
    Floats own(&weight[at], &weight[at] + size);
    sonew::Optimizer process(rows(first, size / 3), options);
    process.step(own, sonew::ConstBuffer(&grad[at], size));
    process.save(paths[i], own);
  }
  whole.step(weight, grad);
  const sonew::Tensor tensor = sonew::File(paths[1]).tensor(0);
  CHECK(tensor.dims[0] == 3 && tensor.first_row == 1 && tensor.whole_rows == 4);

  sonew::LoadOptions load;
  load.paths = {paths[1]};
  sonew::Optimizer other(rows(0, 4), options);
  other.load(paths[0], loaded, load);
  CHECK(loaded == weight && other.step_count() == 1);
  whole.step(weight, grad);
  other.step(loaded, grad);
  CHECK(loaded == weight);
}

// One object in two threads: one of them waits for its turn.
static void busy() {
  sonew::Optimizer shared({{"w", {100000}}});
  const Floats grad(100000);
  int counts[2] = {};
  const auto work = [&](int &count) {
    Floats weight(100000);
    while (count < 20) try {
        shared.step(weight, grad);
        count++;
      } catch (const sonew::error &error) {
        CHECK(error.status() == SONEW_BUSY);
        std::this_thread::yield();
      }
  };
  std::thread other(work, std::ref(counts[0]));
  work(counts[1]);
  other.join();
  CHECK(shared.step_count() == 40);
}

int main(int, char **argv) {
  defaults();
  pools();
  buffers();
  steps_and_files(argv[1]);
  types();
  plan();
  step_counts();
  scalars(argv[1]);
  block_rows();
  partial_sums();
  stages(argv[1]);
  exceptions_in_stages(argv[1]);
  moved_from(argv[1]);
  contents_of_files(argv[1]);
  pooled(argv[1]);
  shards(argv[1]);
  busy();
  CHECK(sonew::version() == std::to_string(SONEW_VERSION_MAJOR) + "." +
                                std::to_string(SONEW_VERSION_MINOR) + "." +
                                std::to_string(SONEW_VERSION_PATCH));
  std::puts("all used");
}
