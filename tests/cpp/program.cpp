// What programs around the library need, in C++: one buffer for all tensors, texts,
// checkpoints in memory, options by group, copies. argv[1] is a folder to write to.
#include "check.hpp"

using Floats = std::vector<float>;

static std::vector<sonew::Tensor> tensors() { return {{"w", {3, 4}}, {"b", {3}}}; }

static void one_buffer() {
  sonew::Optimizer one(tensors()), many(tensors());
  Floats all(15, 1.0f), grads(15, 0.25f), w(12, 1.0f), b(3, 1.0f), wg(12, 0.25f), bg(3, 0.25f);
  one.step(one.flat_params(all), one.flat_grads(grads));
  many.step({w, b}, {wg, bg});
  CHECK(Floats(all.begin(), all.begin() + 12) == w && Floats(all.begin() + 12, all.end()) == b);
  const auto parts = one.flat_params(all, {3, 0});
  CHECK(parts[0].data() == &all[3] && parts[0].size() == 12 && parts[1].data() == &all[0]);
  Floats longer(16, 1.0f);
  THROWS(SONEW_WRONG_LENGTH, "has 16 elements, they have 15 together", one.flat_params(longer));
  THROWS(SONEW_OUT_OF_RANGE, "tensor \"w\": 12 elements from offset 4", one.flat_grads(all, {4, 0}));
  THROWS(SONEW_TENSOR_COUNT, "offsets has 1 tensors, expected 2", one.flat_grads(all, {4}));
  std::vector<double> doubles(15);
  THROWS(SONEW_DTYPE_DIFFERS, "one buffer for all", one.flat_params(doubles));
}

static void texts(const std::string &path) {
  sonew::Optimizer optimizer(tensors());
  optimizer.set_text("epoch", "3");
  optimizer.set_text("rng", "1 2");
  optimizer.remove_text("rng");
  CHECK(optimizer.text("epoch") == "3" && !optimizer.text("rng"));
  optimizer.save(path);
  const auto texts = sonew::File(path).texts();
  CHECK(texts.size() == 1 && texts.at("epoch") == "3");
  sonew::Optimizer opened = sonew::Optimizer::open(path);
  CHECK(opened.text("epoch") == "3");
}

static void memory() {
  sonew::Optimizer first(tensors()), second(tensors());
  Floats w(12, 1.0f), b(3, 1.0f), wg(12, 0.25f), bg(3, 0.25f);
  first.step({w, b}, {wg, bg});
  const std::vector<unsigned char> bytes = first.save_to_memory({w, b});
  Floats v(12), c(3);
  second.load_from_memory(bytes.data(), bytes.size(), {v, c});
  CHECK(v == w && c == b && second.step_count() == 1);
}

static void groups(const std::string &path) {
  sonew::Options options, group = options;
  group.band = 3;
  group.weight_decay = 0.1;
  auto grouped = tensors();
  grouped[0].options = group;
  sonew::Optimizer optimizer(grouped, options);
  CHECK(optimizer.options().band == options.band && optimizer.tensor(0).options->band == 3);
  CHECK(optimizer.tensors()[1].name == "b" && !optimizer.tensor(1).options);
  CHECK(optimizer.settings(0).weight_decay == 0.1);
  Floats w(12, 1.0f), b(3, 1.0f), wg(12, 0.25f), bg(3, 0.25f);
  optimizer.step({w, b}, {wg, bg});
  optimizer.save(path);
  sonew::File file(path);
  sonew::Optimizer made(file.tensors(), file.options());
  made.load(path);
  grouped[0].options->weight_decay = 0.2;
  sonew::Optimizer other(grouped, options);
  THROWS(SONEW_TENSOR_DIFFERS, "name \"weight_decay\" in the overrides", other.load(path));
  sonew::LoadOptions load;
  load.overrides = {"weight_decay"};
  other.load(path, {}, load);

  // A copy goes the same way, and one that begins anew does not.
  sonew::Optimizer copy = optimizer.clone();
  Floats v = w, c = b;
  optimizer.step({w, b}, {wg, bg});
  copy.step({v, c}, {wg, bg});
  CHECK(v == w && c == b && copy.find_tensor("b") == 1);
  copy.reset();
  CHECK(copy.step_count() == 0 && optimizer.step_count() == 2);
}

int main(int, char **argv) {
  const std::string folder = argv[1];
  one_buffer();
  texts(folder + "/texts.safetensors");
  memory();
  groups(folder + "/groups.safetensors");
  std::puts("all used");
}
