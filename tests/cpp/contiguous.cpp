// What is one contiguous run of elements is a buffer as it is. With REFUSED defined, each
// line that has a comment "no:" must not compile, with a message that has these words.
#include "check.hpp"

#include <deque>
#include <list>
#include <memory>
#include <valarray>

using Floats = std::vector<float>;
using sonew::Buffer;
using sonew::Buffers;
using sonew::ConstBuffer;
using sonew::ConstBuffers;
using sonew::LastingBuffer;

// A container of a program's own, whose iterators are pointers.
template <class T>
struct Own {
  T numbers[4];
  T *data() { return numbers; }
  const T *data() const { return numbers; }
  T *begin() { return numbers; }
  T *end() { return numbers + 4; }
  const T *begin() const { return numbers; }
  const T *end() const { return numbers + 4; }
  std::size_t size() const { return 4; }
};

// A view that may have strides, as those of several libraries: it says how many elements
// it has and where they begin, but not that they are contiguous.
struct Strided {
  float *first;
  float *data() const { return first; }
  std::size_t size() const { return 3; }
};

// An allocator of a program's own.
template <class T>
struct Allocator : std::allocator<T> {
  Allocator() = default;
  template <class U>
  Allocator(const Allocator<U> &) {}
  template <class U>
  struct rebind {
    using other = Allocator<U>;
  };
};

static Floats make() { return {1, 2}; }
static std::vector<Floats> make_list() { return {{1, 2}, {3}}; }

static void accepted() {
  Floats vector{1, 2, 3};
  std::vector<double, Allocator<double>> aligned(5);
  Own<float> own{};
  const Own<float> constant{};
  std::array<float, 2> array{};
  float number = 0, matrix[2][3] = {}, cube[2][3][4] = {};
  struct Derived : Floats {
    using Floats::Floats;
  } derived(7);
  CHECK(Buffer(vector).data() == vector.data() && Buffer(vector).size() == 3);
  CHECK(Buffer(aligned).size() == 5 && Buffer(aligned).dtype() == sonew::Dtype::f64);
  CHECK(Buffer(own).data() == own.numbers && Buffer(own).size() == 4);
  CHECK(ConstBuffer(constant).size() == 4 && Buffer(array).size() == 2 && Buffer(derived).size() == 7);
  CHECK(Buffer(number).data() == &number && Buffer(number).size() == 1);
  CHECK(Buffer(matrix).data() == matrix && Buffer(matrix).size() == 6);
  CHECK(Buffer(cube).size() == 24 && Buffers(cube).size() == 1 && Buffers(matrix).size() == 1);
  CHECK(Buffer(sonew::Span<float>(vector.data(), 2)).size() == 2);  // A view may be a temporary.
  const int length = 2;
  CHECK(Buffer(vector.data(), length).size() == 2);
#ifdef __cpp_lib_span
  CHECK(Buffer(std::span<float>(vector).first(2)).size() == 2);
  CHECK(LastingBuffer(std::span<const float>(vector)).size() == 3);
#endif

  // Temporaries can be read during the call.
  CHECK(ConstBuffer(make()).size() == 2 && ConstBuffers(make_list()).size() == 2);

  // Lists.
  std::vector<Floats> layers{vector, {1}};
  std::deque<Floats> deque{vector, {1}};
  std::list<Buffer> list{vector, own, number};
  CHECK(Buffers(layers).size() == 2 && Buffers(deque).size() == 2 && Buffers(list).size() == 3);
  CHECK(ConstBuffers(deque)[0].data() == deque[0].data());
  CHECK(Buffers{layers}.size() == 2 && Buffers{vector}.size() == 1);
  CHECK(Buffers(std::vector<Buffer>{vector, number}).size() == 2);
  CHECK(Buffers{vector, matrix, nullptr}[1].size() == 6);
#ifdef __cpp_lib_span
  CHECK(Buffers(std::span<Floats>(layers)).size() == 2);  // A view of containers.
#endif

  // Dimensions of any type of integers.
  const std::ptrdiff_t rows = 3;
  const int columns = 4;
  const std::array<long, 2> dims{3, 4};
  enum { Few = 3, Many };
  const std::vector<std::size_t> expected{3, 4};
  CHECK(sonew::Tensor("a", {rows, columns}).dims == expected);
  CHECK(sonew::Tensor("a", dims).dims == expected && sonew::Tensor("a", expected).dims == expected);
  CHECK(sonew::Tensor("a", {Few, Many}).dims == expected && sonew::Tensor("a", {}).dims.empty());
  THROWS(SONEW_OUT_OF_RANGE, "a dimension is -3", sonew::Tensor("a", {-rows, 4}));
}

// Objects that are moved to themselves are as they were.
static void moved_to_itself() {
  sonew::Options absolute;
  absolute.damping = sonew::Damping::absolute;  // needs no scalars
  sonew::Optimizer optimizer({{"a", {2}}}, absolute);
  sonew::Plan plan({{"a", {2}}}, absolute);
  sonew::Pool pool(1);
  Floats w{1, 2}, g{1, -1};
  auto &same = optimizer;
  optimizer = std::move(same);
  std::swap(optimizer, same);
  optimizer.step(w, g);
  CHECK(optimizer.step_count() == 1 && w[0] < 1);
  auto &same_plan = plan;
  plan = std::move(same_plan);
  CHECK(plan.planes(0).size() == 3);
  auto &same_pool = pool;
  pool = std::move(same_pool);
  CHECK(pool.get());
  optimizer.save("moved.safetensors");
  sonew::File file("moved.safetensors");
  auto &same_file = file;
  file = std::move(same_file);
  CHECK(file.info().tensor_count == 1);
  sonew::Saving saving = optimizer.save_begin("moved.safetensors");
  auto &same_saving = saving;
  saving = std::move(same_saving);
  saving.finish();
}

#ifdef REFUSED
static void refused(sonew::Optimizer &o, sonew::Plan &plan) {
  Floats w(3), g(3);
  std::vector<double> doubles(3);
  const Floats constant(3);
  const float constant_number = 0;
  std::deque<float> deque(3);
  std::valarray<float> valarray(3);
  std::list<float> list(3);
  std::vector<bool> bits(3);
  std::vector<int> integers(3);
  int few[3] = {};
  int rows[3][2] = {};
  Strided strided{w.data()};
  const std::vector<Floats> constants(2);
  sonew::TensorBuffers buffers;
  std::vector<Strided> views(2);
  std::vector<float *> pointers(2);
  float *list_of_pointers[2] = {};

  // Not one run.
  o.step(deque, g);                          // no: contiguous
  o.step(w, std::move(deque));               // no: contiguous
  o.step(valarray, g);                       // no: contiguous
  o.step({w, list}, {g, g});                 // no: contiguous
  o.step(strided, g);                        // no: contiguous
  o.step(bits, g);                           // no: contiguous
  o.step(views, g);                          // no: contiguous

  // No length.
  o.step(w.data(), g);                       // no: pointer does not know
  o.step({doubles.data(), w}, {g, g});       // no: pointer does not know
  o.step(w, {constant.data()});              // no: pointer does not know
  o.step(pointers, g);                       // no: pointer does not know
  o.step(list_of_pointers, g);               // no: pointer does not know
  o.step(w, pointers.data());                // no: pointer does not know

  // No such elements.
  o.step(integers, g);                       // no: elements are float
  o.step(few, g);                            // no: elements are float
  o.step(rows, g);                           // no: elements are float

  // Nothing would be seen of what is written.
  o.step(make(), g);                         // no: temporary
  o.step({w, std::move(doubles)}, {g, g});   // no: temporary
  o.load("a", std::array<float, 3>());       // no: temporary
  o.step(make_list(), {g, g});               // no: temporary
  o.step(Own<float>{}, g);                   // no: temporary
  o.step(1.0f, g);                           // no: temporary
  buffers.params = std::array<int, 3>();     // no: elements are float

  // They would be gone.
  auto stages = o.stages(w, make());         // no: temporary
  auto later = o.stages({w}, {Own<float>{}});  // no: temporary
  buffers.grad = std::array<double, 3>();    // no: temporary

  // They are constant.
  o.step(constant, g);                       // no: const
  o.load("a", {constant_number});            // no: const
  o.step(constants, g);                      // no: const
  buffers.direction = sonew::Span<const float>(w.data(), 3);  // no: const
}
#endif

int main() {
  accepted();
  moved_to_itself();
  std::puts("all accepted");
}
